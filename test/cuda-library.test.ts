import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { BgeError } from '../lib/errors.js'
import { type Device, openDevice } from '../lib/native.js'

// How bge_cuda.so is found and opened, and the sentence for each thing that can be missing. What needs an artefact that this machine has
// not built (or a compiler it has not) is skipped by name.
const root = join(import.meta.dirname, '..')
const scratch = mkdtempSync(join(tmpdir(), 'bge-cuda-library-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

const names = ['BGE_CUDA_LIBRARY', 'BGE_CUDA_GEMM', 'BGE_CUBLASLT', 'BGE_CUDA_ATTENTION', 'BGE_CUDA_SIMILARITY'] as const
const before = names.map((name) => process.env[name])
afterEach(() => {
  names.forEach((name, i) => {
    if (before[i] === undefined) delete process.env[name]
    else process.env[name] = before[i]
  })
})

/** The error of opening `device` with that CUDA library. */
async function failure(device: string, library: string): Promise<BgeError> {
  process.env['BGE_CUDA_LIBRARY'] = library
  const result = await openDevice({ device }).then(
    (opened) => opened,
    (error: unknown) => error,
  )
  if (result instanceof BgeError) return result
  ;(result as Device).dispose()
  throw new Error(`${device} was opened from ${library}`)
}

/** bge_cuda.so made of a few lines of C++. */
function fakeLibrary(name: string, source: string): string {
  const file = join(scratch, `${name}.so`)
  writeFileSync(join(scratch, `${name}.cc`), source)
  const built = spawnSync('g++', ['-std=c++17', '-shared', '-fPIC', '-o', file, join(scratch, `${name}.cc`)], { encoding: 'utf8' })
  if (built.status !== 0) throw new Error(built.stderr)
  return file
}

const hasCompiler = process.platform === 'linux' && spawnSync('g++', ['--version']).status === 0
const emulated = join(root, 'build-emulated/bge_cuda.so')
const real = join(root, 'build-cuda/bge_cuda.so')
const hasGpu = existsSync('/dev/nvidia0')

describe('the CUDA library', () => {
  it('is missing: says what was tried', async () => {
    const error = await failure('cuda', join(scratch, 'none.so'))
    expect(error.code).toBe('ERR_BGE_DEVICE_UNAVAILABLE')
    expect(error.message).toContain('there is no CUDA library')
    expect(error.message).toContain('npm run build:cuda')
    expect(error.message).toContain(join(scratch, 'none.so'))
  })

  it('is missing: auto takes the CPU and says why', async () => {
    process.env['BGE_CUDA_LIBRARY'] = join(scratch, 'none.so')
    const device = await openDevice({ device: 'auto', threads: 1 })
    expect(device.kind).toBe('cpu')
    expect(device.description).toMatch(/1 thread \(not cuda: there is no CUDA library\)$/)
    device.dispose()
  })

  it('is not asked for by cpu, whatever it is', async () => {
    const file = join(scratch, 'text.so')
    writeFileSync(file, 'no library')
    process.env['BGE_CUDA_LIBRARY'] = file
    const device = await openDevice({ device: 'cpu', threads: 1 })
    expect(device.description).not.toContain('cuda')
    device.dispose()
  })

  it('does not load: the loader says why', async () => {
    const file = join(scratch, 'text.so')
    writeFileSync(file, 'no library')
    expect((await failure('cuda', file)).message).toMatch(/^the CUDA library does not load: .*text\.so: /)
  })

  it.skipIf(!hasCompiler)('is another library (skipped without g++)', async () => {
    const error = await failure('cuda', fakeLibrary('other', 'int nothing;'))
    expect(error.message).toMatch(/other\.so is no CUDA library of bge-forge: it has no symbol bgeCudaLibrary$/)
  })

  it.skipIf(!hasCompiler)('has another ABI number: nothing of it is called (skipped without g++)', async () => {
    const source = `
      #include <cstdint>
      #include <cstdlib>
      struct Library { uint64_t abi; void* (*open)(int32_t); };
      static void* open(int32_t) { std::abort(); }
      extern "C" const Library bgeCudaLibrary;
      const Library bgeCudaLibrary = {42, open};`
    const error = await failure('cuda:1', fakeLibrary('version', source))
    expect(error.code).toBe('ERR_BGE_DEVICE_UNAVAILABLE')
    expect(error.message).toMatch(/version\.so was built from another version of bge-forge \(ABI 42, this addon has \d+\)/)
  })

  it.skipIf(!existsSync(real) || hasGpu)('runs where there is no driver: says so (skipped without build-cuda/ or with a GPU)', async () => {
    const error = await failure('cuda', real)
    expect(error.code).toBe('ERR_BGE_DEVICE_UNAVAILABLE')
    expect(error.message).toMatch(/driver/)
    expect(error.message).toMatch(/\(CUDA error \d+\)$/)
  })

  // The contract number is raised by hand when a virtual function changes: this notices when that was forgotten.
  it('has a contract number that belongs to the virtual functions of Backend', () => {
    const header = readFileSync(join(root, 'native/core/backend.h'), 'utf8').replaceAll(/\/\/.*/g, '')
    const functions = [...header.matchAll(/virtual[^;]*;/g)].map((m) => m[0].replaceAll(/\s+/g, ' '))
    expect(functions.length).toBeGreaterThan(30)
    const hash = createHash('sha256').update(functions.join('\n')).digest('hex').slice(0, 16)
    const number = /kCudaContract = (\d+);/.exec(readFileSync(join(root, 'native/core/cuda_library.h'), 'utf8'))?.[1]
    // When this fails: raise kCudaContract in native/core/cuda_library.h and write the new pair here.
    expect(`${number}: ${hash}`).toBe('6: 51ce76443897d9f1')
  })
})

describe.skipIf(!existsSync(emulated))('the emulated device (skipped without build-emulated/)', () => {
  const open = async (): Promise<Device> => {
    process.env['BGE_CUDA_LIBRARY'] = emulated
    return await openDevice({ device: 'cuda' })
  }

  const nativeTests = (environment: Record<string, string>): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(join(root, 'build-emulated/bge_cuda_test'), { encoding: 'utf8', env: { ...process.env, ...environment } })

  it.each(['0', '3'])('passes its native tests, threads in order %s', (order) => {
    const { status, stdout } = nativeTests({ BGE_CUDA_EMULATED_ORDER: order })
    expect(stdout).toMatch(/^[1-9]\d+ checks, 0 failed\n$/)
    expect(status).toBe(0)
  })

  it.skipIf(!hasCompiler)('multiplies through cuBLASLt and keeps its plans; a damaged file is made anew (skipped without g++)', () => {
    const library = join(scratch, 'libcublasLt.so.13')
    const built = spawnSync('g++', ['-std=c++17', '-O2', '-shared', '-fPIC', '-o', library, join(root, 'test/native/cublaslt_stand_in.cc')])
    expect(built.status).toBe(0)
    const environment = { BGE_CUBLASLT: scratch, BGE_CACHE: join(scratch, 'plans/deep') }
    const file = join(environment.BGE_CACHE, 'cublaslt-emulated-130102.json')
    const run = (): string => {
      const { status, stdout, stderr } = nativeTests(environment)
      expect(stdout).toMatch(/ 0 failed\n$/)
      expect(status).toBe(0)
      return stderr
    }
    expect(run()).toBe('')
    const plans = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown[]>
    expect(Object.keys(plans)).toContain('m48 n40 k24 abf16/16 bbf16T/16 dbf16/16 bias')
    expect(Object.keys(plans).length).toBeGreaterThan(4)
    expect(plans['m48 n40 k24 abf16/16 bbf16T/16 dbf16/16 bias']?.slice(0, 2)).toEqual([1, 1]) // there is an algorithm; its bias is bf16
    // Kept plans are used: one whose algorithm is unknown to the library is refused, and our own kernel takes over.
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll('abcdef"', '1"'))
    expect(run()).toBe('')
    expect(readFileSync(file, 'utf8')).not.toContain('abcdef')
    writeFileSync(file, `${readFileSync(file, 'utf8').slice(0, -2)}rubbish\n}\n`)
    expect(run()).toMatch(/^bge-forge: .*cublaslt-emulated-130102\.json is damaged at line \d+ and is written anew\n$/)
    expect(readFileSync(file, 'utf8')).toContain('abcdef')
  })

  it('opens, and says what it is', async () => {
    const device = await open()
    expect(device.kind).toBe('cuda')
    expect(device.description).toBe('cuda emulated on the CPU (tests only)')
    device.dispose()
  })

  it('is what auto chooses', async () => {
    process.env['BGE_CUDA_LIBRARY'] = emulated
    const device = await openDevice()
    expect(device.kind).toBe('cuda')
    device.dispose()
  })

  it('has one GPU', async () => {
    const error = await failure('cuda:7', emulated)
    expect(error.code).toBe('ERR_BGE_DEVICE_UNAVAILABLE')
    expect(error.message).toBe('device cuda:7 was asked for, but the driver shows 1 device (cuda:0)')
  })

  it('moves data in pieces and counts what it holds', async () => {
    const device = await open()
    const start = device.memory().allocated
    const values = Float32Array.from({ length: 3_000_001 }, (_, i) => i) // 12 MB: three pieces and a rest
    const tensor = device.tensor(values, 1, values.length)
    expect(Buffer.compare(Buffer.from((await tensor.toArray()).buffer), Buffer.from(values.buffer))).toBe(0)
    const held = device.memory().allocated - start
    expect(held).toBeGreaterThanOrEqual(4 * values.length)
    expect(held).toBeLessThan(4 * values.length + 1024)
    tensor.dispose()
    await device.synchronize()
    expect(device.memory().allocated).toBe(start)
    device.dispose()
  })

  it('sends an error thrown inside of it, with its code', async () => {
    const device = await open()
    const tensor = device.zeros(2 ** 30, 1024) // 4 TiB
    await expect(tensor.gatherRows(Int32Array.of(0))).rejects.toMatchObject({
      code: 'ERR_BGE_OOM',
      message: expect.stringContaining('device cuda:0 has no room for 4398046511104 more bytes'),
    })
    const small = device.zeros(2, 2)
    expect(await small.toArray()).toEqual(new Float32Array(4))
    device.dispose()
  })

  it('knows two versions of the attention', async () => {
    process.env['BGE_CUDA_ATTENTION'] = 'mine'
    const error = await failure('cuda', emulated)
    expect(error.code).toBe('ERR_BGE_ARGUMENT')
    expect(error.message).toBe('BGE_CUDA_ATTENTION must be mma or wgmma, but was "mine"')
  })

  it('knows two kinds of similarity products', async () => {
    process.env['BGE_CUDA_SIMILARITY'] = 'bf16'
    const error = await failure('cuda', emulated)
    expect(error.code).toBe('ERR_BGE_ARGUMENT')
    expect(error.message).toBe('BGE_CUDA_SIMILARITY must be f16 or f32, but was "bf16"')
  })

  it('says that cuBLASLt is missing where it is asked for by name', async () => {
    process.env['BGE_CUBLASLT'] = join(scratch, 'missing/libcublasLt.so.13')
    const error = await failure('cuda', emulated)
    expect(error.code).toBe('ERR_BGE_DEVICE_UNAVAILABLE')
    expect(error.message).toMatch(/^cuBLASLt was not found: .*BGE_CUDA_GEMM=own.* Tried .*missing\/libcublasLt\.so\.13$/)
    process.env['BGE_CUDA_GEMM'] = 'own'
    ;(await open()).dispose()
    process.env['BGE_CUDA_GEMM'] = 'mine'
    expect((await failure('cuda', emulated)).message).toBe('BGE_CUDA_GEMM must be cublaslt or own, but was "mine"')
  })
})
