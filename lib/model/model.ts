import { setImmediate as nextTurn } from 'node:timers/promises'
import { BgeError, invalidArgument } from '../errors.js'
import {
  type Device,
  type DeviceMemory,
  type Dtype,
  type Encoder,
  type EncoderConfig,
  type MlmHead,
  openDevice,
  type TokenBatch,
} from '../native.js'
import type { HubOptions } from '../hub/hub.js'
import { modelFolder } from '../hub/model.js'
import { Tokenizer } from '../tokenizer/tokenizer.js'
import {
  type Calibration,
  checkPairs,
  fitCalibration,
  type LabelledPairs,
  pairCosines,
  probabilities,
  readCalibration,
} from './calibrate.js'
import { type Checkpoint, loadParameters, type NamedTensor, openCheckpoint, readOthers } from './checkpoint.js'
import { type ModelConfig, type ModelSize, type Pooling, presetConfig } from './config.js'
import {
  checkMaxLength,
  type EncodeOptions,
  type EncodeProgress,
  type EncodeResult,
  type EncodingModel,
  encodeSequences,
  encodeTexts,
  type SequenceOptions,
} from './encode.js'
import { modelFingerprint } from './fingerprint.js'
import { type ModelDescription, readDescription } from './folder.js'
import { resolveInstruction } from './instruction.js'
import { isMlmHeadTensor, readMlmHead } from './mlm_head.js'
import { initialValues } from './parameters.js'
import type { Precision } from './precision.js'
import { saveFolder } from './save.js'
import { elements } from './weights.js'

export { loadMlmHead } from './mlm_head.js'
export { initialiseParameters, readParameters, writeParameters } from './parameters.js'

/** Of `BgeModel.load`. */
export interface LoadOptions {
  /** 'auto', 'cpu', 'cuda', 'cuda:1', or a device that is open already and stays open. Default 'auto' */
  device?: string | Device
  /** CPU threads; default: what the machine allows */
  threads?: number
  /** See DeviceOptions; for a device that is opened here */
  dtype?: Dtype
  /** Overrides what the folder says; needed where it says nothing */
  pooling?: Pooling
  /** Longest sequence, [CLS] and [SEP] included. Default: the folder's, at most max_position_embeddings */
  maxLength?: number
  /** Where a model that is named instead of a folder comes from: mirror, cache, progress. Default: the environment's HF_* variables */
  hub?: HubOptions
  /** For training: replaces both dropout probabilities of config.json. A save keeps config.json's. */
  dropout?: number
}

/** Of `BgeModel.createNew`: `size` or `config`, and a tokenizer. */
export interface NewModelOptions {
  /** tiny 2x128, small 4x512, base 12x768, large 24x1024 (layers x width) */
  size?: ModelSize
  /** Instead of `size`: any BERT shape; its vocabulary must hold the tokenizer's */
  config?: ModelConfig
  /** Folder with tokenizer.json or vocab.txt */
  tokenizerDir: string
  /** Integer from 0; the same seed gives the same weights. Default 42 */
  seed?: number
  /** Stored for queries: a string, 'zh' or 'en'. Default none */
  instruction?: string
  device?: string | Device
  threads?: number
}

/** Of `similarity` and `calibrate`. */
export interface SimilarityOptions {
  /** Put before the first text of a pair; 'zh' and 'en' name BGE's own */
  instruction?: string
  /** Compare the first n components (Matryoshka) */
  dimensions?: number
  signal?: AbortSignal
  onProgress?: (progress: EncodeProgress) => void
}

/** What `similarity` gives for n pairs; probabilities where the model is calibrated. */
export interface Similarities {
  /** (n) */
  cosines: Float64Array
  /** (n) that the pair belongs together */
  probabilities?: Float64Array
}

/** Tokens computed at a time by default. Fewer on the CPU, where a query or an abort waits longer for a micro-batch to end. */
export const defaultMicroBatchTokens: Readonly<Record<'cpu' | 'cuda', number>> = { cpu: 2048, cuda: 16_384 }

/** Words that every vocabulary can say something about; their vectors must survive a save. */
const probes = ['为这个句子生成表示', 'The quick brown fox, 1234.', '好']

