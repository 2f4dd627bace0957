import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { BgeError, invalidArgument, show } from '../errors.js'
import type { NativeWordPiece } from '../native.js'
import { readTokenizerFiles, type SpecialName, type TokenizerDefinition, type TokenizerFiles } from './definition.js'
import { nativeTokenizer, stepsOf } from './native.js'

export interface TokenizerLoadOptions {
  /** Lower-case texts before everything else, as sentence-transformers does for do_lower_case in sentence_bert_config.json. Default false */
  lowerCase?: boolean
  /** 'library' never uses the native tokenizer (to compare the two). Default 'native', where the definition allows it */
  engine?: 'native' | 'library'
}

export interface EncodeBatchOptions {
  /** Longest sequence, [CLS] and [SEP] included. Default 512 */
  maxLength?: number
  signal?: AbortSignal | undefined
  /** Put before every text, without a separator (an instruction). Default '' */
  prefix?: string
}

export interface EncodedBatch {
  /** ids[i]: [CLS] tokens [SEP] of texts[i] */
  ids: Int32Array[]
  /** (n) 1 where texts[i] was longer than maxLength */
  truncated: Uint8Array
  /** number of ones in `truncated` */
  truncatedTexts: number
  /** kept tokens, [CLS] and [SEP] not counted */
  tokens: number
  /** how many of `tokens` are [UNK] */
  unknownTokens: number
}

interface Encoded {
  ids: Int32Array
  truncated: boolean
}

/** Time in ms after which tokenising gives way to the event loop. */
const sliceMs = 1
/** Characters that the native tokenizer reads at a time: a fraction of a millisecond. */
const sliceUnits = 16_384

// The supplementary ranges that BERT splits into single characters, as the reference (Rust `tokenizers`) has them, its 2B920 included.
const supplementaryHan = /[\u{20000}-\u{2A6DF}\u{2A700}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{2F800}-\u{2FA1F}]/gu
// A place where every BERT tokenizer ends a word: just before white space or an ideograph.
const wordEnd = /[\t\n\r \u3000\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF]/

/**
 * BERT WordPiece with our truncation. Ids equal those of the reference (Rust `tokenizers` as transformers sets it up). Plain BERT tokenizers run natively;
 * any other definition, and texts that hold an added token such as "[MASK]", go through @huggingface/tokenizers. Two departures of that library from the
 * reference are made good here: ideographs beyond the BMP are words of their own, and a capital sigma is lower-cased without regard to its place in
 * the word.
 */
export class Tokenizer {
  readonly clsId: number
  readonly sepId: number
  readonly padId: number
  readonly unkId: number
  readonly maskId: number
  /** Highest id + 1: the smallest embedding table that fits. */
  readonly vocabSize: number
  /** sha256 of what decides the ids. */
  readonly fingerprint: string
  /** `model_max_length` of tokenizer_config.json, where it is a usable number. */
  readonly modelMaxLength: number | undefined
  /** 'native': our own kernel (about a hundred times faster); 'library': @huggingface/tokenizers, for what is not plain BERT. */
  readonly engine: 'native' | 'library'
  readonly #native: NativeWordPiece | undefined
  readonly #inner: HuggingFaceTokenizer
  readonly #tokens: string[]
  readonly #special: Set<number>
  readonly #continuation: string
  readonly #files: ReadonlyMap<string, Buffer>
  readonly #lowers: boolean
  readonly #splitsHan: boolean
  readonly #cutsEarly: boolean

