import { BgeError } from '../errors.js'
import { EXTRACTORS } from './extractors.js'
import { filter, type Getter, getter, tester, texts, unnest } from './fields.js'
import type { Lookup } from './lookup.js'
import type { Fault, SourceRecord } from './read/records.js'
import type { FieldPath, Source } from './recipe.js'
import { count, type Tally } from './tally.js'

/** A row before cleaning. */
export interface Extracted {
  readonly line: number
  readonly query: string
  readonly pos: readonly string[]
  readonly neg: readonly string[]
}

export interface Extraction {
  /** Rows that these records complete. */
  push(records: readonly SourceRecord[]): Extracted[]
  /** Rows still open at the end of the file. Throws ERR_BGE_DATA where a field of the recipe was in no record. */
  end(): Extracted[]
  /** names of the top-level fields that it reads */
  readonly columns: readonly string[]
}

/** What a role needs of a record: its values, or ids that a lookup turns into values when the row is made. */
interface Role {
  readonly name: string
  readonly path: FieldPath
  readonly get: Getter
  readonly resolve: (ref: unknown, at: string) => unknown[]
}

/** Values of one row to be: of one record, or of a group of them. */
interface Group {
  readonly line: number
  readonly key: string
  readonly queries: readonly unknown[]
  readonly pos: unknown[]
  readonly neg: unknown[]
}

/**
 * Compiles the extraction of a source from one file.
 * @param lookups one for each of source.join, in order
 * @param shown the file's name in samples
 */
