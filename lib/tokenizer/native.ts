import { type NativeWordPiece, nativeWordPiece } from '../native.js'
import type { TokenizerDefinition } from './definition.js'

/** Added tokens and flags that decide whether the native tokenizer can stand for a definition. */
interface AddedToken {
  content: string
  normalized?: boolean
  lstrip?: boolean
  rstrip?: boolean
  single_word?: boolean
}

/**
 * The native WordPiece of a tokenizer definition: id for id the reference (Rust `tokenizers`). Undefined where the definition is more than plain
 * BERT: other normaliser or pre-tokenizer steps, or added tokens that are not matched as they stand in the raw text. Those are the library's.
 */
export function nativeTokenizer(definition: TokenizerDefinition, unknownId: number): NativeWordPiece | undefined {
  const { model, pre_tokenizer: split } = definition
  const steps = stepsOf(definition.normalizer)
  const bert = steps.at(-1)
  if (bert?.type !== 'BertNormalizer' || split?.type !== 'BertPreTokenizer') return undefined
  if (steps.length > 2 || (steps.length === 2 && steps[0]!.type !== 'Lowercase')) return undefined
  const added = definition.added_tokens as readonly AddedToken[]
  if (added.some((token) => token.normalized !== false || token.lstrip || token.rstrip || token.single_word)) return undefined
  const lowercase = bert.lowercase === true
  return nativeWordPiece({
    tokens: Object.keys(model.vocab),
    ids: Int32Array.from(Object.values(model.vocab)),
    continuation: model.continuing_subword_prefix ?? '##',
    unknown: unknownId,
    longestWord: typeof model.max_input_chars_per_word === 'number' ? model.max_input_chars_per_word : 100,
    added: added.map(({ content }) => content),
    lowerFirst: steps.length === 2,
    cleanText: bert.clean_text !== false,
    handleChineseChars: bert.handle_chinese_chars !== false,
    stripAccents: typeof bert.strip_accents === 'boolean' ? bert.strip_accents : lowercase,
    lowercase,
  })
}

/** The normaliser's steps in order, sequences dissolved. */
export function stepsOf(normalizer: Record<string, unknown> | null): Record<string, unknown>[] {
  if (normalizer === null || normalizer === undefined) return []
  return normalizer.type === 'Sequence' ? (normalizer.normalizers as Record<string, unknown>[]).flatMap(stepsOf) : [normalizer]
}