/**
 * A BERT encoder with its tokenizer, pooling and query instruction (C-Pack, arXiv 2309.07597, section 3).
 * Free it with dispose(), or `await using`.
 */
export class BgeModel {
  readonly config: ModelConfig
  readonly tokenizer: Tokenizer
  readonly device: Device
  readonly encoder: Encoder
  /** D, the width of an embedding */
  readonly dims: number
  readonly maxLength: number
  /** The folder it was loaded from; undefined for a new model */
  readonly directory: string | undefined
  /** cls.predictions.* of the folder, for loadMlmHead */
  readonly storedMlmHead: ReadonlyMap<string, NamedTensor> | undefined
  /** What encodeQueries puts before a query; saved with the model. '' for none */
  instruction: string
  /** What its cosines mean, where that was measured; see `calibrate` */
  calibration: Calibration | undefined
  readonly #description: ModelDescription
  readonly #others: ReadonlyMap<string, NamedTensor>
  readonly #ownsDevice: boolean
  #disposed = false
  #pooledTurn: Promise<unknown> = Promise.resolve()

  private constructor(parts: ModelParts) {
    const { description, encoder } = parts
    this.config = description.config
    this.tokenizer = parts.tokenizer
    this.device = parts.device
    this.encoder = encoder
    this.dims = encoder.config.hidden
    this.maxLength = parts.maxLength
    this.directory = parts.directory
    this.storedMlmHead = parts.mlmHead
    this.instruction = description.instruction
    this.calibration = parts.calibration
    this.#description = description
    this.#others = parts.others
    this.#ownsDevice = parts.ownsDevice
  }

  /**
   * Loads a Hugging Face / sentence-transformers folder of a BERT model, or the hub's model of a name such as "BAAI/bge-small-zh-v1.5", which is downloaded
   * once. Errors: ERR_BGE_FILE, ERR_BGE_HUB, ERR_BGE_MODEL_FORMAT, ERR_BGE_NON_FINITE, ERR_BGE_POOLING where the folder does not say how to pool, ERR_BGE_TOKENIZER,
   * ERR_BGE_DEVICE_UNAVAILABLE, ERR_BGE_OOM.
   */
  static async load(model: string, options: LoadOptions = {}): Promise<BgeModel> {
    const { dropout } = options
    if (dropout !== undefined && !(dropout >= 0 && dropout < 1)) throw invalidArgument('dropout', 'a number from 0 to below 1', dropout)
    const directory = await modelFolder(model, options.hub)
    const description = await readDescription(directory, options.pooling)
    const { maxPositions } = description.config
    const tokenizer = await Tokenizer.load(directory, { lowerCase: description.lowerCase })
    checkVocabulary(tokenizer, description.config, directory)
    const stored = Math.min(description.maxLength ?? tokenizer.modelMaxLength ?? maxPositions, maxPositions)
    const maxLength = checkMaxLength(options.maxLength ?? stored, maxPositions)
    const calibration = await readCalibration(directory)
    const checkpoint = await openCheckpoint(directory)
    try {
      return await onDevice(options, async (device, ownsDevice) => {
        const encoder = device.encoder(encoderConfig(description, dropout))
        try {
          await loadParameters(encoder, checkpoint)
          const { mlmHead, others } = await readRest(checkpoint, encoder)
          return new BgeModel({ description, tokenizer, device, ownsDevice, encoder, maxLength, directory, mlmHead, others, calibration })
        } catch (error) {
          encoder.dispose()
          throw error
        }
      })
    } finally {
      await checkpoint.close()
    }
  }

