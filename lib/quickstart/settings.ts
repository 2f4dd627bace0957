import type { StageName, TrainConfig } from '../train/config.js'

/**
 * What a stage of the quickstart changes of its defaults. The model is tiny and starts from nothing, the corpus has some hundred articles: rates are
 * far above BGE's and epochs many, so that minutes are enough.
 */
export const settings: Readonly<Record<StageName, Partial<TrainConfig>>> = {
  pretrain: { epochs: 8, batchSize: 16, learningRate: 1e-3, maxLength: 256, saveEvery: 0 },
  contrastive: { epochs: 4, batchSize: 64, learningRate: 5e-4, temperature: 0.02, queryMaxLength: 96, passageMaxLength: 256, saveEvery: 0 },
  finetune: { epochs: 3, batchSize: 32, learningRate: 2e-4, temperature: 0.02, queryMaxLength: 64, passageMaxLength: 256, saveEvery: 0 },
}

/** Hard negatives: the pool has some hundred passages, so the range starts and ends early. */
export const mining = { range: [3, 40], negatives: 8 } as const