  private constructor(source: TokenizerFiles, folder: string, lowerCase: boolean, engine: 'native' | 'library') {
    const { definition, config } = source
    if (lowerCase) definition.normalizer = lowerFirst(definition.normalizer)
    try {
      this.#inner = new HuggingFaceTokenizer(definition, config)
    } catch (cause) {
      throw new BgeError('ERR_BGE_TOKENIZER', `${folder}: the tokenizer cannot be built: ${(cause as Error).message}`, { cause })
    }
    this.#files = source.files
    this.#tokens = []
    for (const [token, id] of Object.entries(definition.model.vocab)) this.#tokens[id] = token
    for (const token of definition.added_tokens) this.#tokens[token.id] = token.content
    this.vocabSize = this.#tokens.length
    this.#continuation = definition.model.continuing_subword_prefix ?? '##'
    const idOf = (name: SpecialName): number => {
      const token = contentOf(config[name])
      const id = this.#inner.token_to_id(token)
      if (id === undefined)
        throw new BgeError('ERR_BGE_TOKENIZER', `${folder}: ${name} ${show(token)} must be in the vocabulary, but is not`)
      return id
    }
    this.clsId = idOf('cls_token')
    this.sepId = idOf('sep_token')
    this.padId = idOf('pad_token')
    this.unkId = idOf('unk_token')
    this.maskId = idOf('mask_token')
    const frame = this.#inner.encode('').ids
    if (frame.length !== 2 || frame[0] !== this.clsId || frame[1] !== this.sepId) {
      throw new BgeError(
        'ERR_BGE_TOKENIZER',
        `${folder}: the tokenizer must frame a text as [CLS] text [SEP], but its post_processor gives ${frame.length} ids for an empty text`,
      )
    }
    this.#special = new Set([this.clsId, this.sepId, this.padId, this.unkId, this.maskId])
    for (const token of definition.added_tokens) if (token.special) this.#special.add(token.id)
    const normalizers = stepsOf(definition.normalizer)
    const bert = normalizers.find((n) => n.type === 'BertNormalizer')
    this.#lowers = normalizers.some((n) => n.type === 'Lowercase') || bert?.lowercase === true
    this.#splitsHan = bert?.handle_chinese_chars === true
    this.#cutsEarly =
      this.#splitsHan &&
      bert?.clean_text === true &&
      normalizers.every((n) => n.type === 'BertNormalizer' || n.type === 'Lowercase') &&
      definition.pre_tokenizer?.type === 'BertPreTokenizer' &&
      definition.added_tokens.every((token) => !wordEnd.test(token.content))
    const modelMaxLength = config.model_max_length
    this.modelMaxLength =
      typeof modelMaxLength === 'number' && Number.isSafeInteger(modelMaxLength) && modelMaxLength > 2 ? modelMaxLength : undefined
    const unknown = definition.model.unk_token ?? '[UNK]'
    this.#native = engine === 'library' ? undefined : nativeTokenizer(definition, this.#inner.token_to_id(unknown) ?? this.unkId)
    this.engine = this.#native ? 'native' : 'library'
    this.fingerprint = createHash('sha256').update(JSON.stringify(definition)).digest('hex')
  }

  /** Reads tokenizer.json, or vocab.txt, of a model folder. Errors: ERR_BGE_TOKENIZER. */
  static async load(folder: string, options: TokenizerLoadOptions = {}): Promise<Tokenizer> {
    return new Tokenizer(await readTokenizerFiles(folder), folder, options.lowerCase ?? false, options.engine ?? 'native')
  }

