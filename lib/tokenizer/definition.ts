import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BgeError, show } from '../errors.js'

/** The parts of a tokenizer.json that decide the ids of a BERT WordPiece tokenizer. Other keys are kept as they are. */
export interface TokenizerDefinition {
  [key: string]: unknown
  added_tokens: { id: number; content: string; special?: boolean }[]
  normalizer: Record<string, unknown> | null
  pre_tokenizer: Record<string, unknown> | null
  post_processor: Record<string, unknown> | null
  model: Record<string, unknown> & { type: string; vocab: Record<string, number>; unk_token?: string; continuing_subword_prefix?: string }
}

export interface TokenizerFiles {
  definition: TokenizerDefinition
  config: Record<string, unknown>
  /** File name to content, verbatim: what `save` writes again. */
  files: ReadonlyMap<string, Buffer>
}

/** Everything in a model folder that belongs to the tokenizer. */
export const tokenizerFileNames: readonly string[] = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'vocab.txt',
  'added_tokens.json',
]

const specialNames = { unk_token: '[UNK]', cls_token: '[CLS]', sep_token: '[SEP]', pad_token: '[PAD]', mask_token: '[MASK]' } as const
export type SpecialName = keyof typeof specialNames

/**
 * Reads the tokenizer files of a folder: tokenizer.json, or vocab.txt alone, with the flags of tokenizer_config.json applied as transformers'
 * BertTokenizer applies them (do_lower_case, strip_accents and tokenize_chinese_chars there win over tokenizer.json; their defaults are
 * true, null, true). Files that are absent are generated, so that every saved folder holds all of them.
 */
export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const files = new Map<string, Buffer>()
  for (const name of tokenizerFileNames) if (existsSync(join(folder, name))) files.set(name, await readFile(join(folder, name)))
  const config = readObject(folder, 'tokenizer_config.json', files) ?? {}
  const stored = readObject(folder, 'tokenizer.json', files) as TokenizerDefinition | undefined
  const vocabulary = files.get('vocab.txt')
  if (stored === undefined && vocabulary === undefined) {
    throw new BgeError('ERR_BGE_TOKENIZER', `${folder} must hold tokenizer.json or vocab.txt, but holds neither`)
  }
  const special = specialTokens(config, readObject(folder, 'special_tokens_map.json', files) ?? {})
  const definition =
    stored === undefined ? wordPiece(parseVocabulary(String(vocabulary)), special) : checkDefinition(stored, join(folder, 'tokenizer.json'))
  applyFlags(definition, config)
  for (const [name, content] of Object.entries(generators(definition, special))) {
    if (!files.has(name)) files.set(name, Buffer.from(content()))
  }
  return { definition, config: { ...config, ...special }, files }
}

function readObject(folder: string, name: string, files: ReadonlyMap<string, Buffer>): Record<string, unknown> | undefined {
  const content = files.get(name)
  if (content === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(String(content))
  } catch (cause) {
    throw new BgeError('ERR_BGE_TOKENIZER', `${join(folder, name)} is not valid JSON: ${(cause as Error).message}`, { cause })
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new BgeError('ERR_BGE_TOKENIZER', `${join(folder, name)} must hold a JSON object, but holds ${show(value)}`)
  }
  return value as Record<string, unknown>
}

function checkDefinition(definition: TokenizerDefinition, where: string): TokenizerDefinition {
  const type = definition.model?.type
  // Files written before tokenizers 0.10 carry no type; a WordPiece model is known by its prefix.
  if (type !== 'WordPiece' && !(type === undefined && definition.model?.continuing_subword_prefix !== undefined)) {
    throw new BgeError('ERR_BGE_TOKENIZER', `${where}: model.type must be "WordPiece", but was ${show(type)}`)
  }
  const { vocab } = definition.model
  if (vocab === null || typeof vocab !== 'object' || Array.isArray(vocab)) {
    throw new BgeError('ERR_BGE_TOKENIZER', `${where}: model.vocab must be an object from token to id, but was ${show(vocab)}`)
  }
  definition.model.type = 'WordPiece'
  definition.added_tokens ??= []
  checkIds(definition, where)
  checkNormalizer(definition.normalizer, where)
  return definition
}

/** An embedding table of more rows than this is not possible (native ModelConfig.vocab). */
const MAX_VOCABULARY = 2 ** 24

/** A negative, fractional or giant id would be met only when a text uses it. */
function checkIds({ model, added_tokens: added }: TokenizerDefinition, where: string): void {
  if (!Array.isArray(added) || !added.every((token) => typeof token?.content === 'string')) {
    throw new BgeError('ERR_BGE_TOKENIZER', `${where}: added_tokens must be a list of {id, content}, but was ${show(added)}`)
  }
  for (const [token, id] of [...Object.entries(model.vocab), ...added.map(({ content, id }) => [content, id] as const)]) {
    if (!Number.isSafeInteger(id) || id < 0 || id >= MAX_VOCABULARY) {
      throw new BgeError(
        'ERR_BGE_TOKENIZER',
        `${where}: the id of token ${show(token)} must be an integer from 0 to ${MAX_VOCABULARY - 1}, but was ${show(id)}`,
      )
    }
  }
}

