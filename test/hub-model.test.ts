import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { modelFolder } from '../lib/hub/model.js'
import { BgeModel } from '../lib/model/model.js'
import { openDevice } from '../lib/native.js'
import { COMMIT, type HubServer, repository, startHub } from './support/hub_server.js'
import { smallModel } from './support/model_folder.js'

let root = ''
let hub: HubServer
let content: Record<string, Buffer>
const name = 'BAAI/bge-tiny-zh'
const texts = ['我们去公园', '今天']
let vectors: Float32Array

beforeAll(async () => {
  for (const key of ['HF_TOKEN', 'HF_HOME', 'HF_ENDPOINT', 'HF_HUB_OFFLINE', 'HF_HUB_CACHE']) vi.stubEnv(key, undefined)
  vi.stubEnv('HF_HUB_DISABLE_IMPLICIT_TOKEN', '1')
  root = await mkdtemp(join(tmpdir(), 'bge-hub-model-'))
  const device = await openDevice({ device: 'cpu' })
  const model = await smallModel(root, device)
  vectors = (await model.encode(texts)).data
  await model.save(join(root, 'source'))
  device.dispose()
  const files = await readdir(join(root, 'source'), { recursive: true, withFileTypes: true })
  content = {}
  for (const file of files.filter((entry) => entry.isFile())) {
    const path = join(file.parentPath, file.name)
    content[path.slice(root.length + '/source/'.length)] = await readFile(path)
  }
})
afterAll(async () => {
  vi.unstubAllEnvs()
  await rm(root, { recursive: true, force: true })
})

beforeEach(async () => {
  hub = await startHub()
  const more = { 'README.md': '#', 'onnx/model.onnx': 'x', 'pytorch_model.bin': 'not wanted beside safetensors', '.gitattributes': '' }
  hub.repositories.set(name, repository({ ...content, ...more }, { lfs: ['model.safetensors'] }))
  return () => hub.close()
})

describe('a model by its name on the hub', () => {
  test('is downloaded, loads, and needs no network the second time', async () => {
    const options = { endpoint: hub.endpoint, cache: join(root, 'cache') }
    const model = await BgeModel.load(name, { device: 'cpu', hub: options })
    expect((await model.encode(texts)).data).toEqual(vectors)
    expect(model.directory).toBe(join(root, 'cache', 'models--BAAI--bge-tiny-zh', 'snapshots', COMMIT))
    model.dispose()
    const fetched = await readdir(model.directory!, { recursive: true })
    expect(fetched.filter((path) => /README|onnx|pytorch|git/.test(path))).toEqual([])

    const before = hub.seen.length
    expect(await modelFolder(`${name}@${COMMIT}`, { ...options, network: 'offline' })).toBe(model.directory)
    expect(await modelFolder(name, { ...options, network: 'offline' })).toBe(model.directory)
    expect(hub.seen.length).toBe(before)
  })

  test('a folder of that name wins, and nothing is asked', async () => {
    expect(await modelFolder(join(root, 'source'))).toBe(join(root, 'source'))
    expect(hub.seen).toEqual([])
  })

  test('bad names and repositories without a model are said in a sentence', async () => {
    const options = { endpoint: hub.endpoint, cache: join(root, 'cache-2') }
    await expect(modelFolder('/no/such/folder', options)).rejects.toMatchObject({
      code: 'ERR_BGE_FILE',
      message: 'model must be a folder, or a name on the hub such as BAAI/bge-small-zh-v1.5, but there is no "/no/such/folder"',
    })
    await expect(modelFolder('BAAI/missing', options)).rejects.toMatchObject({
      code: 'ERR_BGE_HUB',
      message: expect.stringMatching(/^there is no folder "BAAI\/missing" here, and as a name on the hub: /),
    })
    hub.repositories.set('BAAI/empty', repository({ 'README.md': '#' }))
    await expect(modelFolder('BAAI/empty', options)).rejects.toThrow('must hold config.json and model.safetensors or pytorch_model.bin')
  })
})