  /** [CLS] + at most maxLength - 2 tokens + [SEP]. Errors: ERR_BGE_TOKENIZER for anything but a string. */
  encode(text: string, maxLength = 512): Int32Array {
    if (typeof text !== 'string') throw new BgeError('ERR_BGE_TOKENIZER', `text must be a string, but was ${show(text)}`)
    checkMaxLength(maxLength)
    let ids: Int32Array | undefined
    if (this.#native) this.#encodeSlice([text], 0, '', maxLength, (encoded) => (ids = encoded.ids))
    return ids ?? this.#encodeByLibrary(text, maxLength).ids
  }

  /** Encodes many texts, a few milliseconds at a time. Errors: ERR_BGE_TOKENIZER for a text that is not a string; the signal's reason. */
  async encodeBatch(texts: readonly string[], options: EncodeBatchOptions = {}): Promise<EncodedBatch> {
    const { signal, prefix = '' } = options
    const maxLength = checkMaxLength(options.maxLength ?? 512)
    checkTexts(texts)
    const result: EncodedBatch = { ids: [], truncated: new Uint8Array(texts.length), truncatedTexts: 0, tokens: 0, unknownTokens: 0 }
    signal?.throwIfAborted()
    const add = ({ ids, truncated }: Encoded): void => {
      if (truncated) {
        result.truncated[result.ids.length] = 1
        result.truncatedTexts++
      }
      result.ids.push(ids)
      result.tokens += ids.length - 2
      for (const id of ids) if (id === this.unkId) result.unknownTokens++
    }
    let sliceEnd = performance.now() + sliceMs
    while (result.ids.length < texts.length) {
      if (this.#native) this.#encodeSlice(texts, result.ids.length, prefix, maxLength, add)
      else add(this.#encodeByLibrary(prefix + texts[result.ids.length]!, maxLength))
      if (performance.now() > sliceEnd) {
        await nextTurn()
        signal?.throwIfAborted()
        sliceEnd = performance.now() + sliceMs
      }
    }
    return result
  }

  /** The token of an id, undefined outside the vocabulary. */
  tokenOf(id: number): string | undefined {
    return this.#tokens[id]
  }

  /** True for a piece that continues a word ("##ing"). */
  isContinuation(id: number): boolean {
    return this.#tokens[id]?.startsWith(this.#continuation) === true && !this.#special.has(id)
  }

  /** True for [CLS], [SEP], [PAD], [UNK], [MASK] and every other special token. */
  isSpecial(id: number): boolean {
    return this.#special.has(id)
  }

  /** File name to content: the files of the folder it was loaded from, verbatim, and those it lacked, generated. */
  get files(): ReadonlyMap<string, Buffer> {
    return this.#files
  }

  /** Writes `files` into an existing folder. */
  async save(folder: string): Promise<void> {
    for (const [name, content] of this.#files) await writeFile(join(folder, name), content)
  }

  /** As many texts from `first` on as a slice holds, at least one. */
  #encodeSlice(texts: readonly string[], first: number, prefix: string, maxLength: number, use: (encoded: Encoded) => void): void {
    const { ids, ends, elsewhere } = this.#native!.encode(texts, first, prefix, maxLength - 1, sliceUnits)
    let start = 0
    for (const [i, end] of ends.entries()) {
      use(elsewhere[i] ? this.#encodeByLibrary(prefix + texts[first + i]!, maxLength) : this.#frame(ids.subarray(start, end), maxLength))
      start = end
    }
  }

  #encodeByLibrary(text: string, maxLength: number): Encoded {
    return this.#frame(this.#firstTokens(text, maxLength - 1), maxLength)
  }

  /** Cuts to maxLength - 2 tokens and puts [CLS] and [SEP] around them. */
  #frame(tokens: ArrayLike<number>, maxLength: number): Encoded {
    const kept = Math.min(tokens.length, maxLength - 2)
    const ids = new Int32Array(kept + 2)
    ids[0] = this.clsId
    for (let i = 0; i < kept; i++) ids[i + 1] = tokens[i]!
    ids[kept + 1] = this.sepId
    return { ids, truncated: tokens.length > kept }
  }

  /**
   * The ids of `text`; of a long text at least the first `wanted`, exactly. Words are tokenised independently of each other and never reach
   * across white space or an ideograph, so the ids of a part that ends there are the first ids of the whole. A part that turns out too short
   * (long words, much white space) is doubled until it suffices.
   */
  #firstTokens(text: string, wanted: number): number[] {
    for (let length = 2 * wanted + 64; this.#cutsEarly && length < text.length; length *= 2) {
      let end = length
      while (end < text.length && !wordEnd.test(text.charAt(end))) end++
      if (end === text.length) break
      const ids = this.#ids(text.slice(0, end))
      if (ids.length >= wanted) return ids
    }
    return this.#ids(text)
  }

  #ids(text: string): number[] {
    if (this.#splitsHan) text = text.replace(supplementaryHan, ' $& ')
    if (this.#lowers) text = text.replaceAll('Σ', 'σ')
    return this.#inner.encode(text, { add_special_tokens: false }).ids
  }
}

/** Errors: ERR_BGE_TOKENIZER unless `texts` is an array of strings. */
export function checkTexts(texts: readonly string[]): void {
  if (!Array.isArray(texts)) throw new BgeError('ERR_BGE_TOKENIZER', `texts must be an array of strings, but was ${show(texts)}`)
  for (let i = 0; i < texts.length; i++) {
    if (typeof texts[i] !== 'string')
      throw new BgeError('ERR_BGE_TOKENIZER', `texts[${i}] must be a string, but was ${show(texts[i])}`, { details: { index: i } })
  }
}

function checkMaxLength(value: number): number {
  if (!Number.isSafeInteger(value) || value < 3)
    throw invalidArgument('maxLength', 'an integer of at least 3 ([CLS], a token, [SEP])', value)
  return value
}

function contentOf(token: unknown): string {
  return typeof token === 'object' && token !== null ? String((token as { content?: unknown }).content) : String(token)
}

function lowerFirst(normalizer: TokenizerDefinition['normalizer']): TokenizerDefinition['normalizer'] {
  const parts = stepsOf(normalizer)
  if (parts.some((n) => n.type === 'Lowercase' || n.lowercase === true)) return normalizer
  return { type: 'Sequence', normalizers: [{ type: 'Lowercase' }, ...parts] }
}
