import type { Extracted } from '../extract.js'
import type { CleanSettings } from '../recipe.js'
import { normaliseForIdentity } from '../row.js'
import { count, type Tally } from '../tally.js'
import { blockedFinder } from './blocked.js'
import { stripMarkup } from './markup.js'
import { maskPersonal } from './personal.js'
import { type CharacterCounts, countCharacters, repeatedLineShare, repeatedNgramShare } from './shares.js'
import { blockedWords, type TextCleaner, textCleaner } from './text.js'

/** Rules that drop a row. */
export type DropRule =
  | 'html'
  | 'personal'
  | 'blockedWords'
  | 'queryLength'
  | 'passageLength'
  | 'textShare'
  | 'chineseShare'
  | 'repeatedLines'
  | 'repeatedNgrams'
  | 'queryInPassage'

/** What is left of a row, or undefined where a rule dropped it; counts both in `tally`. */
export type RowCleaner = (row: Extracted, at: string, tally: Tally) => { query: string; pos: string[]; neg: string[] } | undefined

/** A rule and what it found, for the sample. */
interface Rejection {
  readonly rule: DropRule
  readonly text: string
}

/**
 * Compiles the rules of a recipe. A row is dropped when its query fails a rule, or all its positives do (counted under the rule of the last);
 * positives and negatives that fail beside others are left out and counted as changes, `positives` and `negatives`. Negatives are not
 * tested for language or repetition.
 */
export async function rowCleaner(clean: CleanSettings, root: string): Promise<RowCleaner> {
  const cleanText = await textCleaner(clean)
  const blocked = blockedFinder(await blockedWords(clean, root))
  const rejects = (text: string, role: 'query' | 'passage'): DropRule | undefined => {
    const { min, max } = role === 'query' ? clean.queryLength : clean.passageLength
    if (text.length < min || text.length > max) return role === 'query' ? 'queryLength' : 'passageLength'
    if (clean.personal === 'drop' && maskPersonal(text) !== text) return 'personal'
    return blocked(text) === undefined ? undefined : 'blockedWords'
  }
  const isMarks = ({ characters, text }: CharacterCounts): boolean => text < clean.textShare * characters

  /** The rule that a passage of this query fails. */
  const passageRule = (text: string, query: CharacterCounts, queryKey: () => string): DropRule | undefined => {
    const rule = rejects(text, 'passage')
    if (rule) return rule
    const counts = countCharacters(text)
    if (isMarks(counts)) return 'textShare'
    const words = counts.words + query.words
    if (words === 0 ? clean.chineseShare > 0 : counts.han + query.han < clean.chineseShare * words) return 'chineseShare'
    if (repeatedLineShare(text) > clean.repeatedLines) return 'repeatedLines'
    if (clean.repeatedNgrams < 1 && repeatedNgramShare(text) > clean.repeatedNgrams) return 'repeatedNgrams'
    if (clean.queryInPassage === 'keep') return undefined
    const key = normaliseForIdentity(text)
    const found = clean.queryInPassage === 'drop-equal' ? key === queryKey() : key.includes(queryKey())
    return found ? 'queryInPassage' : undefined
  }

  return (row, at, tally) => {
    const drop = ({ rule, text }: Rejection): undefined => {
      count(tally.dropped, rule, at, text)
      return undefined
    }
    const changed = new Set<string>()
    const cleaned = (text: string, role: 'query' | 'passage'): string => apply(cleanText, text, role, at, tally, changed)
    if (clean.html === 'drop') {
      const marked = [row.query, ...row.pos].find((text) => stripMarkup(text) !== text)
      if (marked !== undefined) return drop({ rule: 'html', text: marked })
    }
    const query = cleaned(row.query, 'query')
    const rule = rejects(query, 'query')
    if (rule) return drop({ rule, text: query === '' ? row.query : query })
    const counts = countCharacters(query)
    if (isMarks(counts)) return drop({ rule: 'textShare', text: query })

    let key: string | undefined
    const queryKey = (): string => (key ??= normaliseForIdentity(query))
    let last: Rejection | undefined
    const pos: string[] = []
    for (const given of row.pos) {
      const text = cleaned(given, 'passage')
      const failed = passageRule(text, counts, queryKey)
      if (failed) last = { rule: failed, text: `${query} ⇢ ${text === '' ? given : text}` }
      else pos.push(text)
    }
    if (pos.length === 0) return drop(last!)
    if (last) count(tally.changed, 'positives', at, last.text, `${pos.length} of ${row.pos.length} positives`)
    const neg: string[] = []
    for (const given of row.neg) {
      const text = cleaned(given, 'passage')
      if (!rejects(text, 'passage') && !isMarks(countCharacters(text))) neg.push(text)
    }
    if (neg.length < row.neg.length) count(tally.changed, 'negatives', at, query, `${neg.length} of ${row.neg.length} negatives`)
    return { query, pos, neg }
  }
}

/** Cleans a text and counts each rule that changed it, once a row. */
function apply(cleanText: TextCleaner, given: string, role: 'query' | 'passage', at: string, tally: Tally, counted: Set<string>): string {
  const { text, changes } = cleanText(given, role)
  for (const { rule, before, after } of changes) {
    if (counted.has(rule)) continue
    counted.add(rule)
    count(tally.changed, rule, at, ...around(before, after))
  }
  return text
}

/** The two texts from shortly before the first difference. */
function around(before: string, after: string): [string, string] {
  let i = 0
  while (i < after.length && before.charCodeAt(i) === after.charCodeAt(i)) i++
  const start = Math.max(0, i - 30)
  const cut = (text: string): string => (start > 0 ? '…' : '') + text.slice(start, start + 160)
  return [cut(before), cut(after)]
}
