import { show } from '../errors.js'
import type { Condition, FieldPath, Where } from './recipe.js'

type Fields = Readonly<Record<string, unknown>>

/** Every value at a path: those of all entries where it crosses a list. Missing ones and nulls are left out. */
export type Getter = (record: Fields) => unknown[]

/** Compiles `name`, `a.b`, `a[].b`, `a[0]`. A field whose whole name is the path wins: columns may hold dots. */
export function getter(path: FieldPath): Getter {
  const steps = path.split('.').flatMap((part) => {
    const [, name, index] = /^(.*?)(?:\[(\d*)\])?$/.exec(part)!
    const key = name === '' ? [] : [name!]
    return index === undefined || index === '' ? key : [...key, Number(index)]
  })
  if (steps.length === 1 && path === steps[0]) return (record) => entries(record[path])
  return (record) => (Object.hasOwn(record, path) ? entries(record[path]) : descend(record, steps, 0))
}

function descend(value: unknown, steps: readonly (string | number)[], at: number): unknown[] {
  if (value === undefined || value === null) return []
  if (at === steps.length) return entries(value)
  const step = steps[at]!
  if (Array.isArray(value))
    return typeof step === 'number' ? descend(value[step], steps, at + 1) : value.flatMap((one) => descend(one, steps, at))
  return typeof value === 'object' ? descend((value as Fields)[step], steps, at + 1) : []
}

function entries(value: unknown): unknown[] {
  if (value === undefined || value === null) return []
  return Array.isArray(value) ? value.flatMap(entries) : [value]
}

/** Texts at a path; numbers are written as text. `wrong`: told of a value that is neither. */
export function texts(values: readonly unknown[], wrong: (what: string) => never): string[] {
  return values.map((value) => {
    if (typeof value === 'string') return value
    if (typeof value === 'number') return String(value)
    return wrong(show(value))
  })
}

type Test = (value: unknown) => boolean

/** Compiles a condition. Numbers and booleans also match their text: a table holds "1" where JSON holds 1. A missing value is null. */
export function tester(condition: Condition): Test {
  if (condition === null || typeof condition !== 'object') return oneOf([condition])
  if (Array.isArray(condition)) return oneOf(condition as readonly (string | number | boolean | null)[])
  const { min, max, in: wanted, not } = condition as Exclude<Condition, readonly unknown[] | string | number | boolean | null>
  const tests: Test[] = []
  if (min !== undefined) tests.push((value) => numeric(value) >= min)
  if (max !== undefined) tests.push((value) => numeric(value) <= max)
  if (wanted) tests.push(oneOf(wanted))
  if (not) {
    const unwanted = oneOf(not)
    tests.push((value) => !unwanted(value))
  }
  return (value) => tests.every((test) => test(value))
}

/** NaN, which no bound accepts, where there is no number. */
function numeric(value: unknown): number {
  if (typeof value === 'number') return value
  return typeof value === 'string' && value.trim() !== '' ? Number(value) : Number.NaN
}

function oneOf(wanted: readonly (string | number | boolean | null)[]): Test {
  const forms = new Set(wanted.map((one) => (one === null ? null : String(one))))
  return (value) => forms.has(value === undefined || value === null ? null : String(value))
}

/** The first field of `where` that a record does not meet, undefined where it meets all. A list meets a condition when one entry does. */
export function filter(where: Where): (record: Fields) => string | undefined {
  const tests = Object.entries(where).map(([path, condition]) => ({ path, get: getter(path), test: tester(condition) }))
  return (record) =>
    tests.find(({ get, test }) => {
      const values = get(record)
      return values.length === 0 ? !test(null) : !values.some(test)
    })?.path
}

/** Each record of a list inside of a record, with the fields around it; its own win. */
export function unnest(record: Fields, paths: readonly FieldPath[]): Fields[] {
  let found: Fields[] = [record]
  for (const path of paths) {
    found = found.flatMap((around) =>
      entries(Object.hasOwn(around, path) ? around[path] : getter(path)(around))
        .filter((one): one is Fields => one !== null && typeof one === 'object')
        .map((one) => {
          const { [path]: _list, ...rest } = around
          return { ...rest, ...one }
        }),
    )
  }
  return found
}
