import type { Tokenizer } from '../tokenizer/tokenizer.js'
import { createLengths, type Lengths } from './lengths.js'

/** Lengths at which truncation is reported: BGE trains queries at up to 128 and passages at up to 512 tokens. */
export const CUT_LENGTHS: readonly number[] = [128, 512]

export interface TokenStats {
  texts: number
  /** tokens counted, [CLS] and [SEP] not; of longer texts the first 510 */
  tokens: number
  /** [UNK] among `tokens`, a share */
  unknown: number
  /** share of texts longer than 128 and 512 tokens, [CLS] and [SEP] included */
  cut: Record<string, number>
  /** tokens of a text, [CLS] and [SEP] included; 513 stands for all above 512 */
  lengths: Lengths
}

/** Tokenises all texts, giving way to the event loop; equal texts count each time. */
export async function tokenStats(tokenizer: Tokenizer, texts: readonly string[], signal?: AbortSignal): Promise<TokenStats> {
  const longest = Math.max(...CUT_LENGTHS)
  const lengths = createLengths()
  let [tokens, unknown] = [0, 0]
  const block = 1024
  for (let start = 0; start < texts.length; start += block) {
    const batch = await tokenizer.encodeBatch(texts.slice(start, start + block), { maxLength: longest, signal })
    for (const [i, ids] of batch.ids.entries()) lengths.add(batch.truncated[i] ? longest + 1 : ids.length)
    tokens += batch.tokens
    unknown += batch.unknownTokens
  }
  const cut = Object.fromEntries(CUT_LENGTHS.map((length) => [length, lengths.shareAbove(length)]))
  return { texts: texts.length, tokens, unknown: tokens === 0 ? 0 : unknown / tokens, cut, lengths }
}
