import { BgeError, invalidArgument, show } from '../errors.js'
import type { EncoderConfig } from '../native.js'

/** How token vectors become one: the first token's ([CLS], BGE), or the mean over all tokens. */
export type Pooling = 'cls' | 'mean'
/** Layers x width: tiny 2x128, small 4x512, base 12x768, large 24x1024 (BGE's, and one for tests). */
export type ModelSize = 'tiny' | 'small' | 'base' | 'large'

/** A BERT encoder as config.json describes it (C-Pack section 3: BERT-like, [CLS] of the last layer). */
export interface ModelConfig extends Omit<EncoderConfig, 'pooling' | 'normalize'> {
  /** Every key of the config.json it came from; kept on save. */
  source: Readonly<Record<string, unknown>>
}

/** Shapes of the released BGE zh models, and `tiny` for tests and the quickstart. Vocabulary follows the tokenizer. */
export const sizes: Readonly<Record<ModelSize, { layers: number; hidden: number; heads: number; intermediate: number }>> = {
  tiny: { layers: 2, hidden: 128, heads: 2, intermediate: 512 },
  small: { layers: 4, hidden: 512, heads: 8, intermediate: 2048 },
  base: { layers: 12, hidden: 768, heads: 12, intermediate: 3072 },
  large: { layers: 24, hidden: 1024, heads: 16, intermediate: 4096 },
}

/** The configuration of a new model. Errors: ERR_BGE_ARGUMENT for an unknown size. */
export function presetConfig(size: ModelSize, vocab: number): ModelConfig {
  if (!Object.hasOwn(sizes, size)) throw invalidArgument('size', 'tiny, small, base or large', size)
  return {
    ...sizes[size],
    vocab,
    maxPositions: 512,
    typeVocab: 2,
    layerNormEps: 1e-12,
    hiddenDropout: 0.1,
    attentionDropout: 0.1,
    source: {},
  }
}

/** What the native encoder takes (modelConfig in native/bindings); here so that the message names the file and its key. */
const LIMITS = {
  layers: 250,
  hidden: 65_536,
  heads: 4096,
  intermediate: 2 ** 24,
  vocab: 2 ** 24,
  maxPositions: 65_536,
  typeVocab: 1024,
} as const

/** Reads the object of a config.json. `where` opens the messages. Errors: ERR_BGE_MODEL_FORMAT. */
export function parseConfig(json: unknown, where: string): ModelConfig {
  const fail = (key: string, expected: string, actual: unknown): BgeError =>
    new BgeError('ERR_BGE_MODEL_FORMAT', `${where}: ${key} must be ${expected}, but was ${show(actual)}`, { details: { key } })
  if (json === null || typeof json !== 'object' || Array.isArray(json)) {
    throw new BgeError('ERR_BGE_MODEL_FORMAT', `${where} must hold a JSON object, but holds ${show(json)}`)
  }
  const source = json as Record<string, unknown>
  const architecture = Array.isArray(source.architectures) ? source.architectures[0] : undefined
  if (source.model_type !== undefined && source.model_type !== 'bert') throw fail('model_type', '"bert"', source.model_type)
  if (architecture !== undefined && !/^Bert[A-Z]/.test(String(architecture)))
    throw fail('architectures', 'a BERT architecture such as "BertModel"', architecture)
  const only = (key: string, allowed: unknown, expected: string): void => {
    const value = source[key]
    if (value !== undefined && value !== null && value !== allowed) throw fail(key, expected, value)
  }
  only('hidden_act', 'gelu', '"gelu" (the exact erf form)')
  only('position_embedding_type', 'absolute', '"absolute"')
  only('is_decoder', false, 'false')
  only('add_cross_attention', false, 'false')
  only('embedding_size', source.hidden_size, 'equal to hidden_size')
  const count = (key: string, most: number, fallback?: number): number => {
    const value = source[key] ?? fallback
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1) throw fail(key, 'a positive integer', value)
    if (value > most) throw fail(key, `at most ${most}`, value)
    return value
  }
  const real = (key: string, fallback: number, valid: (x: number) => boolean, expected: string): number => {
    const value = source[key] ?? fallback
    if (typeof value !== 'number' || !valid(value)) throw fail(key, expected, value)
    return value
  }
  const hidden = count('hidden_size', LIMITS.hidden)
  const heads = count('num_attention_heads', LIMITS.heads)
  if (hidden % heads !== 0) throw fail('num_attention_heads', `a divisor of hidden_size ${hidden}`, heads)
  const probability = (x: number): boolean => x >= 0 && x < 1
  return {
    layers: count('num_hidden_layers', LIMITS.layers),
    hidden,
    heads,
    intermediate: count('intermediate_size', LIMITS.intermediate),
    vocab: count('vocab_size', LIMITS.vocab),
    maxPositions: count('max_position_embeddings', LIMITS.maxPositions, 512),
    typeVocab: count('type_vocab_size', LIMITS.typeVocab, 2),
    layerNormEps: real('layer_norm_eps', 1e-12, (x) => x > 0 && x < 1, 'a number between 0 and 1'),
    hiddenDropout: real('hidden_dropout_prob', 0.1, probability, 'a number from 0 to below 1'),
    attentionDropout: real('attention_probs_dropout_prob', 0.1, probability, 'a number from 0 to below 1'),
    source,
  }
}

/** The object to write as config.json: what the model came with, and what it is now. */
export function configJson(
  config: ModelConfig,
  architecture: 'BertModel' | 'BertForMaskedLM',
  padId: number,
  stored: 'F32' | 'F16' = 'F32',
): Record<string, unknown> {
  const { source } = config
  const dtype = stored === 'F16' ? 'float16' : 'float32'
  return {
    initializer_range: 0.02,
    ...source,
    architectures: [architecture],
    model_type: 'bert',
    hidden_act: 'gelu',
    position_embedding_type: 'absolute',
    num_hidden_layers: config.layers,
    hidden_size: config.hidden,
    num_attention_heads: config.heads,
    intermediate_size: config.intermediate,
    vocab_size: config.vocab,
    max_position_embeddings: config.maxPositions,
    type_vocab_size: config.typeVocab,
    layer_norm_eps: config.layerNormEps,
    hidden_dropout_prob: config.hiddenDropout,
    attention_probs_dropout_prob: config.attentionDropout,
    pad_token_id: padId,
    torch_dtype: dtype,
    ...('dtype' in source ? { dtype } : {}),
  }
}
