import { chooseBatch, readPairs } from '../data/pairs.js'
import { tokenCache } from '../data/tokens.js'
import { BgeError } from '../errors.js'
import { resolveInstruction } from '../model/instruction.js'
import type { BgeModel } from '../model/model.js'
import type { ContrastiveOptions } from '../native.js'
import type { TrainConfig } from './config.js'
import { gradCache, type TokenizedGroup } from './gradcache.js'
import { byWidth, checkLength, COMMON, type Stage, type StageContext, type StageRun } from './stage.js'
import { textCard } from './summary.js'

/** B queries, B*G passages (the positive of each query first), and what names their texts. */
export interface ContrastiveBatch {
  readonly queries: TokenizedGroup
  readonly passages: TokenizedGroup
  readonly ids: Pick<ContrastiveOptions, 'passageIds' | 'queryIds' | 'positiveOffsets' | 'positiveIds' | 'sourceIds'>
  readonly teacher?: Float32Array
}

/**
 * Stage 2, contrastive:  -log e^{<q,p>/t} / sum_{p' in batch} e^{<q,p'>/t}  (C-Pack section 3.2), in-batch negatives only.
 * Rows `{"query","pos":[...]}`. Metrics: loss, accuracy, masked (candidates removed because they are a positive by identity), and with
 * falseNegatives the number of other candidates that were removed by their score.
 */
export const contrastive: Stage<ContrastiveBatch> = {
  name: 'contrastive',
  defaults: {
    ...COMMON,
    epochs: 1, // BGE-M3's; not recorded for BGE (recipe.md 3.1)
    batchSize: 256, // BGE: 19,200 (3.1); 256 is the smallest of the paper's Table 4
    weightDecay: 0, // TrainingArguments
    queryMaxLength: 128, // 3.1
    passageMaxLength: 128, // 3.1
  },
  learningRate: byWidth(3e-5, 2e-5, 1e-5), // 3.1
  open: openPairs,
}

/** Stage 3, task-specific fine-tuning: the same loss; what changes is the data: an instruction before each query, mined negatives in each group. */
export const finetune: Stage<ContrastiveBatch> = {
  name: 'finetune',
  defaults: {
    ...COMMON,
    epochs: 5, // recipe.md 3.1
    batchSize: 64, // not recorded for BGE
    groupSize: 2, // 1 positive + 1 hard negative (3.1)
    weightDecay: 0, // TrainingArguments
    queryMaxLength: 64, // FlagEmbedding's example (3.4)
    passageMaxLength: 256, // FlagEmbedding's example (3.4)
    instruction: 'zh', // BGE's instruction for Chinese (1.4)
  },
  learningRate: byWidth(3e-5, 2e-5, 1e-5), // 3.4
  open: openPairs,
}

async function openPairs({ model, files, config }: StageContext): Promise<StageRun<ContrastiveBatch>> {
  checkObjective(model, config)
  const { encoder, device, tokenizer } = model
  const data = await readPairs(files, { groupSize: config.groupSize, scores: config.distillation !== 'none' })
  const instruction = resolveInstruction(config.instruction)
  model.instruction = instruction // saved with the model: what queries were trained with is what they must be encoded with
  const queryText = (row: number): string => {
    const { query, prompt } = data.rows[row]!
    return (prompt ?? instruction) + data.queries[query]!
  }
  const queryTokens = tokenCache(tokenizer, queryText, config.queryMaxLength)
  const passageTokens = tokenCache(tokenizer, (i) => data.passages[i]!, config.passageMaxLength)

  return {
    modules: { encoder },
    sources: config.sameSource ? data.sources : [{ name: 'the data', start: 0, end: data.rows.length }],
    positives: data.queries.reduce((most, _, query) => Math.max(most, data.positives(query).length), 0),
    truncation: () => ({
      texts: queryTokens.stats.texts + passageTokens.stats.texts,
      truncated: queryTokens.stats.truncated + passageTokens.stats.truncated,
    }),

    texts: () => ({
      query: textCard(queryTokens, data.queries.length, config.queryMaxLength),
      passage: textCard(passageTokens, data.passages.length, config.passageMaxLength),
    }),

    async prepare(rows, epoch, signal) {
      const { passageIds, teacher, ...ids } = chooseBatch(data, rows, { ...config, epoch })
      const queries = await queryTokens.get(rows, signal)
      const passages = await passageTokens.get(passageIds, signal)
      const known = {
        ...(config.duplicates === 'mask' && { passageIds, ...ids }),
        ...(config.candidates === 'source' && { sourceIds: rows.map((row) => data.sources.findIndex(({ end }) => row < end)) }),
      }
      return { queries, passages, ids: known, ...(teacher && { teacher }) }
    },

    async step(batch, key, signal, keepBytes) {
      const { loss, accuracy, masked, falseNegatives } = await gradCache(
        encoder,
        device,
        [batch.queries, batch.passages],
        async ([Q, P]) => {
          const { dQ, dP, ...result } = await device.contrastive(Q!, P!, {
            ...objective(config),
            ...batch.ids,
            ...(batch.teacher && { teacher: batch.teacher }),
          })
          return { ...result, gradients: [dQ, dP] }
        },
        { microBatchTokens: config.microBatchTokens, key, ...(keepBytes !== undefined && { keepBytes }), ...(signal && { signal }) },
      )
      const tokens = [...batch.queries, ...batch.passages].reduce((sum, sequence) => sum + sequence.length, 0)
      return { loss, tokens, accuracy, masked, ...(config.falseNegatives !== 'keep' && { falseNegatives }) }
    },

    save: (directory) => model.save(directory),
  }
}

