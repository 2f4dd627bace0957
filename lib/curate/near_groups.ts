import type { DedupStep, NearPlan, SamplePair } from './dedup.js'
import { jaccard } from './near.js'
import type { Row } from './row.js'
import type { Store } from './store.js'
import { fieldText } from './stored_row.js'

export interface NearCounts {
  /** pairs that shared a band */
  candidates: number
  /** of those, at or above the threshold */
  verified: number
  /** the most rows with one key in a band */
  largestBucket: number
  /** buckets in which not every pair was compared */
  oversized: number
  /** dropped rows by similarity to the row kept instead: [i] for i/20 <= similarity < (i+1)/20; [20] for 1 */
  histogram: number[]
}

/** In a bucket every row is compared with this many first ones, in the order that decides. */
const HEADS = 32
const SAMPLES = 10

/**
 * Marks near-duplicates among the rows of table `kept`. Candidates are rows that share the key of a band; they are verified by the exact Jaccard
 * similarity of their n-gram sets. Then, in order, a row is dropped when an earlier row that stays is a near-duplicate of it.
 *
 * Why greedy in order and not connected components: with components a chain A-B-C drops C although it is unlike A (on templated web text such
 * chains join thousands of different pages); here every dropped row has a kept one at or above the threshold, and no two kept
 * rows are a verified pair.
 *
 * In a bucket of more than 33 rows comparing all pairs would be quadratic: each row is compared with the first 32, and with the first 32 of those that
 * share the next band too. Copies of one text find their first in either; what may be missed is counted in `oversized`.
 */
export async function dropNear(
  store: Store,
  ranks: number,
  plan: NearPlan,
  priorityStep: number,
  onProgress: (step: DedupStep, done: number, total?: number) => void,
): Promise<{ counts: NearCounts; samples: SamplePair[]; isDropped: (place: number) => boolean }> {
  const buckets = await findCandidates(store, plan.banding!.bands, (band) => onProgress('bands', band, plan.banding!.bands))
  const { candidates, verified } = await verify(store, plan, (done, total) => onProgress('verify', done, total))
  const dropped = new Uint8Array(Math.ceil(ranks / 8))
  const isDropped = (place: number): boolean => {
    const rank = place % priorityStep
    return ((dropped[rank >> 3]! >> (rank & 7)) & 1) === 1
  }
  const histogram = new Array<number>(21).fill(0)
  const samples: { dropped: number; kept: number; similarity: number }[] = []
  for await (const [us, vs, similarities] of store.stream('SELECT u, v, similarity FROM edges ORDER BY v, u')) {
    for (let i = 0; i < us!.length; i++) {
      const [u, v, similarity] = [us![i] as number, vs![i] as number, similarities![i] as number]
      if (isDropped(u) || isDropped(v)) continue
      const rank = v % priorityStep
      dropped[rank >> 3]! |= 1 << (rank & 7)
      histogram[Math.floor(similarity * 20)]!++
      if (samples.length < SAMPLES) samples.push({ dropped: v, kept: u, similarity })
    }
  }
  return { counts: { candidates, verified, ...buckets, histogram }, samples: await seqsOf(store, samples), isDropped }
}

