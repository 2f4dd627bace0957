import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import JSON5 from 'json5'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { check, matches, type Schema } from '../lib/data/check.js'
import { assign, readSettings } from '../lib/data/config_file.js'
import { linesOfJson } from '../lib/data/json_lines.js'
import { CONFIG_KEYS, type ConfigKey } from '../lib/train/config.js'
import { newTinyModel, tinyData } from './support/tiny_run.js'

const root = mkdtempSync(join(tmpdir(), 'bge-config-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const at = (name: string): string => join(root, name)
const write = (name: string, text: string): string => {
  writeFileSync(at(name), text)
  return at(name)
}

describe('where a value was written', () => {
  test('keys and entries of JSON5, whatever stands between them', () => {
    const text = `// { "no": 1 }
{
  a: 1, /* b: {
  */ "b.c": { 'd': [ 1,
    2, { e: "// { not a comment", f: '}' } ] },
  g: -.5e3, h: [[], {}],
  'i': Infinity }`
    expect(() => JSON5.parse(text)).not.toThrow()
    expect(Object.fromEntries(linesOfJson(text))).toEqual({
      '': 2,
      a: 3,
      'b.c': 4,
      'b.c.d': 4,
      'b.c.d[0]': 4,
      'b.c.d[1]': 5,
      'b.c.d[2]': 5,
      'b.c.d[2].e': 5,
      'b.c.d[2].f': 5,
      g: 6,
      h: 6,
      'h[0]': 6,
      'h[1]': 6,
      i: 7,
    })
  })

  test('the nearest part that was written; --set for what was set', async () => {
    const read = await readSettings(write('a.json5', '{\n a: {\n  b: 1 },\n c: [\n {d: 1},\n {d: 2}] }'), 'ERR_BGE_CONFIG')
    expect(read.at('a.b')).toBe(`${at('a.json5')}:3`)
    expect(read.at('a.missing.deep')).toBe(`${at('a.json5')}:2`)
    expect(read.at('c[1].d')).toBe(`${at('a.json5')}:6`)
    expect(read.at('nothing')).toBe(at('a.json5'))
    const set = assign(assign(read, 'c[1].d=5', 'ERR_BGE_CONFIG'), 'x.y.z=[1,2]', 'ERR_BGE_CONFIG')
    expect(set.values).toEqual({ a: { b: 1 }, c: [{ d: 1 }, { d: 5 }], x: { y: { z: [1, 2] } } })
    expect(read.values).toEqual({ a: { b: 1 }, c: [{ d: 1 }, { d: 2 }] })
    expect([set.at('c[1].d'), set.at('c[0].d'), set.at('x.y.z')]).toEqual(['--set', `${at('a.json5')}:5`, '--set'])
  })

  test.each([
    ['a.b', /--set must be key=value/],
    ['a..b=1', /with a key such as a\.b or a\[0\]\.b/],
    ['a.b.c=1', /must name a key inside of an object, but a\.b is 1/],
    ['c[7].d=1', /must name an entry that is there, but there is no 7/],
  ])('refuses --set %s', async (text, message) => {
    const settings = { values: { a: { b: 1 }, c: [{ d: 1 }] }, at: () => '' }
    expect(() => assign(settings, text, 'ERR_BGE_CONFIG')).toThrow(message)
  })
})

describe('files', () => {
  test('a byte-order mark, JSON5, .mjs', async () => {
    expect((await readSettings(write('bom.json', '\uFEFF{"a":1}'), 'ERR_BGE_CONFIG')).values).toEqual({ a: 1 })
    expect((await readSettings(write('m.mjs', 'export default { a: 2 ** 5 }'), 'ERR_BGE_CONFIG')).values).toEqual({ a: 32 })
  })

  test.each<[string, string, RegExp]>([
    ['bad.json', '{"a": 1,\n "b" 2}', /bad\.json:2:6: expected JSON, but invalid character '2'$/],
    ['list.json', '[1]', /list\.json must hold a JSON object, but the value was an array of 1/],
    ['none.mjs', 'export const a = 1', /none\.mjs must export an object as default, but the value was undefined/],
    ['function.mjs', 'export default { a: () => 1 }', /function\.mjs must be a module that exports plain data/],
    ['throws.mjs', 'throw new Error("no")', /throws\.mjs must be a module that exports plain data, but no$/],
  ])('refuses %s', async (name, text, message) => {
    await expect(readSettings(write(name, text), 'ERR_BGE_CONFIG')).rejects.toMatchObject({
      code: 'ERR_BGE_CONFIG',
      message: expect.stringMatching(message),
    })
  })

  test('a file that is missing is one', async () => {
    for (const name of ['missing.json', 'missing.mjs'])
      await expect(readSettings(at(name), 'ERR_BGE_CONFIG')).rejects.toMatchObject({ code: 'ERR_BGE_FILE' })
  })
})

describe('the schema of the configuration', () => {
  // The sentence says what the schema accepts: bounds that are named must be the bounds.
  test.each(Object.keys(CONFIG_KEYS) as ConfigKey[])('%s', (key) => {
    const { expected, schema } = CONFIG_KEYS[key]
    const numeric = [schema.type].flat().some((type) => type === 'integer' || type === 'number')
    for (const [bound, words] of [
      [schema.minimum, /(at least|from) /],
      [schema.exclusiveMinimum, /(greater than|between) /],
    ] as const)
      if (numeric && bound !== undefined) expect(expected).toMatch(new RegExp(`${words.source}${bound}`))
    for (const value of (schema.enum ?? []) as string[]) expect(expected).toContain(`'${value}'`)
    expect(matches(schema, { no: 'such' })).toBe(false)
  })

  test('every keyword is understood', () => {
    const accepts = (schema: Schema, value: unknown): boolean => matches(schema, value)
    expect(accepts({ type: 'number', exclusiveMinimum: 0, exclusiveMaximum: 1 }, 1)).toBe(false)
    expect(accepts({ type: 'number', exclusiveMinimum: 0, exclusiveMaximum: 1 }, 0.5)).toBe(true)
    expect(accepts({ type: ['number', 'null'], minimum: 0 }, null)).toBe(true)
    expect(accepts({ type: 'array', items: { type: 'integer' }, uniqueItems: true }, [1, 1])).toBe(false)
    expect(accepts({ type: 'array', items: { type: 'integer' } }, [1, 'a'])).toBe(false)
    expect(accepts({ type: 'string', pattern: '^a' }, 'ba')).toBe(false)
    const written = { code: 'ERR_BGE_RECIPE' as const, what: 'a thing', at: (path: string) => `f:${path}` }
    const branches: Schema = { oneOf: ['x', 'y'].map((tag) => ({ type: 'object', required: ['do'], properties: { do: { const: tag } } })) }
    const schema: Schema = { type: 'object', additionalProperties: branches }
    expect(() => check(schema, { y: {} }, written)).toThrow('f:y.do: y.do must be one of x, y, but is missing; did you mean y?')
    expect(() => check(schema, { a: { do: 'z' } }, written)).toThrow('a.do must be one of x, y, but was "z"; did you mean x?')
    expect(() => check(schema, { a: { do: 'x' } }, written)).not.toThrow()
  })
})

describe('on the command line', () => {
  const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
  let pairs: string
  beforeAll(async () => {
    if (!existsSync(main)) throw new Error('dist/ is not built: npm run build:ts')
    await newTinyModel(at('model'))
    pairs = (await tinyData(root)).pairs
  })
  const contrastive = (...args: string[]) =>
    spawnSync(process.execPath, [main, 'contrastive', '--model', at('model'), '--data', pairs, '--out', at('out'), ...args], {
      encoding: 'utf8',
    })

  test('every value says where it comes from, a JSON5 file and then --set', () => {
    const config = write(
      'c.json5',
      '{\n // a comment\n $schema: "train.schema.json",\n steps: 3, batchSize: 4,\n maxLength: 9, queryMaxLength: 16, passageMaxLength: 32 }',
    )
    const { status, stderr } = contrastive('--config', config, '--set', 'steps=2', '--set', 'threads=1', '--device', 'cpu')
    expect(stderr).toContain(
      `steps: 2 (--set)\nbatchSize: 4 (${config}:4)\nqueryMaxLength: 16 (${config}:5)\npassageMaxLength: 32 (${config}:5)\nthreads: 1 (--set)\ndevice: "cpu" (--device)\n`,
    )
    expect(stderr).toContain('note: maxLength is not used by contrastive')
    expect(status).toBe(0)
  })

  test('an error names the line', () => {
    const config = write('wrong.json5', '{\n batchSize: 4,\n epocs: 2 }')
    expect(contrastive('--config', config)).toMatchObject({
      status: 1,
      stdout: '',
      stderr: `error [ERR_BGE_CONFIG]: "epocs" is not a configuration key (${config}:3); did you mean epochs?\n`,
    })
  })
})
