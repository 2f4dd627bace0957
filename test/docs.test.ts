import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command, Option } from 'commander'
import { describe, expect, test } from 'vitest'
import { bgeProgram, commandsOf } from '../scripts/reference/commands.js'
import { type Code, documents, readMarkdown } from './support/markdown.js'

// What the documentation says exists, exists: links, headings, commands and their flags. Needs dist/ (npm run build:ts).
const root = fileURLToPath(new URL('..', import.meta.url))
const files = documents(root)

/** GitHub's anchors of a document's headings. */
function anchors(file: string): Set<string> {
  const seen = new Map<string, number>()
  const all = new Set<string>()
  let fenced = false
  for (const line of readFileSync(join(root, file), 'utf8').split('\n')) {
    if (line.startsWith('```')) fenced = !fenced
    const title = fenced ? undefined : /^#{1,6} (.+)$/.exec(line)?.[1]
    if (title === undefined) continue
    const slug = title
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\p{M} _-]/gu, '')
      .replaceAll(' ', '-')
    const times = seen.get(slug) ?? 0
    seen.set(slug, times + 1)
    all.add(times === 0 ? slug : `${slug}-${times}`)
  }
  return all
}

describe('links', () => {
  test('the documentation is found', () => {
    expect(files).toEqual(
      expect.arrayContaining(['README.md', 'README.zh-CN.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs/architecture.md']),
    )
  })

  test.each(files)('of %s lead somewhere', (file) => {
    const broken: string[] = []
    for (const [i, line] of readMarkdown(root, file).lines.entries()) {
      for (const [, target = ''] of line.matchAll(/\]\(([^)\s]+)\)|src="([^"]+)"/g)) {
        if (/^[a-z]+:/.test(target) || target === '') continue
        const [path = '', anchor] = target.split('#')
        const there = path === '' ? file : normalize(join(dirname(file), decodeURI(path)))
        if (!existsSync(join(root, there))) broken.push(`${file}:${i + 1}: ${target}`)
        else if (anchor !== undefined && there.endsWith('.md') && !anchors(there).has(decodeURI(anchor)))
          broken.push(`${file}:${i + 1}: ${target}: no such heading`)
      }
    }
    expect(broken).toEqual([])
  })

  test('the two READMEs hold the same commands, code, headings and links', () => {
    const shape = (file: string): unknown => {
      const { codes, lines } = readMarkdown(root, file)
      return {
        blocks: codes
          .filter(({ kind, text }) => kind === 'block' && text.trim() !== '')
          .map(({ text }) => text.replace(/\s+(#|\/\/) .*$/, '')),
        headings: lines.filter((line) => line.startsWith('#')).map((line) => /^#+/.exec(line)![0]),
        links: lines.flatMap((line) => [...line.matchAll(/\]\(([^)]+)\)/g)].map(([, to]) => to!)).filter((to) => !/^README/.test(to)),
      }
    }
    expect(shape('README.zh-CN.md')).toEqual(shape('README.md'))
  })
})

/** A placeholder of the documentation: DIR, N, NAME=PATH, a list of them, `...`. */
const placeholder = (word: string): boolean => /^([A-Z][A-Z0-9_.=,/-]*|\.\.\.)$/.test(word)

/** What is wrong with a line that calls `bge`; undefined where nothing is, or where it does not call it. */
function wrong(program: Command, { text, kind }: Code): string | undefined {
  const part = /(?:^|&& |; |\$ |npx |sudo )bge ((?:(?! &&| \| |;).)*)/.exec(text.replace(/\s+#( .*)?$/, '').trim())?.[1]
  if (part === undefined || (kind === 'block' && /^\s*(\/\/|\*|error|Usage|[#$]?\s*bge:)/.test(text))) return undefined
  const words = (part.match(/(?:[^\s"']|"[^"]*"|'[^']*')+/g) ?? []).map((word) => word.replace(/^\[|\]$|["']/g, ''))
  const [first = ''] = words
  if (placeholder(first) || first === '' || first === 'help') return undefined
  if (first.includes('|')) {
    for (const name of first.split('|')) {
      const problem = wrong(program, { at: '', text: `bge ${name} ${part.slice(first.length)}`, kind })
      if (problem !== undefined) return problem
    }
    return undefined
  }
  let command = program
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!
    const below = command.commands.find((one) => one.name() === word || one.aliases().includes(word))
    if (!word.startsWith('-')) {
      if (below) command = below
      else if (command === program || (command.commands.length > 0 && !placeholder(word)))
        return `bge has no command ${words.slice(0, i + 1).join(' ')}`
      continue
    }
    const [flag = '', joined] = word.split(/=(.*)/s)
    const option: Option | undefined = [...command.options, ...program.options].find(({ short, long }) => flag === short || flag === long)
    if (!option) {
      if (['-h', '--help', '--version', '--debug'].includes(flag)) continue
      return `bge ${command.name()} has no option ${flag}`
    }
    const value = option.required || option.optional ? (joined ?? words[i + 1]) : undefined
    if (option.required && value === undefined && kind === 'block') return `${flag} needs a value`
    if (value === undefined || value.startsWith('--') || placeholder(value)) continue
    if (joined === undefined && option.required) i++
    try {
      option.parseArg?.(value, option.defaultValue as never)
    } catch (error) {
      if (option.required) return `${flag} ${value}: ${(error as Error).message}`
    }
  }
  return undefined
}

describe('commands', async () => {
  const program = await bgeProgram(root)

  test('the checker knows a wrong one', () => {
    const check = (text: string, kind: Code['kind'] = 'block'): string | undefined => wrong(program, { at: '', text, kind })
    expect(commandsOf(program).length).toBeGreaterThan(20)
    expect(check('bge new --size small --tokenizer DIR --out init   # why --not')).toBe(undefined)
    expect(check('npx bge neww --size small')).toMatch('no command neww')
    expect(check('bge data look file')).toMatch('no command data look')
    expect(check('bge new --sizes small')).toMatch('no option --sizes')
    expect(check('bge new --size middle')).toMatch(/--size middle: .*Allowed choices/)
    expect(check('cd x && bge mine --range 10')).toMatch('LOW-HIGH')
    expect(check('bge pretrain|mine --plan', 'span')).toMatch('mine has no option --plan')
    expect(check('bge eval --out', 'span')).toBe(undefined)
  })

  test.each(files)('of %s exist, with their flags', (file) => {
    const problems = readMarkdown(root, file).codes.flatMap((code) => {
      const problem = wrong(program, code)
      return problem === undefined ? [] : [`${code.at}: ${problem}`]
    })
    expect(problems).toEqual([])
  })

  test('npm scripts that the documentation names are in package.json', () => {
    const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: Record<string, string> }
    const missing = files.flatMap((file) =>
      readMarkdown(root, file).codes.flatMap(({ at, text }) =>
        [...text.matchAll(/npm run (?:--?[\w-]+ )*([a-z][\w:-]*)/g)]
          .filter(([, name]) => !(name! in scripts))
          .map(([, name]) => `${at}: ${name}`),
      ),
    )
    expect(missing).toEqual([])
  })
})
