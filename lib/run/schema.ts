import type { Schema } from '../data/check.js'
import { CMTEB_SETS } from '../eval/cmteb/tasks.js'
import { configSchema } from '../train/config.js'

/** What a step does. */
export type Verb = 'curate' | 'split' | 'new' | 'pretrain' | 'contrastive' | 'finetune' | 'mine' | 'merge' | 'evaluate'

const text: Schema = { type: 'string', minLength: 1 }
const model: Schema = {
  description:
    'a model: a step that makes one, an input, or a folder; default: the last step before that makes one, else the input "model"',
  ...text,
}
const data: Schema = {
  description: 'rows: a step (curate, mine, NAME.train or NAME.dev of a split), an input, or files and folders',
  type: ['string', 'array'],
  minLength: 1,
  minItems: 1,
  items: text,
}
const seed: Schema = { type: 'integer', minimum: 0 }
const instruction: Schema = { description: 'put before every query; "" for none, "zh" and "en" for BGE\'s', type: 'string' }
const nullable = (description: string): Schema => ({ description, type: ['number', 'null'] })

const training = (stage: 'pretrain' | 'contrastive' | 'finetune'): Schema => ({
  type: 'object',
  additionalProperties: false,
  required: ['data'],
  properties: {
    model,
    data,
    pooling: { description: 'for a model folder that does not say how to pool', enum: ['cls', 'mean'] },
    dev: {
      ...data,
      description: 'rows whose nDCG@10 is taken at every checkpoint: the best becomes the model, and patience may stop the run',
    },
    ...configSchema(stage),
  },
})

/** The settings of each kind of step, `do` left out. */
export const STEP_SCHEMAS: Readonly<Record<Verb, Schema>> = {
  curate: {
    type: 'object',
    additionalProperties: false,
    required: ['recipe'],
    properties: {
      recipe: { description: 'a curation recipe (docs/curation.md)', ...text },
      model: { description: "of the semantic filter, instead of the recipe's", ...text },
      decontaminate: { description: '"cmteb" or folders of evaluation data, instead of the recipe\'s', type: 'array', items: text },
      tokenizer: { description: 'folder whose tokenizer counts tokens', ...text },
    },
  },
  split: {
    type: 'object',
    additionalProperties: false,
    required: ['data'],
    properties: {
      data,
      dev: { description: 'below 1 the share of all rows, from 1 rows; default 0.05', type: 'number', exclusiveMinimum: 0 },
      seed,
    },
  },
  new: {
    type: 'object',
    additionalProperties: false,
    required: ['size', 'tokenizer'],
    properties: {
      size: { enum: ['tiny', 'small', 'base', 'large'] },
      tokenizer: { description: 'folder with tokenizer.json or vocab.txt', ...text },
      seed,
    },
  },
  pretrain: training('pretrain'),
  contrastive: training('contrastive'),
  finetune: training('finetune'),
  mine: {
    type: 'object',
    additionalProperties: false,
    required: ['data'],
    properties: {
      model,
      data,
      pool: { ...data, description: 'passages to mine from; default: every positive and negative of the data' },
      range: { description: 'ranks [low, high), from 0', type: 'array', minItems: 2, items: { type: 'integer', minimum: 0 } },
      negatives: { description: 'per row', type: 'integer', minimum: 1 },
      sampling: { enum: ['random', 'top', 'pool'] },
      fill: { enum: ['random', 'none'] },
      rules: {
        description: "what a candidate's score may be; null switches a rule off (docs/mining.md)",
        type: 'object',
        additionalProperties: false,
        properties: {
          maxRelative: nullable("at most this share of the lowest positive's score"),
          margin: nullable("at most the lowest positive's score less this"),
          maxScore: nullable('cosine'),
          minScore: nullable('cosine'),
        },
      },
      teacher: { ...model, description: 'a model that scores candidates and positives instead' },
      scoreTemperature: { description: 'writes scores for distillation: cosines divided by this', type: 'number', exclusiveMinimum: 0 },
      instruction,
      seed,
    },
  },
  merge: {
    type: 'object',
    additionalProperties: false,
    required: ['models'],
    properties: {
      models: {
        description: 'model -> its weight; weights sum to 1',
        type: 'object',
        minProperties: 2,
        additionalProperties: { type: 'number', minimum: 0, maximum: 1 },
      },
      instruction,
    },
  },
  evaluate: {
    type: 'object',
    additionalProperties: false,
    properties: {
      model,
      data: { ...data, description: `${data.description}; each query looks for its positives among all passages of data and corpus` },
      corpus: { ...data, description: 'rows whose passages are searched too' },
      tasks: { description: 'folder of tasks in the layout of bge eval', ...text },
      cmteb: { description: 'a set of C-MTEB', enum: Object.keys(CMTEB_SETS) },
      cmtebData: { description: 'folder that bge cmteb pull made; default: the cache, else the hub', ...text },
      instruction: {
        description: `${instruction.description}; of a list the one that does best on data, so that a model is not made to look bad by the wrong one`,
        type: ['string', 'array'],
        minItems: 1,
        items: { type: 'string' },
      },
      maxLength: { description: 'tokens, [CLS] and [SEP] included', type: 'integer', minimum: 3 },
      against: { description: 'an evaluate step of the same data, to be compared with', ...text },
      seed,
    },
  },
}