  /**
   * A model with new weights: matrices N(0, initializer_range, by default 0.02), the [PAD] row zero, LayerNorm 1 and 0, biases 0, CLS pooling, L2-normalised.
   * The generator is in random.ts. Errors: ERR_BGE_ARGUMENT, ERR_BGE_TOKENIZER.
   */
  static async createNew(options: NewModelOptions): Promise<BgeModel> {
    const { size, seed = 42 } = options
    if (!Number.isSafeInteger(seed) || seed < 0) throw invalidArgument('seed', 'an integer from 0', seed)
    if ((size === undefined) === (options.config === undefined)) throw invalidArgument('size', 'given, or else config', size)
    const tokenizer = await Tokenizer.load(options.tokenizerDir)
    const config = options.config ?? presetConfig(size!, tokenizer.vocabSize)
    checkVocabulary(tokenizer, config, options.tokenizerDir)
    const range = config.source.initializer_range ?? 0.02
    if (typeof range !== 'number' || !(range > 0)) throw invalidArgument('config.source.initializer_range', 'a number above 0', range)
    const instruction = resolveInstruction(options.instruction)
    const description: ModelDescription = {
      config,
      pooling: 'cls',
      normalize: true,
      maxLength: config.maxPositions,
      lowerCase: false,
      instruction,
      sentenceConfig: {},
    }
    return onDevice(options, async (device, ownsDevice) => {
      const encoder = device.encoder(encoderConfig(description, undefined))
      for (const { name, shape } of encoder.parameters.list) {
        const values = initialValues(name, shape, seed, range)
        if (name === 'embeddings.word_embeddings.weight')
          values.fill(0, tokenizer.padId * config.hidden, (tokenizer.padId + 1) * config.hidden)
        await encoder.parameters.write(name, values)
        await nextTurn()
      }
      const { hidden } = config
      const pooler = { 'pooler.dense.weight': [hidden, hidden], 'pooler.dense.bias': [hidden] }
      const others = new Map(
        Object.entries(pooler).map(([name, shape]) => [name, { shape, values: initialValues(name, shape, seed, range) }]),
      )
      const maxLength = config.maxPositions
      return new BgeModel({
        description,
        tokenizer,
        device,
        ownsDevice,
        encoder,
        maxLength,
        directory: undefined,
        mlmHead: undefined,
        others,
        calibration: undefined,
      })
    })
  }

  get pooling(): Pooling {
    return this.#description.pooling
  }

