import { type ModelConfig, presetConfig } from '../model/config.js'
import type { StageName, TrainConfig } from '../train/config.js'

/**
 * The model: one layer, 256 wide. One layer, because it must learn from nothing in minutes. Matrices start at N(0, 0.06), near 1 / sqrt(256): BERT's
 * 0.02 was chosen for a width of 768 and leaves almost nothing of the text in [CLS] at this width.
 */
export function modelConfig(vocab: number): ModelConfig {
  const shape = { layers: 1, hidden: 256, heads: 4, intermediate: 512, hiddenDropout: 0, attentionDropout: 0 }
  return { ...presetConfig('tiny', vocab), ...shape, source: { initializer_range: 0.06 } }
}

/**
 * What each stage changes of its defaults: the model starts from nothing and the corpus has some hundred articles, so rates are far above
 * BGE's, batches small (more steps), the temperature higher, and there is no dropout.
 */
export const settings: Readonly<Record<StageName, Partial<TrainConfig>>> = {
  pretrain: { epochs: 6, batchSize: 16, learningRate: 1e-3, maxLength: 64, saveEvery: 0 },
  contrastive: { epochs: 2, batchSize: 32, learningRate: 1e-3, temperature: 0.05, queryMaxLength: 64, passageMaxLength: 256, saveEvery: 0 },
  finetune: { epochs: 4, batchSize: 32, learningRate: 1e-4, temperature: 0.05, queryMaxLength: 64, passageMaxLength: 256, saveEvery: 0 },
}

/** Hard negatives: the pool has some hundred passages, so the range starts and ends early. */
export const mining = { range: [3, 40], negatives: 8, rules: { maxRelative: null }, storage: { cache: null } } as const
