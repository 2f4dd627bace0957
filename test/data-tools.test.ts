import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { describeStats } from '../lib/cli/data.js'
import { normaliseForIdentity } from '../lib/data/identity.js'
import { createLengths } from '../lib/data/lengths.js'
import { createSample } from '../lib/data/sample.js'
import { splitData } from '../lib/data/split.js'
import { dataStats } from '../lib/data/stats.js'
import { createTextNumbers } from '../lib/data/text_numbers.js'
import { describeFinding, type Finding, validateFiles } from '../lib/data/validate.js'
import { loadTokenizer } from '../lib/model/folder.js'

const root = mkdtempSync(join(tmpdir(), 'bge-data-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
function file(name: string, content: string | Buffer | readonly unknown[]): string {
  const path = join(root, name)
  const lines = Array.isArray(content) ? content.map((row) => JSON.stringify(row) + '\n').join('') : (content as string | Buffer)
  writeFileSync(path, lines)
  return path
}
const rowsOf = (path: string): Record<string, unknown>[] =>
  readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)

async function findings(path: string, fix: 'none' | 'write' = 'none') {
  const found: Finding[] = []
  const [report] = await validateFiles([path], { fix, onFinding: (finding) => found.push(finding) })
  return { report: report!, found, said: found.map((finding) => describeFinding(finding).replace(`${root}/`, '')) }
}

describe('validate', () => {
  test('right rows of every form are right, and are written as FlagEmbedding rows', async () => {
    const cases: [string, string | readonly unknown[], string, unknown[]][] = [
      ['fe.jsonl', [{ query: '甲', pos: ['乙'], source: 's' }, { query: '丙', pos: ['丁'], neg: ['戊'], pos_scores: [1], neg_scores: [0.5] }], 'flagembedding',
        [{ query: '甲', pos: ['乙'], source: 's' }, { query: '丙', pos: ['丁'], neg: ['戊'], pos_scores: [1], neg_scores: [0.5] }]],
      ['st.jsonl', [{ anchor: '甲', positive: '乙', negative: '丙' }], 'triplet', [{ query: '甲', pos: ['乙'], neg: ['丙'] }]],
      ['lists.jsonl', [{ query: '甲', positive: ['乙', '丁'], negative: ['丙'] }], 'triplet', [{ query: '甲', pos: ['乙', '丁'], neg: ['丙'] }]],
      ['pairs.jsonl', [{ question: '甲', answer: '乙', id: 3 }], 'pair', [{ query: '甲', pos: ['乙'], id: 3 }]],
      ['array.jsonl', [['甲', '乙', '丙', '丁']], 'triplet', [{ query: '甲', pos: ['乙'], neg: ['丙', '丁'] }]],
      ['text.jsonl', [{ text: '甲' }], 'text', [{ text: '甲' }]],
      ['a.csv', '\ufeffanchor,positive\n甲,"乙, ""引""\n二行"\n\n丙,丁\n', 'pair', [{ query: '甲', pos: ['乙, "引"\n二行'] }, { query: '丙', pos: ['丁'] }]],
      ['b.tsv', 'query\tpassage\n甲\t他说"乙\n', 'pair', [{ query: '甲', pos: ['他说"乙'] }]],
    ] // biome-ignore format: a case a row
    for (const [name, content, form, fixed] of cases) {
      const { report, said } = await findings(file(name, content), 'write')
      expect(said, name).toEqual([])
      expect(report, name).toMatchObject({ form, rows: fixed.length, right: fixed.length, mendable: 0, lost: 0, kinds: [] })
      expect(rowsOf(report.fixed!), name).toEqual(fixed)
    }
  })

  test('every fault is named with file, line, field, what was expected and what --fix does', async () => {
    const path = file(
      'wrong.jsonl',
      [
        '{"query":"甲","pos":["乙"],"neg":[]}',
        '{"query":"甲","pos":"乙"}',
        '{"query":7,"pos":["乙",12,"乙",""],"neg":null}',
        '{"query":"甲","pos":["乙"],"neg":["丙","甲","乙"],"pos_scores":[1],"neg_scores":[0.1,0.2,0.3]}',
        '{"query":"甲","pos":["乙"],"pos_scores":[1,2]}',
        '{"query":"甲","pos":[]}',
        '{"query":"  ","pos":["乙"]}',
        '{"query":"甲","pos":["乙"],"neg":["丙"],}',
        '{"query":"甲","pos":["乙"',
        '"甲"',
        '{"query":"甲","positives":["乙"]}',
        '{"anchor":"甲","positive":"乙"}',
        '{"query":"甲\\ud800","pos":["乙"]}',
        '{"query":"甲","pos":[["乙"]]}',
      ].join('\n'),
    )
    const { report, said } = await findings(path, 'write')
    expect(said).toEqual([
      'wrong.jsonl:2: field pos expected an array of strings, as in {"query": "...", "pos": ["..."], "neg": ["..."]} ("neg" may be missing), but was "乙" (--fix: put into an array)',
      'wrong.jsonl:3: field query expected a string, but was 7 (--fix: written as text)',
      'wrong.jsonl:3: field pos[1] expected a string, but was 12 (--fix: written as text)',
      'wrong.jsonl:3: field pos[2] expected a text that the list does not hold already, but was "乙" (--fix: entry dropped)',
      'wrong.jsonl:3: field pos[3] expected a text that is not empty, but was "" (--fix: entry dropped)',
      'wrong.jsonl:3: field neg expected an array of strings, or no such field, but was null (--fix: an empty array instead)',
      'wrong.jsonl:4: field neg[1] expected a text that is neither the query nor a positive, but was "甲" (--fix: entry dropped)',
      'wrong.jsonl:4: field neg[2] expected a text that is neither the query nor a positive, but was "乙" (--fix: entry dropped)',
      'wrong.jsonl:5: field pos_scores expected 1 numbers, one per text, but was an array of 2 (--fix: all scores of the row dropped)',
      'wrong.jsonl:6: field pos expected at least one text, but was an array of 0 (--fix: row dropped)',
      'wrong.jsonl:7: field query expected a text that is not empty, but was "  " (--fix: row dropped)',
      expect.stringMatching(/^wrong\.jsonl:8:38: expected a JSON object, but was broken JSON \(.*\) \(--fix: row dropped\)$/),
      expect.stringMatching(/^wrong\.jsonl:9:24: expected a JSON object, but was broken JSON/),
      'wrong.jsonl:10:1: expected a JSON object, but was "甲" (--fix: row dropped)',
      'wrong.jsonl:11: field pos expected to be there, as in {"query": "...", "pos": ["..."], "neg": ["..."]} ("neg" may be missing), but was missing (fields: query, positives) (--fix: row dropped)',
      'wrong.jsonl:12: expected a row like the first, flagembedding by the fields query and pos, but was the fields anchor, positive (--fix: row dropped)',
      'wrong.jsonl:13: field query expected well-formed Unicode, but was "甲\ufffd" (--fix: half pairs become U+FFFD)',
      'wrong.jsonl:14: field pos[0] expected a string, but was an array of 1 (--fix: row dropped)',
    ])
    expect(report).toMatchObject({ rows: 14, right: 1, mendable: 5, lost: 8 })
    expect(report.kinds.find(({ kind }) => kind === 'field pos[] expected a string')).toBeDefined()
    expect(report.kinds.reduce((sum, { count }) => sum + count, 0)).toBe(said.length)
    expect(rowsOf(join(root, 'wrong.fixed.jsonl'))).toEqual([
      { query: '甲', pos: ['乙'], neg: [] },
      { query: '甲', pos: ['乙'] },
      { query: '7', pos: ['乙', '12'], neg: [] },
      { query: '甲', pos: ['乙'], neg: ['丙'], pos_scores: [1], neg_scores: [0.1] },
      { query: '甲', pos: ['乙'] },
      { query: '甲\ufffd', pos: ['乙'] },
    ])
    // What was mended is right.
    expect((await findings(join(root, 'wrong.fixed.jsonl'))).report).toMatchObject({ rows: 6, right: 6 })
  })

  test('labelled pairs, arrays over lines, other encodings and ragged tables are told apart', async () => {
    expect((await findings(file('labelled.jsonl', [{ text1: '甲', text2: '乙', label: 0 }]))).said).toEqual([
      'labelled.jsonl:1: expected a row without label: labelled pairs become rows with pos and neg by bge curate, but was the fields text1, text2, label (--fix: row dropped)',
    ])
    expect((await findings(file('all.json', '[\n{"query":"甲","pos":["乙"]}\n]'))).said).toEqual([
      'all.json:1: expected a JSON object per line, but was one JSON array over many lines (--fix: rest of the file dropped)',
    ])
    const gbk = Buffer.concat([
      Buffer.from('{"query":"甲","pos":["乙"]}\n{"query":"'),
      Buffer.from([0xbc, 0xd7]),
      Buffer.from('","pos":["b"]}\n'),
    ])
    const { said, report } = await findings(file('gbk.jsonl', gbk))
    expect(said).toEqual([expect.stringMatching(/^gbk\.jsonl:2: expected UTF-8 text, but was something else/)])
    expect(report).toMatchObject({ rows: 2, right: 1, lost: 1 })
    const csv = await findings(file('ragged.csv', 'anchor,positive\n甲,乙\n"多\n行",一,二\n丙,丁\n戊,"开'), 'write')
    expect(csv.said).toEqual([
      expect.stringMatching(
        /^ragged\.csv:3: expected as many cells as the header has, but was Invalid Record Length: columns length is 2, got 3/,
      ),
      expect.stringMatching(/^ragged\.csv:6: expected a table row, but was Quote Not Closed.*rest of the file dropped\)$/),
    ])
    expect(rowsOf(join(root, 'ragged.fixed.jsonl')).map((row) => row['query'])).toEqual(['甲', '丙'])
  })

  test('nothing is written over the input, nor a file without a row', async () => {
    const path = file('a.fixed.jsonl', [{ query: '甲', pos: ['乙'] }])
    const other = file('a.jsonl', [{ query: '甲', pos: '乙' }])
    await expect(validateFiles([other, path], { fix: 'write' })).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
    const csv = file('c.csv', 'anchor,positive\n甲,乙\n')
    await expect(validateFiles([file('c.jsonl', []), csv], { fix: 'write' })).rejects.toThrow(/mended into .*c\.fixed\.jsonl/)
    const before = readFileSync(other)
    await validateFiles([other], { fix: 'write' })
    expect(readFileSync(other)).toEqual(before)
    const { report, said } = await findings(file('none.jsonl', '\n\n'), 'write')
    expect(report).toMatchObject({ rows: 0, fixed: null })
    expect(said).toEqual(['none.jsonl:1: expected at least one row, but was nothing (--fix: none)'])
    expect(existsSync(join(root, 'none.fixed.jsonl'))).toBe(false)
  })
})