  /**
   * Vectors of texts: data (n, d) row-major in the order of `texts`, dims [n, d]. The event loop stays free; the result does not depend on
   * `microBatchTokens`. Errors: ERR_BGE_TOKENIZER for a text that is not a string, ERR_BGE_ARGUMENT, ERR_BGE_CLOSED, ERR_BGE_NON_FINITE, the signal's
   * reason (within one micro-batch).
   */
  async encode<P extends Precision = 'float32'>(texts: readonly string[], options: EncodeOptions<P> = {}): Promise<EncodeResult<P>> {
    this.#checkOpen()
    return encodeTexts(this.#encoding, texts, options)
  }

  /** `encode` with the model's stored instruction, for the query side of retrieval. */
  encodeQueries<P extends Precision = 'float32'>(texts: readonly string[], options: EncodeOptions<P> = {}): Promise<EncodeResult<P>> {
    return this.encode(texts, { ...options, instruction: options.instruction ?? this.instruction })
  }

  /** As `encode`, for texts that are token ids already, [CLS] and [SEP] included: at most max_position_embeddings of the model's vocabulary. */
  async encodeTokens<P extends Precision = 'float32'>(
    sequences: readonly Int32Array[],
    options: SequenceOptions<P> = {},
  ): Promise<Pick<EncodeResult<P>, 'data' | 'dims' | 'precision'>> {
    this.#checkOpen()
    return encodeSequences(this.#encoding, sequences, options)
  }

  /**
   * Cosine of a[i] and b[i], and where the model is calibrated for this instruction and width, the probability that they belong together. Defaults: the
   * calibration's instruction (put before `a`) and dimensions, without one none and all. Errors: as `encode`; ERR_BGE_ARGUMENT for lists of unequal length.
   */
  async similarity(a: readonly string[], b: readonly string[], options: SimilarityOptions = {}): Promise<Similarities> {
    const { calibration } = this
    const { instruction = calibration?.instruction ?? '', dimensions = calibration?.dimensions ?? this.dims, ...rest } = options
    if (a.length !== b.length) throw invalidArgument('b', `as many texts as a, ${a.length}`, `${b.length} texts`)
    const prefix = resolveInstruction(instruction)
    const cosines = pairCosines(await this.#pairVectors(a, b, prefix, dimensions, rest), dimensions)
    const fits = calibration?.instruction === prefix && calibration.dimensions === dimensions
    return { cosines, ...(fits && { probabilities: probabilities(calibration, cosines) }) }
  }

  /**
   * Measures on labelled pairs what cosines of this model mean: the threshold for a precision (default 0.95), a monotone map of cosine to probability
   * (isotonic regression) and the ranges of int8 vectors. Keeps it as `calibration`; `save` writes it while the weights are those it was measured on.
   * Errors: ERR_BGE_ARGUMENT, also where no threshold has that precision; as `encode`.
   */
  async calibrate(pairs: LabelledPairs, options: SimilarityOptions & { precision?: number } = {}): Promise<Calibration> {
    checkPairs(pairs)
    const { instruction = '', dimensions = this.dims, precision = 0.95, ...rest } = options
    const prefix = resolveInstruction(instruction)
    const vectors = await this.#pairVectors(pairs.a, pairs.b, prefix, dimensions, rest)
    const fitted = fitCalibration(vectors, dimensions, pairs.labels, precision)
    this.calibration = { version: 1, fingerprint: await this.fingerprint(), instruction: prefix, ...fitted }
    return this.calibration
  }

  async #pairVectors(
    a: readonly string[],
    b: readonly string[],
    instruction: string,
    dimensions: number,
    options: Pick<EncodeOptions, 'signal' | 'onProgress'>,
  ): Promise<Float32Array> {
    const { data } = await this.encode([...a.map((text) => instruction + text), ...b], { ...options, output: { dimensions } })
    return data
  }

  /**
   * Writes a complete model folder, reads it back and compares every tensor and the vectors of a few texts before it replaces what was there.
   * With `mlmHead` the layout is BertForMaskedLM's. Errors: ERR_BGE_SAVE, ERR_BGE_NON_FINITE; then nothing has changed on disk.
   */
  async save(directory: string, options: { mlmHead?: MlmHead } = {}): Promise<void> {
    this.#checkOpen()
    const { encoder, tokenizer, instruction, maxLength } = this
    const calibration = (await this.#calibrationFits()) ? this.calibration : undefined
    const content = { ...this.#description, instruction, maxLength, encoder, mlmHead: options.mlmHead, others: this.#others, calibration }
    await saveFolder(directory, { ...content, padId: tokenizer.padId, tokenizerFiles: tokenizer.files }, async (written) => {
      const before = await this.encode(probes)
      const copy = await BgeModel.load(written, { device: this.device })
      try {
        const after = await copy.encode(probes)
        if (!before.data.every((x, i) => x === after.data[i]))
          throw new Error('the vectors of the written folder differ from those of the model')
      } finally {
        copy.dispose()
      }
    })
  }

  /** sha256 over weights, tokenizer, pooling, normalisation and instruction: equal fingerprints, comparable vectors. Reads all weights. */
  async fingerprint(): Promise<string> {
    this.#checkOpen()
    const { pooling, normalize } = this.#description
    const { encoder, instruction } = this
    return modelFingerprint({ encoder, tokenizerFingerprint: this.tokenizer.fingerprint, pooling, normalize, instruction })
  }

  /** Bytes. `parameters`: this model's weights; the rest is all that its device holds, and its workspace now and at its greatest. */
  memory(): { parameters: number } & DeviceMemory {
    this.#checkOpen()
    let parameters = 0
    for (const { shape } of this.encoder.parameters.list) parameters += 4 * elements(shape)
    return { parameters, ...this.device.memory() }
  }

  /** Frees the model, and its device unless that was passed in. Later calls throw ERR_BGE_CLOSED. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    if (this.#ownsDevice) this.device.dispose()
    else this.encoder.dispose()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose()
  }

  /** Vectors before normalisation, through the training path: its [CLS] rows, or the mean of its hidden rows. One at a time: it keeps activations. */
  #pooled(batch: TokenBatch): Promise<Float32Array> {
    const turn = this.#pooledTurn.then(() => (this.pooling === 'cls' ? this.#hiddenRows(batch, 'cls') : this.#meanRows(batch)))
    this.#pooledTurn = turn.catch(() => {})
    return turn
  }

  async #hiddenRows(batch: TokenBatch, which: 'cls' | 'hidden'): Promise<Float32Array> {
    const output = await this.encoder.forward(batch)
    try {
      return await output[which].toArray()
    } finally {
      for (const tensor of [output.hidden, output.cls, output.embeddings]) tensor.dispose()
      await this.encoder.discard()
    }
  }

  async #meanRows(batch: TokenBatch): Promise<Float32Array> {
    const { ids, cuSeqlens } = batch
    const hidden = await this.#hiddenRows({ ...batch, rows: Int32Array.from(ids, (_, t) => t) }, 'hidden') // (T, C)
    const count = cuSeqlens.length - 1
    const means = new Float32Array(count * this.dims)
    for (let n = 0; n < count; n++) {
      const [start, end] = [cuSeqlens[n]!, cuSeqlens[n + 1]!]
      for (let c = 0; c < this.dims; c++) {
        let sum = 0
        for (let t = start; t < end; t++) sum += hidden[t * this.dims + c]!
        means[n * this.dims + c] = sum / (end - start)
      }
    }
    return means
  }

  async #calibrationFits(): Promise<boolean> {
    return this.calibration !== undefined && this.calibration.fingerprint === (await this.fingerprint())
  }