export const VERBS: readonly Verb[] = Object.keys(STEP_SCHEMAS) as Verb[]

/** `do` may be left out where the name of a step is what it does. */
const withVerb = (verb: Verb, need: 'required' | 'optional'): Schema => ({
  ...STEP_SCHEMAS[verb],
  required: [...(need === 'required' ? ['do'] : []), ...(STEP_SCHEMAS[verb].required ?? [])],
  properties: { do: { const: verb }, ...STEP_SCHEMAS[verb].properties },
})

/** What a file of `bge run` may hold once it is put together with those it extends: schemas/run.schema.json is made of this. */
export const RUN_SCHEMA: Schema = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  title: 'Training recipe of bge-forge (bge run)',
  type: 'object',
  additionalProperties: false,
  required: ['name', 'steps'],
  properties: {
    $schema: { type: 'string' },
    name: { description: 'of the recipe', ...text },
    description: { type: 'string' },
    extends: { description: 'another recipe, a file or the name of one of this package: its keys hold where this one has none', ...text },
    root: { description: 'the folder that paths are relative to; default: that of the file', ...text },
    inputs: {
      description: 'names for files and folders; null: to be given with --input or --set',
      type: 'object',
      additionalProperties: { type: ['string', 'array', 'null'], minLength: 1, minItems: 1, items: text },
      default: {},
    },
    instruction: {
      ...instruction,
      description: `${instruction.description}; of every finetune, mine, merge and evaluate step that has none`,
    },
    seed: { description: 'of every step that has none; default 42', ...seed },
    device: { description: 'auto, cpu, cuda or cuda:N; of every step', type: 'string', pattern: '^(auto|cpu|cuda(:\\d+)?)$' },
    threads: { description: 'of every step; default: as many as the process may use', type: 'integer', minimum: 1 },
    steps: {
      description: 'name -> step, in the order in which they run; a step that is named after what it does needs no "do"',
      type: 'object',
      minProperties: 1,
      properties: Object.fromEntries(VERBS.map((verb) => [verb, withVerb(verb, 'optional')])),
      additionalProperties: { oneOf: VERBS.map((verb) => withVerb(verb, 'required')) },
    },
  },
}

/** schemas/run.schema.json: of a file, which may leave to another what it extends, and removes a step with null. */
export function runFileSchema(): Schema {
  const { steps } = RUN_SCHEMA.properties!
  const partial = (schema: Schema): Schema => ({ ...schema, required: [], type: ['object', 'null'] })
  return {
    ...RUN_SCHEMA,
    required: [],
    properties: {
      ...RUN_SCHEMA.properties,
      steps: {
        ...steps!,
        properties: Object.fromEntries(VERBS.map((verb) => [verb, partial(withVerb(verb, 'optional'))])),
        additionalProperties: { description: 'a step with "do", or a part of the step of this name in the recipe that this one extends' },
      },
    },
  }
}