describe('stats', () => {
  test('counts what is different, repeated, and long', async () => {
    const path = file('stats.jsonl', [
      { query: '甲？', pos: ['乙乙', '丙'], neg: ['𠀀丁'], source: 'a' },
      { query: '甲', pos: ['乙乙。'], source: 'b' },
      { query: '丙', pos: ['丙'], source: 'b' },
      { query: '丁', pos: [] },
      { query: 5, pos: ['戊'] },
    ])
    const stats = await dataStats([path])
    expect(stats).toMatchObject({
      rows: 4, faulty: 2, lost: 1, queries: 3, passages: 3, repeated: 1, queryIsPositive: 1, positives: 5, negatives: 1, sources: { a: 1, b: 2 }, tokens: null,
    }) // biome-ignore format: counts
    expect(stats.lengths.neg.max).toBe(2)
    expect(describeStats(stats)).toContain('4 rows, 3 different queries, 3 different passages; per row 1.25 positives, 0.25 negatives\n')
  })

  test('tokens: [UNK] and truncation', async () => {
    const tokenizer = await loadTokenizer(new URL('../examples/quickstart/tokenizer', import.meta.url).pathname)
    const long = '月'.repeat(200)
    const path = file('tokens.jsonl', [
      { query: '月\u{1f600}', pos: [long] },
      { query: '月', pos: [long + long + long] },
    ])
    const { tokens } = await dataStats([path], { tokenizer })
    expect(tokens!.rows).toBe(2)
    expect(tokens!.query).toMatchObject({ texts: 2, tokens: 3, unknown: 1 / 3, cut: { 128: 0, 512: 0 } })
    expect(tokens!.pos).toMatchObject({ texts: 2, tokens: 200 + 510, unknown: 0, cut: { 128: 1, 512: 0.5 } })
  })

  test('lengths: percentiles and bins are exact', () => {
    const lengths = createLengths()
    for (const length of [1, 2, 3, 4, 100_000]) lengths.add(length)
    expect([0, 0.2, 0.21, 0.8, 1].map((share) => lengths.percentile(share))).toEqual([0, 1, 2, 4, 100_000])
    expect(lengths.bins([0, 2, 4])).toEqual([1, 2, 2])
    expect([lengths.shareAbove(3), lengths.shareAbove(4), lengths.mean]).toEqual([0.4, 0.2, 20_002])
    expect(createLengths().percentile(0.5)).toBe(0)
  })

  test('numbers of texts survive growth; a sample does not depend on the order', () => {
    const numbers = createTextNumbers()
    for (let i = 0; i < 20_000; i++) expect(numbers.number(`t${i % 10_000}`)).toBe(i % 10_000)
    expect(numbers.size).toBe(10_000)
    expect(new Set(Array.from({ length: 10_000 }, (_, i) => numbers.rank(i))).size).toBe(10_000)
    const take = (values: number[]): number[] => {
      const sample = createSample<number>(5)
      for (const value of values) sample.offer((value * 7919) % 1009, () => value)
      return sample.items()
    }
    const values = Array.from({ length: 1000 }, (_, i) => i)
    expect(take(values)).toEqual([...values].sort((a, b) => ((a * 7919) % 1009) - ((b * 7919) % 1009)).slice(0, 5))
    expect(take(values)).toEqual(take([...values].reverse()))
    expect(createSample(0).items()).toEqual([])
  })
})

