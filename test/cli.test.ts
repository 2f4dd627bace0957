import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
const tokenizer = fileURLToPath(new URL('../examples/quickstart/tokenizer', import.meta.url))
const out = mkdtempSync(join(tmpdir(), 'bge-cli-'))
afterAll(() => rmSync(out, { recursive: true, force: true }))

function bge(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [main, ...args], { encoding: 'utf8', cwd: out })
}
function jsonl(name: string, rows: readonly unknown[]): string {
  const file = join(out, name)
  writeFileSync(file, rows.map((row) => JSON.stringify(row) + '\n').join(''))
  return file
}

beforeAll(() => {
  if (!existsSync(main)) throw new Error('dist/ is not built: npm run build:ts')
})

describe('the command line', () => {
  test('--version and --help', () => {
    const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
    expect(bge('--version')).toMatchObject({ status: 0, stdout: `${version}\n` })
    const help = bge('--help')
    expect(help.status).toBe(0)
    const commands =
      'new embed similarity pretrain contrastive finetune mine run curate data eval cmteb calibrate merge export info doctor bench serve report quickstart'
    for (const command of commands.split(' ')) {
      expect(help.stdout).toMatch(new RegExp(`^  ${command} `, 'm'))
      if (['data', 'cmteb', 'export'].includes(command)) continue
      expect(bge(command, '--help')).toMatchObject({ status: 0, stderr: '', stdout: expect.stringMatching(/\nExamples?:\n {2}bge /) })
    }
    for (const path of ['data validate', 'data stats', 'data split', 'cmteb list', 'cmteb pull', 'export onnx', 'export safetensors'])
      expect(bge(...path.split(' '), '--help')).toMatchObject({ status: 0, stdout: expect.stringMatching(/\nExamples?:\n {2}bge /) })
  })

  test.each([
    [['evl'], /^error \[ERR_BGE_ARGUMENT\]: unknown command 'evl'\n\(Did you mean eval\?\)/],
    [
      ['eval', '--model', 'm', '--data', 'd', '--out', 'o', '--taks', 'x'],
      /^error \[ERR_BGE_ARGUMENT\]: unknown option '--taks'\n\(Did you mean --tasks\?\)/,
    ],
    [['eval'], /^error \[ERR_BGE_ARGUMENT\]: required option '--model <dir>' not specified/],
    [['mine', '--model', 'm', '--data', 'd', '--out', 'o', '--range', '20-10'], /must be LOW-HIGH/],
    [['mine', '--model', 'm', '--data', 'd', '--out', 'o', '--negatives', '0'], /must be an integer of at least 1/],
    [[], /^Usage: bge/],
  ])('%j is wrong usage: exit code 2', (args, message) => {
    const result = bge(...args)
    expect(result.status).toBe(2)
    expect(result.stderr).toMatch(message)
    expect(result.stdout).toBe('')
  })

  test('an error is one line with its code; --debug adds the stack', () => {
    const args = ['eval', '--model', 'nowhere', '--data', '.', '--out', 'results']
    expect(bge(...args)).toMatchObject({
      status: 1,
      stdout: '',
      stderr: expect.stringMatching(/^error \[ERR_BGE_\w+\]: [^\n]*nowhere[^\n]*\n$/),
    })
    expect(bge(...args, '--debug').stderr).toMatch(/\n {4}at /)
  })
})