function checkNormalizer(normalizer: Record<string, unknown> | null, where: string): void {
  if (normalizer?.type !== 'Sequence') return
  if (!Array.isArray(normalizer.normalizers)) {
    throw new BgeError('ERR_BGE_TOKENIZER', `${where}: normalizer.normalizers must be a list, but was ${show(normalizer.normalizers)}`)
  }
  for (const part of normalizer.normalizers) checkNormalizer(part, where)
}

/** One token a line, the line number is the id, as transformers reads it: a repeated token takes its last line. */
function parseVocabulary(text: string): Record<string, number> {
  const lines = text.replace(/\r\n?/g, '\n').split('\n')
  if (lines.at(-1) === '') lines.pop()
  const vocabulary: Record<string, number> = Object.create(null)
  lines.forEach((token, id) => {
    vocabulary[token] = id
  })
  return vocabulary
}

function specialTokens(config: Record<string, unknown>, map: Record<string, unknown>): Record<SpecialName, string> {
  const result = { ...specialNames } as Record<SpecialName, string>
  for (const name of Object.keys(specialNames) as SpecialName[]) {
    const value = config[name] ?? map[name]
    const content = typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value
    if (typeof content === 'string') result[name] = content
  }
  return result
}

function wordPiece(vocab: Record<string, number>, special: Record<SpecialName, string>): TokenizerDefinition {
  const idOf = (token: string): number => {
    const id = vocab[token]
    if (id === undefined) throw new BgeError('ERR_BGE_TOKENIZER', `vocab.txt must hold the special token ${show(token)}, but does not`)
    return id
  }
  const [cls, sep] = [special.cls_token, special.sep_token]
  const single = [
    { SpecialToken: { id: cls, type_id: 0 } },
    { Sequence: { id: 'A', type_id: 0 } },
    { SpecialToken: { id: sep, type_id: 0 } },
  ]
  const pair = [...single, { Sequence: { id: 'B', type_id: 1 } }, { SpecialToken: { id: sep, type_id: 1 } }]
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: Object.values(special)
      .map((content) => ({
        id: idOf(content),
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      }))
      .sort((a, b) => a.id - b.id),
    normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: {
      type: 'TemplateProcessing',
      single,
      pair,
      special_tokens: {
        [cls]: { id: cls, ids: [idOf(cls)], tokens: [cls] },
        [sep]: { id: sep, ids: [idOf(sep)], tokens: [sep] },
      },
    },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: { type: 'WordPiece', unk_token: special.unk_token, continuing_subword_prefix: '##', max_input_chars_per_word: 100, vocab },
  }
}

function applyFlags(definition: TokenizerDefinition, config: Record<string, unknown>): void {
  if (definition.normalizer?.type !== 'BertNormalizer') return
  // Only the Bert classes of transformers rebuild the normaliser from the flags; its generic class takes tokenizer.json as it stands.
  const generic = config.tokenizer_class === 'PreTrainedTokenizerFast' || config.tokenizer_class === 'TokenizersBackend'
  if (generic) return
  definition.normalizer = {
    ...definition.normalizer,
    lowercase: config.do_lower_case ?? true,
    strip_accents: config.strip_accents ?? null,
    handle_chinese_chars: config.tokenize_chinese_chars ?? true,
  }
}

function generators(definition: TokenizerDefinition, special: Record<SpecialName, string>): Record<string, () => string> {
  return {
    'tokenizer.json': () => JSON.stringify(definition),
    'tokenizer_config.json': () => {
      const flags = definition.normalizer?.type === 'BertNormalizer' ? definition.normalizer : {}
      const config = {
        tokenizer_class: 'BertTokenizer',
        do_lower_case: flags.lowercase ?? true,
        tokenize_chinese_chars: flags.handle_chinese_chars ?? true,
        strip_accents: flags.strip_accents ?? null,
        model_max_length: 512,
        ...special,
      }
      return `${JSON.stringify(config, null, 2)}\n`
    },
    'special_tokens_map.json': () => `${JSON.stringify(special, null, 2)}\n`,
    'vocab.txt': () => {
      const lines: string[] = []
      for (const [token, id] of Object.entries(definition.model.vocab)) lines[id] = token
      for (const token of definition.added_tokens) lines[token.id] = token.content
      return `${Array.from(lines, (line) => line ?? '').join('\n')}\n`
    },
  }
}