describe('split', () => {
  // 400 rows in chains: row i shares its query with row i+1 or a passage with row i-1, up to five rows in a chain; some by another spelling.
  const rows = Array.from({ length: 400 }, (_, i) => {
    const chain = Math.floor(i / 5)
    const link = i % 5
    return {
      query: `问题${chain}之${Math.floor(link / 2)}${link % 2 ? '？' : ''}`,
      pos: [`答案${chain}之${Math.floor((link + 1) / 2)}${link === 3 ? '。' : ''}`],
      neg: ['同一个反例'],
      row: i,
    }
  })
  const texts = (all: Record<string, unknown>[]): Set<string> =>
    new Set(all.flatMap((row) => [row['query'] as string, ...(row['pos'] as string[])].map(normaliseForIdentity)))

  test('no query and no positive is on both sides; every row is on one; the order of rows does not matter', async () => {
    const result = await splitData([file('split.jsonl', rows)], { out: join(root, 'split'), dev: 0.1 })
    expect(result).toMatchObject({ train: 360, dev: 40, groups: 80, largestGroup: 5 })
    const [train, dev] = [rowsOf(result.files.train), rowsOf(result.files.dev)]
    expect([...texts(train)].filter((text) => texts(dev).has(text))).toEqual([])
    expect([...train, ...dev].map((row) => row['row']).sort((a, b) => (a as number) - (b as number))).toEqual(rows.map((row) => row.row))
    expect(train.map((row) => row['row'])).toEqual(train.map((row) => row['row']).toSorted((a, b) => (a as number) - (b as number)))
    const shuffled = [...rows].reverse()
    const halves = [file('h1.jsonl', shuffled.slice(0, 100)), file('h2.jsonl', shuffled.slice(100))]
    const again = await splitData(halves, { out: join(root, 'again'), dev: 40 })
    expect(new Set(rowsOf(again.files.dev).map((row) => row['row']))).toEqual(new Set(dev.map((row) => row['row'])))
    const seeded = await splitData(halves, { out: join(root, 'seeded'), dev: 40, seed: 1 })
    expect(new Set(rowsOf(seeded.files.dev).map((row) => row['row']))).not.toEqual(new Set(dev.map((row) => row['row'])))
  })

  test('a query that is a passage elsewhere ties the rows', async () => {
    const path = file('tied.jsonl', [
      { anchor: '甲', positive: '乙' },
      { anchor: '乙', positive: '丙' },
      { anchor: '丁', positive: '戊' },
    ])
    const result = await splitData([path], { out: join(root, 'tied'), dev: 1 })
    expect(rowsOf(result.files.dev)).toEqual([{ query: '丁', pos: ['戊'] }])
  })

  test('refuses what it cannot split, and leaves nothing behind', async () => {
    const out = join(root, 'refused')
    const one = file('one.jsonl', [
      { query: '甲', pos: ['乙'] },
      { query: '甲', pos: ['丙'] },
    ])
    await expect(splitData([one], { out, dev: 1 })).rejects.toThrow(
      /to fit into a dev set of 1 rows, but the smallest has 2 rows \(the largest has 2 of 2\)/,
    )
    await expect(splitData([file('bad.jsonl', [{ query: '甲', pos: '乙' }])], { out })).rejects.toThrow(
      /bad\.jsonl:1: field pos expected .* --fix/,
    )
    await expect(splitData([one], { out, dev: 1.5 })).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
    await expect(splitData([file('train.jsonl', rows)], { out: root })).rejects.toThrow(/would be written over/)
    const stop = AbortSignal.abort()
    await expect(
      splitData(
        [
          file(
            'many.jsonl',
            Array.from({ length: 5000 }, () => rows[0]),
          ),
        ],
        { out, signal: stop },
      ),
    ).rejects.toThrow(/abort/)
    expect(existsSync(out)).toBe(false)
  })
})

