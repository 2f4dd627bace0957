import { expect } from 'vitest'

/** Every element that is opened is closed, in order. */
export function checkNesting(html: string): void {
  const open: string[] = []
  for (const [, close, name, rest] of html.matchAll(/<(\/?)([a-z][a-z0-9]*)([^<>]*)>/g)) {
    if (rest!.endsWith('/') || ['meta', 'br'].includes(name!)) continue
    if (close) expect(open.pop()).toBe(name)
    else open.push(name!)
  }
  expect(open).toEqual([])
}
