import { setImmediate as nextTurn } from 'node:timers/promises'
import { packBatches } from '../data/batch.js'
import { readTexts } from '../data/texts.js'
import { tokenCache } from '../data/tokens.js'
import { BgeError } from '../errors.js'
import { loadMlmHead } from '../model/model.js'
import { initialiseParameters } from '../model/parameters.js'
import { maskExample, packExamples, type RetroMaeBatch, type RetroMaeExample } from './collator.js'
import { clsGain } from './cls_gain.js'
import { addTo, byWidth, checkLength, COMMON, type Stage } from './stage.js'
import { textCard } from './summary.js'

/** Time in ms after which masking gives way to the event loop, which hands the device its next call. */
const SLICE_MS = 4

/** Micro-batches of one optimizer step, and the counts that make their losses means over the whole batch. */
interface PretrainBatch {
  readonly microBatches: readonly RetroMaeBatch[]
  readonly encoderCount: number
  readonly decoderCount: number
  readonly tokens: number
}

/**
 * Stage 1, RetroMAE (Xiao et al. 2022, arXiv 2205.12035; C-Pack section 3.2):  min sum_x -log Dec(x | e(X~)),  e(X~) = Enc(X~), plus the
 * encoder's own masked-language-model loss, weights 1:1. Rows `{"text"}`; one row is one example, cut at maxLength.
 * Metrics: loss = encoderLoss + decoderLoss (means over predicted tokens), encoderAccuracy, decoderAccuracy; now and then clsGain and
 * clsGainShuffled (cls_gain.ts).
 */
export const pretrain: Stage<PretrainBatch> = {
  name: 'pretrain',
  defaults: {
    ...COMMON,
    epochs: 2, // FlagEmbedding's example command (recipe.md 2.1)
    batchSize: 32, // BGE: 720 = 24 GPUs x 30 (2.1)
    weightDecay: 0.01, // RetroMAE's example; not recorded for BGE (2.1)
  },
  learningRate: byWidth(1.5e-4, 1e-4, 5e-5), // 2.1, FlagEmbedding issue 96

  async open({ model, files, config }) {
    checkLength(model, 'maxLength', config.maxLength)
    const { encoder, device, tokenizer } = model
    const texts = await readTexts(files)
    const tokens = tokenCache(tokenizer, (i) => texts[i]!, config.maxLength)
    const mlmHead = await loadMlmHead(model, config.seed)
    const decoder = device.enhancedDecoder(encoder, mlmHead)
    await initialiseParameters(decoder, config.seed) // not part of a model folder (recipe 2.4)

    return {
      modules: { encoder, mlm_head: mlmHead, decoder },
      sources: [{ name: 'the data', start: 0, end: texts.length }],
      truncation: () => ({ texts: tokens.stats.texts, truncated: tokens.stats.truncated }),
      texts: () => ({ text: textCard(tokens, texts.length, config.maxLength) }),

      async prepare(rows, epoch, signal) {
        const sequences = await tokens.get(rows, signal)
        const examples: RetroMaeExample[] = []
        let sliceEnd = performance.now() + SLICE_MS
        for (const [i, ids] of sequences.entries()) {
          examples.push(maskExample(ids, tokenizer, { ...config, epoch, index: rows[i]! }))
          if (performance.now() < sliceEnd) continue
          await nextTurn()
          signal?.throwIfAborted()
          sliceEnd = performance.now() + SLICE_MS
        }
        const lengths = Int32Array.from(sequences, (ids) => ids.length)
        const microBatches = packBatches(lengths, config.microBatchTokens).map((indices) => packExamples(examples, indices))
        const sum = (count: (micro: RetroMaeBatch) => number): number => microBatches.reduce((total, micro) => total + count(micro), 0)
        return {
          microBatches,
          encoderCount: sum((micro) => micro.encoderLabels.length),
          decoderCount: sum((micro) => micro.decoderCount),
          tokens: sum((micro) => micro.encoder.ids.length),
        }
      },

      async step(batch, key, signal) {
        if (batch.encoderCount === 0 || batch.decoderCount === 0) {
          throw new BgeError(
            'ERR_BGE_DATA',
            `step ${key.step}: expected at least one token to predict, but every text of the batch is empty or unknown`,
          )
        }
        const mlm = { loss: 0, correct: 0, count: 0 }
        const mae = { loss: 0, correct: 0, count: 0 }
        for (const micro of batch.microBatches) {
          signal?.throwIfAborted()
          const { hidden, cls, embeddings } = await encoder.forward(micro.encoder, key)
          const head = micro.encoderLabels.length > 0 ? await mlmHead.step(hidden, micro.encoderLabels, 1 / batch.encoderCount) : undefined
          const enhanced = await decoder.step(cls, micro.decoder, key, 1 / batch.decoderCount)
          await encoder.backward({ dCls: enhanced.dCls, ...(head && { dHidden: head.dHidden }) })
          for (const tensor of [hidden, cls, embeddings, head?.dHidden, enhanced.dCls]) tensor?.dispose()
          if (head) addTo(mlm, head)
          addTo(mae, enhanced)
        }
        const encoderLoss = mlm.loss / mlm.count
        const decoderLoss = mae.loss / mae.count
        return {
          loss: encoderLoss + decoderLoss,
          tokens: batch.tokens,
          encoderLoss,
          decoderLoss,
          encoderAccuracy: mlm.correct / mlm.count,
          decoderAccuracy: mae.correct / mae.count,
        }
      },

      probe: ({ microBatches }, signal) => clsGain(device, encoder, decoder, microBatches, signal),

      save: (directory) => model.save(directory, { mlmHead }),
    }
  },
}