describe('on the command line', () => {
  const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
  const data = (...args: string[]) => spawnSync(process.execPath, [main, 'data', ...args], { encoding: 'utf8', cwd: root })

  test('validate ends with 1 where something is wrong, and with 0 once it is mended', () => {
    file('cli.jsonl', [{ query: '甲', pos: '乙' }, { query: '丙', pos: ['丁'] }, { pos: ['丁'] }])
    const found = data('validate', 'cli.jsonl', '--show', '1')
    expect(found.status).toBe(1)
    expect(found.stderr).toMatch(
      /^cli\.jsonl:1: field pos expected an array of strings.*\(--fix: put into an array\)\nerror \[ERR_BGE_DATA\]: cli\.jsonl: 2 rows are not right; --fix/,
    )
    expect(found.stdout).toMatch(/^cli\.jsonl: 3 rows \(flagembedding\), 1 right, 1 mendable, 1 lost\n {2}1 x field pos expected an array/)
    const fixed = data('validate', 'cli.jsonl', '--fix')
    expect(fixed.status).toBe(0)
    expect(fixed.stdout).toContain('  wrote cli.fixed.jsonl: 2 rows\n')
    expect(data('validate', 'cli.fixed.jsonl')).toMatchObject({
      status: 0,
      stderr: '',
      stdout: expect.stringContaining('2 right, 0 mendable'),
    })
    file('lost.jsonl', [{ pos: ['丁'] }])
    expect(data('validate', 'lost.jsonl', '--fix')).toMatchObject({ status: 1, stderr: expect.stringMatching(/no row is left/) })
  })

  test('stats as JSON, split with its files', () => {
    file(
      'cli-split.jsonl',
      Array.from({ length: 20 }, (_, i) => ({ query: `问${i}`, pos: [`答${i}`] })),
    )
    const stats = data('stats', 'cli-split.jsonl', '--json')
    expect(JSON.parse(stats.stdout)).toMatchObject({ rows: 20, queries: 20, tokens: null, lengths: { query: { count: 20, max: 3 } } })
    const split = data('split', 'cli-split.jsonl', '--out', 'cli-out', '--dev', '0.1')
    expect(split).toMatchObject({
      status: 0,
      stdout: 'cli-out/train.jsonl\ncli-out/dev.jsonl\n',
      stderr: expect.stringMatching(/^18 rows to train, 2 to dev;/),
    })
    expect(rowsOf(join(root, 'cli-out/dev.jsonl'))).toHaveLength(2)
    expect(data('split', 'cli-split.jsonl', '--out', 'x', '--dev', '1.5')).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/It must be a share below 1/),
    })
  })
})
