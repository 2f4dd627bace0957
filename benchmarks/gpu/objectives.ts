// Our side of the sections about the heads, the steps of the three stages, the optimizer and the search.
import { random } from '../../lib/data/random.js'
import type { Tensor } from '../../lib/native.js'
import { maskExample, packExamples } from '../../lib/train/collator.js'
import { gradCache } from '../../lib/train/gradcache.js'
import { activationBytes } from '../../lib/train/plan_replay.js'
import { textsOf } from './encoder.js'
import { eachVariant, noise, percentile, randomise, type Section, timed } from './support.js'
import { buildTokenBatch } from '../../lib/data/batch.js'

/** The masked-language-model head: transform, vocabulary, loss, and the gradients of its input and its weights. */
export const mlm: Section<'mlm'> = async (sizes, device) => {
  const { hidden: width, vocab } = sizes.config
  const encoder = device.encoder(sizes.config)
  const head = device.mlmHead(encoder)
  await randomise(encoder, head)
  const hidden = device.tensor(noise(sizes.rows * width), sizes.rows, width)
  const draw = random(6, 'labels')
  const labels = Int32Array.from({ length: sizes.rows }, () => draw.int(vocab))
  return {
    measure: () =>
      eachVariant({
        ours: async (facts) => {
          let loss = 0
          const seconds = await timed(device, sizes, async () => {
            const result = await head.step(hidden, labels, 1 / sizes.rows)
            result.dHidden.dispose()
            loss = result.loss / sizes.rows
          })
          Object.assign(facts, { loss, workspaceBytes: device.memory().workspacePeak })
          return seconds
        },
      }),
    close: () => {
      hidden.dispose()
      head.dispose()
      encoder.dispose()
    },
  }
}

/** Stage 1: encoder, MLM head, enhanced decoder, backward, AdamW. Masks are drawn beforehand, for both sides. */
export const retromae: Section<'retromae'> = async (sizes, device) => {
  const encoder = device.encoder(sizes.config)
  const head = device.mlmHead(encoder)
  const decoder = device.enhancedDecoder(encoder, head)
  await randomise(encoder, head, decoder)
  const adamW = device.adamW([encoder, head, decoder], { weightDecay: 0.01 })
  const [cls, sep] = [101, 102]
  const vocabulary = {
    clsId: cls,
    sepId: sep,
    maskId: 103,
    unkId: 100,
    vocabSize: sizes.config.vocab,
    isContinuation: () => false,
    isSpecial: (id: number) => id < 104,
  }
  const { maskRatio: encoderMaskRatio, decoderMaskRatio } = sizes
  const examples = textsOf(new Array<number>(sizes.texts).fill(sizes.tokens), sizes.config.vocab).map((ids, index) => {
    ids[0] = cls
    ids[ids.length - 1] = sep
    return maskExample(ids, vocabulary, { encoderMaskRatio, decoderMaskRatio, seed: 7, epoch: 0, index })
  })
  const micro = packExamples(examples, [...examples.keys()])
  let step = 0
  let losses: Record<string, number> = {}
  const run = async (): Promise<void> => {
    const key = { seed: 1n, step: step++ }
    const { hidden, cls, embeddings } = await encoder.forward(micro.encoder, key)
    const predicted = await head.step(hidden, micro.encoderLabels, 1 / micro.encoderLabels.length)
    const enhanced = await decoder.step(cls, micro.decoder, key, 1 / micro.decoderCount)
    await encoder.backward({ dCls: enhanced.dCls, dHidden: predicted.dHidden })
    for (const tensor of [hidden, cls, embeddings, predicted.dHidden, enhanced.dCls]) tensor.dispose()
    const gradientNorm = await adamW.step(1e-5, 1)
    losses = { encoderLoss: predicted.loss / predicted.count, decoderLoss: enhanced.loss / enhanced.count, gradientNorm }
  }
  return {
    measure: () =>
      eachVariant({
        ours: async (facts) => {
          const seconds = await timed(device, sizes, run)
          Object.assign(facts, losses, { memory: device.memory() })
          return seconds
        },
      }),
    close: () => {
      for (const module of [adamW, decoder, head, encoder]) module.dispose()
    },
  }
}

