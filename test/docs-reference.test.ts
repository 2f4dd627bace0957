import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { apiPage, entries } from '../scripts/reference/api.js'
import { bgeProgram, cliPage, commandsOf } from '../scripts/reference/commands.js'
import { exportsOf } from '../scripts/reference/declarations.js'

// docs/reference/ is made of dist/ (npm run build:ts): here again, and compared.
const root = fileURLToPath(new URL('..', import.meta.url))
const page = (name: string): string => readFileSync(join(root, 'docs/reference', name), 'utf8')
const stale = 'is stale: npm run build:ts && npm run docs:reference'

describe('docs/reference', () => {
  test('api.md is what the declarations say', () => {
    expect(apiPage(root) === page('api.md'), `docs/reference/api.md ${stale}`).toBe(true)
  })

  test('cli.md is what the commands say', async () => {
    expect((await cliPage(root)) === page('cli.md'), `docs/reference/cli.md ${stale}`).toBe(true)
  })

  test('every export has a doc comment', () => {
    const all = entries(root)
    expect(all.map(({ specifier }) => specifier)).toContain('bge-forge')
    const bare = all.flatMap(({ declarations }) => declarations.filter(({ doc }) => doc === '').map(({ name, file }) => `${file}: ${name}`))
    expect(bare).toEqual([])
  })

  test('what the module exports at run time is in the reference', async () => {
    for (const { specifier, declarations } of entries(root)) {
      const module = (await import(/* @vite-ignore */ specifier)) as Record<string, unknown>
      const names = declarations.map(({ name }) => name)
      expect(names, specifier).toEqual(expect.arrayContaining(Object.keys(module)))
      for (const [space, value] of Object.entries(module).filter(([, one]) => Object.prototype.toString.call(one) === '[object Module]'))
        expect(names).toEqual(expect.arrayContaining(Object.keys(value as object).map((name) => `${space}.${name}`)))
    }
  })

  test('the commands are those of the program', async () => {
    const help = execFileSync(process.execPath, [join(root, 'dist/cli/main.js'), '--help'], { encoding: 'utf8' })
    const listed = [...help.slice(help.indexOf('Commands:')).matchAll(/^ {2}([a-z]+)\b/gm)].map(([, name]) => name!)
    const names = commandsOf(await bgeProgram(root)).flatMap(({ words }) => (words.length === 1 ? words : []))
    expect([...names, 'help'].sort()).toEqual(listed.sort())
  })
})

describe('declarations', () => {
  const folder = mkdtempSync(join(tmpdir(), 'bge-declarations-'))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  test('are found through lists, renaming, stars and overloads; private members are left out', () => {
    writeFileSync(
      join(folder, 'index.d.ts'),
      `import { hidden } from './index.js';
export { type Shape, make as build } from './part.js';
export * as part from './part.js';
export declare const one: { readonly text: "a;b}" };
declare const local: number;
export { local };
`,
    )
    writeFileSync(
      join(folder, 'part.d.ts'),
      `/** All of it. */
/**
 * What has
 * corners.
 */
export interface Shape {
    /** How many */
    corners: number;
}
/** Makes it. */
export declare function make(n: number): Shape;
export declare function make(n: string): Shape;
export declare class Box implements Shape {
    #private;
    /** Not for you */
    private secret;
    corners: number;
    private constructor();
}
`,
    )
    const found = exportsOf(join(folder, 'index.d.ts')).map(({ name, doc, code }) => [name, doc, code.replaceAll('\n', ' ')])
    const shape = 'interface Shape {   /** How many */   corners: number; }'
    const make = 'function make(n: number): Shape; function make(n: string): Shape;'
    const box = 'class Box implements Shape {   corners: number; }'
    expect(found).toEqual([
      ['Shape', 'What has\ncorners.', shape],
      ['build', 'Makes it.', make],
      ['part', 'All of it.', 'namespace part'],
      ['part.Shape', 'What has\ncorners.', shape],
      ['part.make', 'Makes it.', make],
      ['part.Box', '', box],
      ['one', '', 'const one: { readonly text: "a;b}" };'],
      ['local', '', 'const local: number;'],
    ])
  })
})
