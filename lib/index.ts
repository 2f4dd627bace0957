export { BgeError, type BgeErrorCode } from './errors.js'
export {
  BgeModel,
  type LoadOptions,
  type NewModelOptions,
} from './model/model.js'
export type { ModelConfig, ModelSize, Pooling } from './model/config.js'
export type { EncodeOptions, EncodeProgress, EncodeResult } from './model/encode.js'
export type { Embedder } from './model/embedder.js'
export { instructions } from './model/instruction.js'
export { type SearchDevice, type VectorIndex, vectorIndex } from './model/search.js'
export { type Device, type DeviceOptions, openDevice } from './native.js'
export { Tokenizer } from './tokenizer/tokenizer.js'
export type { StageName, TrainConfig } from './train/config.js'
export { train, type TrainHooks, type TrainOptions, type TrainResult } from './train/loop.js'
export type { MetricsRow } from './train/run_folder.js'
export { stages } from './train/stages.js'
export { mine, type MineOptions, type MineResult, type MiningModel } from './mine/mine.js'
export { evaluate, type EvaluatedModel, type EvaluateOptions } from './eval/evaluate.js'
export type { Evaluation, TaskFailure, TaskOutcome, TaskResult } from './eval/evaluation.js'
export { listTasks, type Task, type TaskType } from './eval/tasks.js'
export * as metrics from './eval/metrics.js'