/** Stage 2 at a large batch: both passes, the loss, clipping, AdamW. */
export const gradcache: Section<'gradcache'> = async (sizes, device) => {
  const { pairs, tokens, temperature, plainPairs } = sizes
  const encoder = device.encoder(sizes.config)
  await randomise(encoder)
  const adamW = device.adamW([encoder], {})
  const texts = textsOf(new Array<number>(2 * pairs).fill(tokens), sizes.config.vocab)
  let loss = 0
  const contrastive = async ([Q, P]: readonly Tensor[]): Promise<{ gradients: Tensor[] }> => {
    const result = await device.contrastive(Q!, P!, { temperature })
    loss = result.loss
    return { gradients: [result.dQ, result.dP] }
  }
  let step = 0
  // As a run does it: activations are kept in what is free, here three quarters of it, but no more than there are.
  const all = activationBytes(sizes.config, device, { tokens: 2 * pairs * tokens, sequences: 2 * pairs, longest: tokens })
  const keepBytes = Math.floor(Math.min(0.75 * ((await device.memoryInfo())?.free ?? 0), 1.01 * all))
  await encoder.reserve(keepBytes)
  const accumulate = (count: number, microBatchTokens: number): Promise<unknown> =>
    gradCache(encoder, device, [texts.slice(0, count), texts.slice(pairs, pairs + count)], contrastive, {
      microBatchTokens,
      keepBytes,
      key: { seed: 1n, step: step++ },
    })
  let plain: number | undefined
  return {
    measure: () =>
      eachVariant(
        Object.fromEntries(
          sizes.microBatchTokens.map((budget) => [
            `ours ${budget} tokens`,
            async (facts) => {
              // Two micro-batches: every shape of the big step is warm.
              await accumulate(Math.min(pairs, Math.ceil(budget / tokens)), budget)
              if (plain === undefined) {
                const whole = 2 * plainPairs * tokens // one micro-batch: nothing is computed twice
                const runs = await timed(device, { ...sizes, warmups: 1, repeat: 3 }, () => accumulate(plainPairs, whole))
                plain = percentile(runs, 0.5)
              }
              await adamW.step(0, 1)
              let gradientNorm = 0
              const seconds = await timed(device, sizes, async () => {
                await accumulate(pairs, budget)
                gradientNorm = await adamW.step(1e-5, 1)
              })
              const timesPlainStep = percentile(seconds, 0.5) / pairs / (plain / plainPairs)
              Object.assign(facts, { plainSeconds: plain, timesPlainStep, keepBytes, loss, gradientNorm, memory: device.memory() })
              return seconds
            },
          ]),
        ),
      ),
    close: () => {
      adamW.dispose()
      encoder.dispose()
    },
  }
}

/** Stage 3: a query, its positive and a hard negative, in-batch negatives, one micro-batch: nothing is computed twice; clipping, AdamW. */
export const finetune: Section<'finetune'> = async (sizes, device) => {
  const { queries, queryTokens, passageTokens, groupSize, temperature } = sizes
  const encoder = device.encoder(sizes.config)
  await randomise(encoder)
  const adamW = device.adamW([encoder], {})
  const tokens = queries * (queryTokens + groupSize * passageTokens)
  const lengths = [...new Array<number>(queries).fill(queryTokens), ...new Array<number>(queries * groupSize).fill(passageTokens)]
  const texts = textsOf(lengths, sizes.config.vocab)
  let [step, loss, gradientNorm] = [0, 0, 0]
  const contrastive = async ([Q, P]: readonly Tensor[]): Promise<{ gradients: Tensor[] }> => {
    const result = await device.contrastive(Q!, P!, { temperature, groupSize })
    loss = result.loss
    return { gradients: [result.dQ, result.dP] }
  }
  const run = async (): Promise<void> => {
    const key = { seed: 1n, step: step++ }
    await gradCache(encoder, device, [texts.slice(0, queries), texts.slice(queries)], contrastive, { microBatchTokens: tokens, key })
    gradientNorm = await adamW.step(1e-5, 1)
  }
  return {
    measure: () =>
      eachVariant({
        ours: async (facts) => {
          const seconds = await timed(device, sizes, run)
          Object.assign(facts, { loss, gradientNorm, memory: device.memory() })
          return seconds
        },
      }),
    close: () => {
      adamW.dispose()
      encoder.dispose()
    },
  }
}

/** Norm, clipping, update, zeroed gradients. Before each run a small backward pass makes gradients that are not zero. */
export const adamw: Section<'adamw'> = async (sizes, device) => {
  const encoder = device.encoder(sizes.config)
  await randomise(encoder)
  const adamW = device.adamW([encoder], { weightDecay: 0.01 })
  const [ids] = textsOf([8], sizes.config.vocab)
  const batch = buildTokenBatch([ids!], [0])
  const dCls = device.tensor(noise(sizes.config.hidden), 1, sizes.config.hidden)
  const gradient = async (): Promise<void> => {
    const outputs = await encoder.forward(batch)
    await encoder.backward({ dCls })
    for (const tensor of Object.values(outputs)) tensor.dispose()
  }
  return {
    measure: () =>
      eachVariant({
        ours: async (facts) => {
          let gradientNorm = 0
          const update = async (): Promise<void> => {
            gradientNorm = await adamW.step(1e-5, 1)
          }
          const seconds = await timed(device, sizes, update, gradient)
          facts['gradientNorm'] = gradientNorm
          return seconds
        },
      }),
    close: () => {
      dCls.dispose()
      adamW.dispose()
      encoder.dispose()
    },
  }
}

/** Exact inner-product search, indices and scores on the host. */
export const topk: Section<'topk'> = async (sizes, device) => {
  const { queries, passages, width, k } = sizes
  const q = device.tensor(noise(queries * width), queries, width)
  const p = device.tensor(noise(passages * width, 1, 0, 2), passages, width)
  return {
    measure: () =>
      eachVariant({
        ours: async (facts) => {
          const seconds = await timed(device, sizes, async () => {
            const { indices } = await device.topK(q, p, k)
            facts['firstIndices'] = [...indices.subarray(0, 4)]
          })
          return seconds
        },
      }),
    close: () => {
      q.dispose()
      p.dispose()
    },
  }
}