function objective(config: TrainConfig): ContrastiveOptions {
  const { temperature, groupSize, candidates, direction, falseNegatives, falseNegativeMargin, distillation, matryoshka } = config
  return {
    temperature,
    groupSize,
    candidates,
    direction,
    ...(falseNegatives !== 'keep' && { falseNegatives, falseNegativeMargin }),
    ...(distillation !== 'none' && { distillation, infoNce: distillation === 'kl_div' ? 1 : 0 }),
    ...(matryoshka.length > 0 && { matryoshka }),
  }
}

function checkObjective(model: BgeModel, config: TrainConfig): void {
  checkLength(model, 'queryMaxLength', config.queryMaxLength)
  checkLength(model, 'passageMaxLength', config.passageMaxLength)
  const width = model.encoder.config.hidden
  const tooWide = config.matryoshka.find((dims) => dims > width)
  if (tooWide !== undefined) {
    throw new BgeError('ERR_BGE_CONFIG', `matryoshka must hold widths of at most ${width}, the model's, but was ${tooWide}`, {
      details: { key: 'matryoshka' },
    })
  }
  if (!model.encoder.config.normalize) {
    throw new BgeError(
      'ERR_BGE_MODEL_FORMAT',
      'contrastive training needs a model that normalises its embeddings, but modules.json has no Normalize module',
    )
  }
  checkCombination(config)
  const perQuery = config.candidates === 'group' ? config.groupSize : config.groupSize * config.batchSize
  if (perQuery === 1) {
    throw new BgeError(
      'ERR_BGE_NOTHING_TO_LEARN',
      `1 candidate per query: nothing to learn; raise ${config.candidates === 'group' ? 'groupSize' : 'batchSize or groupSize'}`,
    )
  }
  if (config.distillation !== 'none' && config.groupSize === 1) {
    throw new BgeError('ERR_BGE_NOTHING_TO_LEARN', '1 candidate per query: nothing to learn from teacher scores; raise groupSize')
  }
}

/** Words that contradict each other. */
function checkCombination({ candidates, direction, falseNegatives, distillation }: TrainConfig): void {
  const refuse = (key: keyof TrainConfig, sentence: string): never => {
    throw new BgeError('ERR_BGE_CONFIG', sentence, { details: { key } })
  }
  if (direction === 'symmetric' && candidates === 'group') {
    refuse('direction', "direction must be 'query-to-passage' where candidates is 'group': a group holds one query, but was 'symmetric'")
  }
  if (direction === 'symmetric' && distillation === 'm3_kd_loss') {
    refuse(
      'direction',
      "direction must be 'query-to-passage' where distillation is 'm3_kd_loss', which has no InfoNCE term, but was 'symmetric'",
    )
  }
  if (falseNegatives === 'in-batch' && candidates === 'group') {
    refuse(
      'falseNegatives',
      "falseNegatives must be 'keep' or 'all' where candidates is 'group': there are no in-batch negatives, but was 'in-batch'",
    )
  }
}
