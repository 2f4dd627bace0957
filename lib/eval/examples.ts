import { averageRanks } from './metrics.js'

/** A query whose ranking is among the worst of its task. */
export interface RankingExample {
  readonly kind: 'ranking'
  readonly query: string
  /** of this query: ndcg_at_10 (retrieval), average precision (reranking) */
  readonly score: number
  /** relevant documents, at most SHOWN; rank from 1, null where not among the retrieved */
  readonly expected: readonly { readonly text: string; readonly rank: number | null }[]
  /** what came first instead */
  readonly retrieved: readonly { readonly text: string; readonly relevant: boolean }[]
}

/** A pair whose similarity is far from what its label says. */
export interface PairExample {
  readonly kind: 'pair'
  readonly text1: string
  readonly text2: string
  readonly label: number
  readonly cosine: number
}

/** A text that was given the wrong label. */
export interface LabelExample {
  readonly kind: 'label'
  readonly text: string
  readonly expected: string
  readonly predicted: string
}

export type Example = RankingExample | PairExample | LabelExample

/** Examples of a task, documents of an example, characters of a text. */
const KEPT = 10
const SHOWN = 3
const LENGTH = 160

/** Collects the rankings with the lowest scores; of equal scores the first. */
export class WorstRankings {
  readonly #worst: RankingExample[] = []

  /** @param ranked indexes of texts, best first @param relevant indexes */
  add(query: string, score: number, ranked: readonly number[], relevant: readonly number[], text: (index: number) => string): void {
    if (this.#worst.length === KEPT && score >= this.#worst.at(-1)!.score) return
    const wanted = new Set(relevant)
    const example: RankingExample = {
      kind: 'ranking',
      query: shorten(query),
      score,
      expected: relevant.slice(0, SHOWN).map((index) => ({ text: shorten(text(index)), rank: ranked.indexOf(index) + 1 || null })),
      retrieved: ranked.slice(0, SHOWN).map((index) => ({ text: shorten(text(index)), relevant: wanted.has(index) })),
    }
    const place = this.#worst.findIndex((other) => other.score > score)
    this.#worst.splice(place < 0 ? this.#worst.length : place, 0, example)
    this.#worst.length = Math.min(this.#worst.length, KEPT)
  }

  list(): readonly RankingExample[] {
    return this.#worst
  }
}

/** The pairs whose rank by cosine is farthest from their rank by label. */
export function worstPairs(
  data: { text1: readonly string[]; text2: readonly string[]; labels: readonly number[] },
  cosines: ArrayLike<number>,
): PairExample[] {
  const byCosine = averageRanks(cosines)
  const byLabel = averageRanks(data.labels)
  const distance = (i: number): number => Math.abs(byCosine[i]! - byLabel[i]!)
  const worst = data.labels.map((_, i) => i).sort((a, b) => distance(b) - distance(a) || a - b)
  return worst.slice(0, KEPT).map((i) => ({
    kind: 'pair',
    text1: shorten(data.text1[i]!),
    text2: shorten(data.text2[i]!),
    label: data.labels[i]!,
    cosine: cosines[i]!,
  }))
}

/** The first texts with a wrong label. */
export function wrongLabels(texts: readonly string[], expected: readonly string[], predicted: readonly string[]): LabelExample[] {
  const wrong = texts.map((_, i) => i).filter((i) => expected[i] !== predicted[i])
  return wrong.slice(0, KEPT).map((i) => ({ kind: 'label', text: shorten(texts[i]!), expected: expected[i]!, predicted: predicted[i]! }))
}

function shorten(text: string): string {
  return text.length > LENGTH ? `${text.slice(0, LENGTH - 1)}…` : text
}
