import { InvalidArgumentError, Option } from 'commander'
import { dtypes } from '../native.js'

/** Parser of an option that is an integer of at least `min`. */
export function integer(min: number): (value: string) => number {
  return (value) => {
    const number = Number(value)
    if (!/^\d+$/.test(value) || !Number.isSafeInteger(number) || number < min) {
      throw new InvalidArgumentError(`It must be an integer of at least ${min}.`)
    }
    return number
  }
}

/** `--dtype` of the commands that compute vectors. */
export function dtypeOption(): Option {
  return new Option(
    '--dtype <type>',
    'what linear layers multiply in: int8 on the CPU alone (default: fp32 on the CPU, bf16 with fp32 sums on CUDA)',
  ).choices(dtypes)
}

/** Parser of `LOW-HIGH`. */
export function range(value: string): [low: number, high: number] {
  const match = /^(\d+)-(\d+)$/.exec(value)
  if (!match || Number(match[1]) >= Number(match[2]))
    throw new InvalidArgumentError('It must be LOW-HIGH with LOW below HIGH, as in 10-210.')
  return [Number(match[1]), Number(match[2])]
}

/** Parser of a comma-separated list. */
export function list(value: string): string[] {
  const words = value
    .split(',')
    .map((word) => word.trim())
    .filter((word) => word !== '')
  if (words.length === 0) throw new InvalidArgumentError('It must be a comma-separated list.')
  return words
}

/** Parser of an option that may be repeated: all of its values. */
export function repeated(value: string, all: string[]): string[] {
  return [...all, value]
}

/** Parser of an option that is a number above `min`. */
export function number(min: number): (value: string) => number {
  return (value) => {
    const parsed = Number(value)
    if (value.trim() === '' || !Number.isFinite(parsed) || !(parsed > min))
      throw new InvalidArgumentError(`It must be a number above ${min}.`)
    return parsed
  }
}

/** Parser of a number or the word `none` (not null, which commander would take for an option without a value). */
export function numberOrNone(value: string): number | 'none' {
  if (value === 'none') return value
  const parsed = Number(value)
  if (value.trim() === '' || !Number.isFinite(parsed)) throw new InvalidArgumentError("It must be a number or 'none'.")
  return parsed
}
