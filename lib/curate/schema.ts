import type { Schema } from '../data/check.js'
import { EXTRACTORS } from './extractors.js'
import type { ExtractType, SourceFormat } from './recipe.js'

const FORMATS: readonly SourceFormat[] = ['jsonl', 'json', 'csv', 'tsv', 'parquet', 'text', 'markdown', 'html', 'wikiextract', 'wudao']

const name: Schema = { type: 'string', minLength: 1 }
const names: Schema = { type: 'array', minItems: 1, items: name }
const words: Schema = { type: 'array', items: name, default: [] }
const share = (description: string, standard: number): Schema => ({
  description,
  type: 'number',
  minimum: 0,
  maximum: 1,
  default: standard,
})
const choice = (description: string, ...allowed: readonly string[]): Schema => ({ description, enum: allowed, default: allowed[0]! })
const range = (description: string, min: number, max: number): Schema => ({
  description,
  type: 'object',
  additionalProperties: false,
  properties: { min: { type: 'integer', minimum: 1, default: min }, max: { type: 'integer', minimum: 1, default: max } },
  default: {},
})

const READING: Readonly<Record<string, Schema>> = {
  format: { description: 'how the file is written; default: by the ending of its name', enum: FORMATS },
  columns: { description: 'names of the columns of csv or tsv; default: the first line', ...names },
  header: choice('csv and tsv with columns: whether the first line is a header', 'none', 'skip'),
  quotes: { description: 'csv and tsv: "none" takes quotes as text; default: csv "csv", tsv "none"', enum: ['csv', 'none'] },
  delimiter: { description: 'csv and tsv: what is between columns', ...name },
  records: { description: 'json: the key of the list of records, dotted', ...name },
  unnest: { description: 'lists inside a record whose entries become records, outermost first', ...words },
  unit: choice('text: what one record is', 'paragraph', 'line', 'file'),
  malformed: choice('what a record that is not UTF-8 or not of the format does', 'stop', 'drop'),
}

/** One branch per extractor, because each has roles of its own. */
function extractSchema(type: ExtractType): Schema {
  const { query, pos, needsLabel } = EXTRACTORS[type]
  const roles = [query, pos, 'negative']
  return {
    type: 'object',
    additionalProperties: false,
    required: ['type', ...(needsLabel ? ['label', 'positive'] : [])],
    dependentRequired: { label: ['positive'], positive: ['label'], negative: ['label'] },
    properties: {
      type: { const: type },
      fields: {
        description: 'role -> where it is in the record; default: the field of the same name',
        type: 'object',
        additionalProperties: false,
        properties: Object.fromEntries(roles.map((role) => [role, name])),
        default: {},
      },
      label: { description: 'the field that says whether the passage is a positive', ...name },
      positive: { $ref: '#/$defs/condition' },
      negative: { $ref: '#/$defs/condition' },
      groupBy: { description: 'records with an equal value here become one row', ...name },
      group: choice('"all" holds the mapped fields of the file in memory', 'adjacent', 'all'),
    },
  }
}

const condition: Schema = {
  description: 'a value, a list of values, or {"min", "max", "in", "not"}',
  oneOf: [
    { type: ['string', 'number', 'boolean', 'null'] },
    { type: 'array', minItems: 1, items: { type: ['string', 'number', 'boolean', 'null'] } },
    {
      type: 'object',
      additionalProperties: false,
      minProperties: 1,
      properties: {
        min: { type: 'number' },
        max: { type: 'number' },
        in: { type: 'array', minItems: 1, items: { type: ['string', 'number', 'boolean', 'null'] } },
        not: { type: 'array', minItems: 1, items: { type: ['string', 'number', 'boolean', 'null'] } },
      },
    },
  ],
}

const join: Schema = {
  type: 'object',
  additionalProperties: false,
  required: ['files', 'key', 'on', 'fields'],
  properties: {
    files: { description: 'globs', ...names },
    ...READING,
    key: { description: 'the field of this file that holds the id', ...name },
    on: { description: 'the field of the source that holds the id', ...name },
    fields: { description: 'field of this file -> name in the record', type: 'object', minProperties: 1, additionalProperties: name },
  },
}