export function extraction(
  source: Source,
  file: string,
  shown: string,
  lookups: readonly Lookup[],
  tally: Tally,
  fault: Fault,
): Extraction {
  const { extract } = source
  const { query: queryRole, pos: posRole } = EXTRACTORS[extract.type]
  const at = (line: number): string => `${shown}:${line}`

  const role = (name: string): Role => {
    const path = extract.fields[name] ?? name
    const j = source.join.findIndex(({ fields }) => Object.values(fields).includes(path))
    if (j < 0) return { name, path, get: getter(path), resolve: (value) => [value] }
    const { on, fields, key } = source.join[j]!
    const field = Object.keys(fields).find((one) => fields[one] === path)!
    const resolve = (id: unknown, where: string): unknown[] => {
      const found = lookups[j]!.get(String(id), field)
      if (found === undefined) count(tally.dropped, 'missing-id', where, `${key} ${id}`)
      return (found ?? []) as unknown[]
    }
    return { name, path: on, get: getter(on), resolve }
  }
  const query = role(queryRole)
  const pos = role(posRole)
  const neg = extract.fields['negative'] === undefined ? undefined : role('negative')
  const rejectedBy = filter(source.where)
  const label = extract.label === undefined ? undefined : getter(extract.label)
  const isPositive = extract.positive === undefined ? undefined : tester(extract.positive)
  const isNegative = extract.negative === undefined ? undefined : tester(extract.negative)
  const groupKey = extract.groupBy === undefined ? undefined : getter(extract.groupBy)

  const groups = new Map<string, Group>()
  const seen = new Set<Role>()
  let firstFields: readonly string[] | undefined

  /** The values of a role as texts; a value that is no text stops the run or drops the row, as `malformed` says. */
  const textsOf = (one: Role, refs: readonly unknown[], line: number): string[] => {
    const values = refs.flatMap((ref) => one.resolve(ref, at(line)))
    const found = texts(values, (what) => {
      throw new BgeError('ERR_BGE_DATA', `${file}:${line}: field ${one.path} expected a text (${one.name}), but was ${what}`)
    })
    return found.filter((text) => text.trim() !== '')
  }

  const made = (group: Group): Extracted[] => {
    try {
      const queries = textsOf(query, group.queries, group.line)
      const positives = textsOf(pos, group.pos, group.line)
      const negatives = neg || group.neg.length > 0 ? textsOf(label ? pos : neg!, group.neg, group.line) : []
      if (group.pos.length === 0 && group.neg.length > 0) count(tally.dropped, 'no-positive', at(group.line), queries[0] ?? '')
      else if (queries.length === 0 || positives.length === 0) {
        const missing = queries.length === 0 ? query : pos
        count(tally.dropped, 'missing', at(group.line), `${missing.path} (${missing.name})`)
      } else {
        tally.extracted += queries.length
        return queries.map((text) => ({ line: group.line, query: text, pos: positives, neg: negatives }))
      }
    } catch (error) {
      if (!(error instanceof BgeError)) throw error
      fault(group.line, error, error.message)
    }
    return []
  }

  /** Adds a record to a group; the groups that this closes. */
  const add = (line: number, value: Readonly<Record<string, unknown>>): Group[] => {
    const kind = label ? judge(label(value)) : 'pos'
    if (kind === undefined) {
      count(tally.dropped, 'label', at(line), () => JSON.stringify(label!(value)))
      return []
    }
    const queries = query.get(value)
    const passages = pos.get(value)
    if (queries.length > 0) seen.add(query)
    if (passages.length > 0) seen.add(pos)
    firstFields ??= Object.keys(value)
    const own: Group = {
      line,
      key: groupKey ? JSON.stringify(groupKey(value)) : '',
      queries,
      pos: kind === 'pos' ? passages : [],
      neg: kind === 'neg' ? passages : (neg?.get(value) ?? []),
    }
    if (!groupKey) {
      if (kind === 'pos') return [own]
      count(tally.dropped, 'label', at(line), () => JSON.stringify(label!(value)))
      return []
    }
    const open = groups.get(own.key)
    if (open) {
      addNew(open.pos, own.pos)
      addNew(open.neg, own.neg)
      return []
    }
    const closed = extract.group === 'adjacent' ? [...groups.values()] : []
    if (closed.length > 0) groups.clear()
    const first: Group = { ...own, pos: [], neg: [] }
    addNew(first.pos, own.pos)
    addNew(first.neg, own.neg)
    groups.set(own.key, first)
    return closed
  }

  const judge = (values: readonly unknown[]): 'pos' | 'neg' | undefined => {
    const value = values[0]
    if (isPositive!(value)) return 'pos'
    return isNegative?.(value) ? 'neg' : undefined
  }

  return {
    columns: columnsOf(source),
    push(records) {
      const rows: Extracted[] = []
      for (const { line, value } of records) {
        const parts = source.unnest.length === 0 ? [value] : unnest(value, source.unnest)
        if (parts.length === 0) count(tally.dropped, 'unnest', at(line), () => JSON.stringify(value).slice(0, 1000))
        tally.read += Math.max(1, parts.length)
        for (const part of parts) {
          const wrong = rejectedBy(part)
          if (wrong === undefined) for (const group of add(line, part)) rows.push(...made(group))
          else count(tally.dropped, 'where', at(line), () => `${wrong}: ${JSON.stringify(getter(wrong)(part))}`)
        }
      }
      return rows
    },
    end() {
      const rows = [...groups.values()].flatMap(made)
      groups.clear()
      const missing = firstFields && [query, pos].find((one) => !seen.has(one))
      if (missing) {
        throw new BgeError(
          'ERR_BGE_DATA',
          `${file}: no record has the field ${missing.path} (${missing.name} of source ${source.name}); the first has ${firstFields!.join(', ')}`,
          { details: { file, field: missing.path } },
        )
      }
      return rows
    },
  }
}

/** Without those that are there: a table of triples repeats its positives. */
function addNew(values: unknown[], more: readonly unknown[]): void {
  for (const one of more) if (!values.includes(one)) values.push(one)
}

/** The top-level names of every path that the source mentions. */
function columnsOf(source: Source): string[] {
  const { extract } = source
  const { query, pos } = EXTRACTORS[extract.type]
  const paths = [
    ...[query, pos].map((name) => extract.fields[name] ?? name),
    ...Object.values(extract.fields),
    ...source.unnest,
    ...Object.keys(source.where),
    ...source.join.map(({ on }) => on),
    ...(extract.label === undefined ? [] : [extract.label]),
    ...(extract.groupBy === undefined ? [] : [extract.groupBy]),
  ]
  return [...new Set(paths.flatMap((path) => [path, path.split(/[.[]/)[0]!]))]
}
