import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { doctor, type DoctorFinding } from '../lib/doctor/doctor.js'
import { BgeModel } from '../lib/model/model.js'
import { modelInfo } from '../lib/model/info.js'

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
const tokenizerDir = fileURLToPath(new URL('../examples/quickstart/tokenizer', import.meta.url))
let root = ''
let model = ''
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-doctor-'))
  model = join(root, 'model')
  const made = await BgeModel.createNew({ size: 'tiny', tokenizerDir, device: 'cpu', instruction: 'zh' })
  await made.save(model)
  made.dispose()
})
afterAll(() => rm(root, { recursive: true, force: true }))
afterEach(() => vi.unstubAllEnvs())

const of = (findings: readonly DoctorFinding[], area: string) => findings.filter((finding) => finding.area === area)

describe('doctor', () => {
  test('a machine without a GPU is well; an explicit cuda is a problem there', async () => {
    vi.stubEnv('BGE_CUDA_LIBRARY', join(root, 'none.so'))
    const findings = await doctor()
    expect(of(findings, 'addon')).toMatchObject([{ status: 'ok', found: expect.stringMatching(/^loads; cpu /) }])
    expect(of(findings, 'cuda')).toMatchObject([{ status: 'note', found: expect.stringContaining('none.so') }])
    expect(findings.filter(({ status }) => status === 'problem')).toEqual([])
    expect(of(await doctor({ device: 'cuda' }), 'cuda')).toMatchObject([{ status: 'problem' }])
  })

  test('the portable kernels are a warning', async () => {
    vi.stubEnv('BGE_ISA', 'base')
    expect(of(await doctor(), 'cpu')).toMatchObject([{ status: 'warning' }])
  })

  test('a model folder: what it is, and that an untrained model says nothing', async () => {
    const findings = await doctor({ model })
    expect(of(findings, 'model')).toMatchObject([{ status: 'ok', found: expect.stringContaining('2 layers x 128') }])
    expect(of(findings, 'vectors')).toMatchObject([{ status: 'warning', found: expect.stringMatching(/mean cosine of (0\.9|1\.0)/) }])
    expect(of(findings, 'fingerprint')[0]!.found).toMatch(/^[0-9a-f]{64}$/)
    expect(await modelInfo(model)).toMatchObject({
      layers: 2,
      hidden: 128,
      pooling: 'cls',
      normalize: true,
      maxLength: 512,
      mlmHead: false,
    })

    await writeFile(join(root, 'bare.json'), '{}')
    expect(of(await doctor({ model: join(root, 'bare.json') }), 'model')).toMatchObject([{ status: 'problem' }])
  })

  test('a folder that does not say how to pool gets the advice that mends it', async () => {
    const folder = join(root, 'silent')
    const made = await BgeModel.load(model, { device: 'cpu' })
    await made.save(folder)
    made.dispose()
    await rm(join(folder, 'modules.json'))
    await rm(join(folder, '1_Pooling'), { recursive: true })
    expect(of(await doctor({ model: folder }), 'model')).toMatchObject([
      { status: 'problem', found: expect.stringMatching(/^\[ERR_BGE_POOLING\]/), advice: expect.stringContaining('--pooling cls') },
    ])
  })

  test('training data: faults, repetitions, queries that are their own positive', async () => {
    const file = join(root, 'train.jsonl')
    const row = { query: '月食', pos: ['月食只在满月时发生。'] }
    const rows = [...Array.from({ length: 6 }, () => row), { query: '好', pos: ['好'] }, { query: 7, pos: ['七'] }]
    await writeFile(file, rows.map((value) => `${JSON.stringify(value)}\n`).join(''))
    const found = of(await doctor({ model, data: [file] }), 'data').map(({ status, found: sentence }) => `${status}: ${sentence}`)
    expect(found).toEqual([
      expect.stringMatching(/^problem: .*8 rows, .*train\.jsonl:8: field query expected /),
      expect.stringMatching(/^warning: .* % of the rows repeat another row/),
      expect.stringMatching(/^warning: .* % of the rows have their query as a positive/),
      expect.stringMatching(/^note: no row has hard negatives/),
    ])
  })

  test('the way to the hub: an answer, an error status, nobody there, offline', async () => {
    let status = 200
    const server = createServer((_, response) => response.writeHead(status).end())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    vi.stubEnv('HF_HUB_OFFLINE', undefined)
    vi.stubEnv('HF_ENDPOINT', `http://127.0.0.1:${(server.address() as AddressInfo).port}`)
    const hub = async (): Promise<DoctorFinding> => of(await doctor({ network: 'ask' }), 'hub')[0]!
    expect(await hub()).toMatchObject({ status: 'ok', found: expect.stringContaining('answers 200') })
    status = 403
    expect(await hub()).toMatchObject({ status: 'problem', advice: expect.stringContaining('HF_ENDPOINT') })
    vi.stubEnv('HF_HUB_OFFLINE', '1')
    expect(await hub()).toMatchObject({ status: 'note' })
    server.close()
  })

  test('on the command line: text or JSON on stdout, exit code 1 for a problem', () => {
    const bge = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' })
    const well = bge('doctor', '--model', model, '--json')
    expect(well).toMatchObject({ status: 0, stderr: '' })
    expect((JSON.parse(well.stdout) as DoctorFinding[]).map(({ area }) => area)).toContain('fingerprint')
    const ill = bge('doctor', '--model', root)
    expect(ill.status).toBe(1)
    expect(ill.stdout).toMatch(/^PROBLEM {2}model: \[ERR_BGE_FILE\]/m)
    expect(bge('info', model)).toMatchObject({ status: 0, stdout: expect.stringMatching(/^encoder +BERT, 2 layers x 128/m) })
    const onnx = bge('export', 'onnx', '--model', model, '--out', join(root, 'm.onnx'))
    expect(onnx).toMatchObject({ status: 0, stdout: `${join(root, 'm.onnx')}\n` })
    const speed = JSON.parse(bge('bench', '--size', 'tiny', '--seconds', '0.05', '--device', 'cpu', '--json').stdout)
    expect(speed).toMatchObject({ size: 'tiny', device: expect.stringMatching(/^cpu /) })
    for (const value of [speed.query.p50, speed.batch.textsPerSecond, speed.mixed.tokensPerSecond, speed.memory])
      expect(value).toBeGreaterThan(0)
    expect(speed.query.p99).toBeGreaterThanOrEqual(speed.query.p50)
    expect(bge('complete', '--', 'doc').stdout).toMatch(/^doctor\t/)
  })
})