const clean: Schema = {
  description: 'the rules of cleaning, in the order in which they run',
  type: 'object',
  additionalProperties: false,
  properties: {
    unicode: choice('normal form', 'nfc', 'nfkc', 'keep'),
    controls: choice('control and invisible characters', 'remove', 'keep'),
    html: choice('tags and entities', 'strip', 'drop', 'keep'),
    fullWidth: choice('full-width letters and digits to ASCII', 'keep', 'fold'),
    script: choice('traditional to simplified', 'keep', 'simplified'),
    boilerplate: choice('lines of navigation and boilerplate', 'remove', 'keep'),
    boilerplateLines: { description: 'regular expressions for whole lines that are boilerplate too', ...words },
    personal: choice('phone numbers, resident ids, e-mail addresses', 'mask', 'drop', 'keep'),
    blockedWords: { description: 'a row that holds one is dropped', ...words },
    blockedFiles: { description: 'files of blocked words, one a line', ...words },
    queryLength: range('characters of a query', 2, 512),
    passageLength: range('characters of a passage', 4, 8192),
    tooLong: choice('a longer passage', 'cut', 'drop'),
    textShare: share('letters and digits among characters that are not white space, at least', 0.5),
    chineseShare: share('Chinese characters among the words of query and passage, at least', 0.3),
    repeatedLines: share('characters in lines that occurred before, at most', 0.3),
    repeatedNgrams: share('characters in runs of 10 that occurred before, at most', 0.3),
    queryInPassage: choice('a passage that is the query, or holds it', 'keep', 'drop-equal', 'drop-contained'),
  },
  default: {},
}

const source: Schema = {
  type: 'object',
  additionalProperties: false,
  required: ['name', 'files', 'extract', 'licence'],
  properties: {
    name: { description: 'of the source, unlike any other', ...name },
    files: { description: 'globs, relative to the root of the recipe', ...names },
    ...READING,
    join: { type: 'array', items: { $ref: '#/$defs/join' }, default: [] },
    where: { type: 'object', additionalProperties: { $ref: '#/$defs/condition' }, default: {} },
    extract: { oneOf: (Object.keys(EXTRACTORS) as ExtractType[]).map(extractSchema) },
    licence: { description: 'of the data, or "unknown"', ...name },
    homepage: name,
    expectedCount: { description: 'pairs', type: 'integer', minimum: 0 },
    priority: { description: 'the copy that de-duplication keeps is the one of the highest', type: 'number', default: 0 },
    negatives: choice('where hard negatives come from', 'none', 'given', 'label0', 'random', 'mined'),
    notes: name,
    clean: { $ref: '#/$defs/clean' },
  },
}

/** What a recipe file may hold: schemas/curation-recipe.schema.json is this object. */
export const RECIPE_SCHEMA: Schema = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  title: 'Curation recipe of bge-forge',
  type: 'object',
  additionalProperties: false,
  required: ['name'],
  properties: {
    $schema: { type: 'string' },
    name: { description: 'of the recipe', ...name },
    description: { type: 'string' },
    root: { description: 'the folder that files are relative to; default: that of the recipe', ...name },
    include: { description: 'recipe files whose sources come too; "cmtp:NAME" is one of this package', ...words },
    sources: { type: 'array', items: { $ref: '#/$defs/source' }, default: [] },
    clean: { $ref: '#/$defs/clean' },
    dedup: {
      type: 'object',
      additionalProperties: false,
      properties: {
        exact: { type: 'boolean', default: true },
        near: {
          description: 'settings of near-duplicates, or false',
          oneOf: [
            { const: false },
            {
              type: 'object',
              additionalProperties: false,
              properties: {
                threshold: { description: 'Jaccard similarity', type: 'number', exclusiveMinimum: 0, maximum: 1, default: 0.8 },
                ngram: { description: 'characters', type: 'integer', minimum: 1, maximum: 50, default: 5 },
                hashes: { description: 'of MinHash', type: 'integer', minimum: 8, maximum: 1024, default: 128 },
              },
            },
          ],
          default: {},
        },
        on: choice('what may not occur twice', 'pair', 'query', 'passage'),
      },
      default: {},
    },
    decontaminate: {
      type: 'object',
      additionalProperties: false,
      required: ['against'],
      properties: {
        against: { description: '"cmteb" or folders of evaluation data', ...names },
        ngram: { description: 'characters', type: 'integer', minimum: 4, maximum: 100, default: 13 },
        threshold: { description: 'Jaccard similarity', type: 'number', exclusiveMinimum: 0, maximum: 1, default: 0.8 },
      },
    },
    semantic: {
      type: 'object',
      additionalProperties: false,
      required: ['model'],
      not: { required: ['threshold', 'keepRate'] },
      properties: {
        model: { description: 'a model folder', ...name },
        threshold: { description: 'cosine, at least; 0.43 where neither is given', type: 'number', minimum: -1, maximum: 1 },
        keepRate: { description: 'share of rows', type: 'number', exclusiveMinimum: 0, maximum: 1 },
      },
    },
    output: {
      type: 'object',
      additionalProperties: false,
      properties: {
        format: choice('of the shards', 'jsonl', 'parquet'),
        shardRows: { type: 'integer', minimum: 1, default: 1_000_000 },
      },
      default: {},
    },
  },
  $defs: { clean, condition, join, source },
}