describe('with a tiny model', () => {
  const model = join(out, 'model')
  const passages = ['春天的花开了', '大海很蓝', '冬天下雪', '鸟在天上飞', '鱼在水里游']

  beforeAll(() =>
    expect(bge('new', '--size', 'tiny', '--tokenizer', tokenizer, '--out', model, '--seed', '1')).toMatchObject({ status: 0 }),
  )

  test('mine writes rows and says what it rejected', () => {
    const data = jsonl(
      'rows.jsonl',
      passages.map((text) => ({ query: `${text}吗`, pos: [text], id: text })),
    )
    const result = bge(
      'mine',
      '--model',
      model,
      '--data',
      data,
      '--out',
      'mined.jsonl',
      '--range',
      '0-5',
      '--negatives',
      '2',
      '--max-relative',
      'none',
    )
    expect(result).toMatchObject({ status: 0, stdout: 'mined.jsonl\n' })
    expect(result.stderr).toMatch(
      /5 rows, 5 passages in the pool\n10 texts encoded\nnegatives: 10 mined, 0 random\nrejected candidates: 5 a positive of the query by text\na positive of the query by text: 5, of them\n {2}\S*rows\.jsonl:\d \[rank/,
    )
    for (const line of readFileSync(join(out, 'mined.jsonl'), 'utf8').trimEnd().split('\n')) {
      const row = JSON.parse(line) as { pos: string[]; neg: string[]; id: string }
      expect(row.neg).toHaveLength(2)
      expect(row.neg).not.toContain(row.pos[0])
      expect(row.id).toBe(row.pos[0])
    }
  })

  test('what mine gives without any setting is what finetune takes, also from a model that knows nothing', () => {
    // Queries that share no character with their passage: the model's cosines say nothing, and many a positive scores below everything.
    const data = jsonl(
      'unlike.jsonl',
      ['手机怎么退', '苹果多少钱', '去哪里看病', '今天星期几', '谁写了这本书'].map((query, i) => ({ query, pos: [passages[i]!] })),
    )
    const mined = bge('mine', '--model', model, '--data', data, '--out', 'unlike-mined.jsonl')
    expect(mined).toMatchObject({ status: 0 })
    const weak = Number(/(\d) rows \([\d.]+ %\) got random negatives alone/.exec(mined.stderr)?.[1])
    expect(weak).toBeGreaterThan(0) // else this proves nothing
    expect(mined.stderr).not.toContain('got no negative')
    const settings = ['steps=1', 'batchSize=5', 'saveEvery=0', 'device=cpu', 'threads=1'].flatMap((text) => ['--set', text])
    const tuned = bge('finetune', '--model', model, '--data', 'unlike-mined.jsonl', '--out', 'unlike-tuned', ...settings)
    expect(tuned).toMatchObject({ status: 0, stdout: `${join('unlike-tuned', 'model')}\n` })
    // Where there is nothing to take, both say so.
    const bare = bge('mine', '--model', model, '--data', data, '--out', 'bare.jsonl', '--fill', 'none')
    expect(bare.stderr).toMatch(/\n5 rows \(100\.0 %\) got no negative: bge finetune stops at such a row; .*--fill random/)
    expect(bge('finetune', '--model', model, '--data', 'bare.jsonl', '--out', 'bare', ...settings)).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(
        /bare\.jsonl:1: field neg expected at least one negative text because groupSize is 2 \(bge mine finds some\), but was /,
      ),
    })
  })

  test('a run goes on when nobody reads its progress any more', async () => {
    const data = jsonl(
      'pairs.jsonl',
      passages.map((text) => ({ query: `${text}吗`, pos: [text] })),
    )
    const settings = ['steps=4', 'batchSize=2', 'saveEvery=0', 'device=cpu', 'threads=1'].flatMap((text) => ['--set', text])
    const child = spawn(process.execPath, [main, 'contrastive', '--model', model, '--data', data, '--out', 'unread', ...settings], {
      cwd: out,
    })
    child.stderr.once('data', () => child.stderr.destroy())
    const [status] = (await once(child, 'exit')) as [number | null]
    expect(status).toBe(0)
    expect(existsSync(join(out, 'unread/model/model.safetensors'))).toBe(true)
  })

  test('eval prints JSON alone on stdout and writes the files', () => {
    const folder = join(out, 'data')
    for (const type of ['reranking', 'sts']) mkdirSync(join(folder, type), { recursive: true })
    jsonl('data/reranking/R.jsonl', [{ query: passages[0], positive: [passages[0]], negative: passages.slice(1) }])
    const args = ['eval', '--model', model, '--data', folder, '--out', 'results']
    const result = bge(...args, '--tasks', 'R', '--json')
    expect(result.status).toBe(0)
    expect(JSON.parse(result.stdout)).toMatchObject({ tasks: [{ task_name: 'R', main_score: 1, file: 'R.json' }] })
    expect(JSON.parse(readFileSync(join(out, 'results/R.json'), 'utf8'))).toMatchObject({
      task_name: 'R',
      type: 'reranking',
      main_score: 1,
    })
    expect(bge(...args).stdout).toMatch(/^reranking\/R {2}map {2}100\.00\n$/)
    expect(bge(...args, '--tasks', 'Q')).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/^error \[ERR_BGE_ARGUMENT\]: task "Q" is not/),
    })
    jsonl('data/sts/S.jsonl', [{ text1: '甲', text2: '乙' }])
    const failed = bge(...args)
    expect(failed.status).toBe(1)
    expect(failed.stderr).toMatch(/error \[ERR_BGE_DATA\]: sts\/S: .*S\.jsonl:1: field label expected a number, but was missing/)
    expect(failed.stdout).toMatch(/sts\/S +ERR_BGE_DATA +failed\nreranking\/R +map +100\.00/)
  })
})