  get #encoding(): EncodingModel {
    const { encoder, tokenizer, maxLength } = this
    return {
      encoder,
      tokenizer,
      maxLength,
      microBatchTokens: defaultMicroBatchTokens[this.device.kind],
      ranges: (dimensions) => (this.calibration?.dimensions === dimensions ? this.calibration.ranges : undefined),
      pooled: (batch) => this.#pooled(batch),
    }
  }

  #checkOpen(): void {
    if (this.#disposed) throw new BgeError('ERR_BGE_CLOSED', 'the model was disposed and cannot be used any more')
  }
}

interface ModelParts {
  description: ModelDescription
  tokenizer: Tokenizer
  device: Device
  ownsDevice: boolean
  encoder: Encoder
  maxLength: number
  directory: string | undefined
  mlmHead: ReadonlyMap<string, NamedTensor> | undefined
  others: ReadonlyMap<string, NamedTensor>
  calibration: Calibration | undefined
}

/** Opens the device where a name was given, and closes it again if `work` fails. */
async function onDevice<T>(options: LoadOptions, work: (device: Device, ownsDevice: boolean) => Promise<T>): Promise<T> {
  const { device: given, threads, dtype } = options
  if (typeof given === 'object') return work(given, false)
  const device = await openDevice({
    device: given ?? 'auto',
    ...(threads !== undefined && { threads }),
    ...(dtype !== undefined && { dtype }),
  })
  try {
    return await work(device, true)
  } catch (error) {
    device.dispose()
    throw error
  }
}

function encoderConfig({ config, pooling, normalize }: ModelDescription, dropout: number | undefined): EncoderConfig {
  const { source: _, ...shape } = config
  return { ...shape, ...(dropout !== undefined && { hiddenDropout: dropout, attentionDropout: dropout }), pooling, normalize }
}

async function readRest(
  checkpoint: Checkpoint,
  encoder: Encoder,
): Promise<{ mlmHead: ModelParts['mlmHead']; others: ModelParts['others'] }> {
  const own = new Set(encoder.parameters.list.map(({ name }) => name))
  const hasHead = [...checkpoint.tensors.keys()].some(isMlmHeadTensor)
  const mlmHead = hasHead ? await readMlmHead(checkpoint, await encoder.parameters.read('embeddings.word_embeddings.weight')) : undefined
  return { mlmHead, others: await readOthers(checkpoint, (name) => own.has(name) || isMlmHeadTensor(name)) }
}

function checkVocabulary(tokenizer: Tokenizer, config: ModelConfig, folder: string): void {
  if (tokenizer.vocabSize > config.vocab) {
    throw new BgeError(
      'ERR_BGE_MODEL_FORMAT',
      `${folder}: vocab_size must be at least ${tokenizer.vocabSize}, the tokenizer's, but was ${config.vocab}`,
    )
  }
}