/** Table candidates: distinct pairs (u, v) of places, u before v. */
async function findCandidates(
  store: Store,
  bands: number,
  progress: (band: number) => void,
): Promise<{ largestBucket: number; oversized: number }> {
  const names = Array.from({ length: bands }, (_, i) => `b${i}`)
  await store.run(`CREATE TABLE bands AS SELECT place, ${names.join(', ')} FROM raw JOIN kept USING (seq) WHERE b0 IS NOT NULL`)
  await store.run('CREATE TABLE hits (u DOUBLE, v DOUBLE)')
  let [largestBucket, oversized] = [0, 0]
  for (const [i, name] of names.entries()) {
    const next = names[(i + 1) % bands]!
    await store.run(`CREATE OR REPLACE TABLE members AS
      SELECT key, next, place, row_number() OVER (PARTITION BY key ORDER BY place) AS number
      FROM (SELECT ${name} AS key, ${next} AS next, place FROM bands)
      WHERE key IN (SELECT ${name} FROM bands GROUP BY ${name} HAVING count(*) > 1)`)
    await store.run(`INSERT INTO hits SELECT h.place, m.place FROM members m JOIN (FROM members WHERE number <= ${HEADS}) h USING (key)
      WHERE h.number < m.number`)
    largestBucket = Math.max(largestBucket, await store.number('SELECT coalesce(max(number), 0) FROM members'))
    // Large buckets again, divided by the next band.
    await store.run(`CREATE OR REPLACE TABLE members AS
      SELECT key, next, place, row_number() OVER (PARTITION BY key, next ORDER BY place) AS part
      FROM members WHERE key IN (SELECT key FROM members WHERE number = ${HEADS + 2})`)
    await store.run(`INSERT INTO hits SELECT h.place, m.place FROM members m JOIN (FROM members WHERE part <= ${HEADS}) h USING (key, next)
      WHERE h.part < m.part`)
    oversized += await store.number('SELECT count(DISTINCT key) FROM members')
    progress(i + 1)
  }
  await store.run('DROP TABLE members')
  await store.run('DROP TABLE bands')
  await store.run('CREATE TABLE candidates AS SELECT DISTINCT u, v FROM hits')
  await store.run('DROP TABLE hits')
  return { largestBucket, oversized }
}

/** Table edges: the candidates at or above the threshold with their similarity. */
async function verify(
  store: Store,
  { fields, threshold, negatives }: NearPlan,
  progress: (done: number, total: number) => void,
): Promise<{ candidates: number; verified: number }> {
  let [done, verified] = [0, 0]
  const candidates = await store.number('SELECT count(*) FROM candidates')
  // A scan of raw that keeps only the lines in question: joining raw itself twice would put all lines into a hash table.
  await store.run(`CREATE TABLE suspects AS SELECT place, line FROM raw JOIN kept USING (seq)
    WHERE place IN (SELECT u FROM candidates UNION SELECT v FROM candidates)`)
  const writer = await store.create('edges', { u: 'DOUBLE', v: 'DOUBLE', similarity: 'DOUBLE' })
  const read = (line: string): { texts: string[]; negIds: readonly string[] } => {
    const row = JSON.parse(line) as Row // checked when it was first read
    return { texts: fields.map((field) => fieldText(row, field)), negIds: negatives === 'count' ? row.negIds : [] }
  }
  for await (const [us, vs, first, second] of store.stream(`SELECT u, v, a.line, b.line FROM candidates
    JOIN suspects a ON u = a.place JOIN suspects b ON v = b.place`)) {
    for (let i = 0; i < us!.length; i++) {
      const [a, b] = [read(first![i] as string), read(second![i] as string)]
      if (b.negIds.some((id) => !a.negIds.includes(id))) continue
      const similarity = Math.min(...fields.map(({ ngram }, k) => jaccard(a.texts[k]!, b.texts[k]!, ngram)))
      if (similarity < threshold) continue
      verified++
      writer.add([us![i]!, vs![i]!, similarity])
    }
    progress((done += us!.length), candidates)
  }
  writer.close()
  await store.run('DROP TABLE suspects')
  return { candidates, verified }
}

/** Places to seqs. */
async function seqsOf(store: Store, samples: readonly SamplePair[]): Promise<SamplePair[]> {
  if (samples.length === 0) return []
  const seqs = new Map<number, number>()
  const places = samples.flatMap(({ dropped, kept }) => [dropped, kept])
  for await (const [found, numbers] of store.stream(`SELECT place, seq FROM kept WHERE place IN (${places.join(', ')})`)) {
    for (const [i, place] of found!.entries()) seqs.set(place as number, numbers![i] as number)
  }
  return samples.map(({ dropped, kept, similarity }) => ({ dropped: seqs.get(dropped)!, kept: seqs.get(kept)!, similarity }))
}
