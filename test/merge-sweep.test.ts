import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { localTask } from '../lib/eval/sources.js'
import { listTasks } from '../lib/eval/tasks.js'
import { sweepMerge } from '../lib/merge/sweep.js'
import { BgeModel } from '../lib/model/model.js'

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
const tokenizerDir = fileURLToPath(new URL('../examples/quickstart/tokenizer', import.meta.url))
const words = ['月食', '米饭', '公园', '高铁', '苹果', '医生', '风筝', '地球', '钢琴']
let root = ''
let models: [string, string]
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-sweep-'))
  models = [join(root, 'a'), join(root, 'b')]
  for (const [i, folder] of models.entries()) {
    const model = await BgeModel.createNew({ size: 'tiny', tokenizerDir, seed: i, device: 'cpu' })
    await model.save(folder)
    model.dispose()
  }
  await mkdir(join(root, 'eval', 'sts'), { recursive: true })
  for (const name of ['one', 'two']) {
    const rows = words.map((word, i) => ({ text1: word, text2: words[(i * (name === 'one' ? 2 : 4)) % 9], label: (i * 7) % 5 }))
    await writeFile(join(root, 'eval', 'sts', `${name}.jsonl`), rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  }
})
afterAll(() => rm(root, { recursive: true, force: true }))

const bge = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' })
const vectorsOf = async (folder: string): Promise<Float32Array> => {
  const model = await BgeModel.load(folder, { device: 'cpu' })
  const { data } = await model.encode(words)
  model.dispose()
  return data
}

describe('a sweep of two models', () => {
  test('scores every alpha once, in order; its ends are the two models; the best mean is kept', async () => {
    const tasks = (await listTasks(join(root, 'eval'))).map(localTask)
    const out = join(root, 'sweep')
    const seen: number[] = []
    const result = await sweepMerge({
      models,
      alphas: [1, 0.5, 0, 0.5],
      tasks: [tasks[0]!, tasks[1]!],
      out,
      load: { device: 'cpu' },
      onPoint: ({ alpha }) => seen.push(alpha),
    })
    expect(seen).toEqual([0, 0.5, 1])
    expect(result.points.map(({ alpha }) => alpha)).toEqual([0, 0.5, 1])
    const means = result.points.map(({ scores: [a, b] }) => (a + b) / 2)
    expect(result.best).toBe(result.points[means.indexOf(Math.max(...means))])
    expect(new Set(result.points.map(({ scores }) => scores.join())).size).toBe(3)
    expect(JSON.parse(await readFile(join(out, 'sweep.json'), 'utf8'))).toEqual(result)
    expect((await readdir(out)).sort()).toEqual(['alpha-0', 'alpha-0.5', 'alpha-1', 'model', 'sweep.html', 'sweep.json'])
    const page = await readFile(join(out, 'sweep.html'), 'utf8')
    expect(page.match(/<circle/g)).toHaveLength(3)
    expect(page).not.toMatch(/NaN|undefined|https?:/)

    const at = async (alpha: number): Promise<Float32Array> => {
      const folder = join(root, `at-${alpha}`)
      expect(bge('merge', '--models', ...models, '--weights', `${alpha},${1 - alpha}`, '--out', folder)).toMatchObject({
        status: 0,
        stdout: `${folder}\n`,
      })
      return vectorsOf(folder)
    }
    expect(await at(1)).toEqual(await vectorsOf(models[0]))
    expect(await at(0)).toEqual(await vectorsOf(models[1]))
    expect(await at(result.best.alpha)).toEqual(await vectorsOf(join(out, 'model')))
  })

  test.each([
    [['--weights', '0.5,0.6'], 'the sum of the weights must be 1, but was 1.1'],
    [['--weights', '1'], '--weights must hold a share for each of the 2 models, but holds 1'],
    [['--weights', '2,-1'], 'It must be numbers from 0 to 1'],
    [['--sweep', '0,1'], '--sweep needs --data'],
    [['--sweep', '0,1', '--weights', '0,1'], '--weights and --sweep exclude each other'],
  ])('%j is refused', (flags, message) => {
    const result = bge('merge', '--models', ...models, '--out', join(root, 'none'), ...flags)
    expect(result.stderr).toContain(message)
    expect(result).toMatchObject({ stdout: '', status: 2 })
  })
})
