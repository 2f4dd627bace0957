import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { openDevice } from '../../lib/native.js'
import { REQUIRED } from '../../lib/loader.js'
import { aboveFloor, strip } from './binary.js'
import { pack, type Tarball } from './tarball.js'

/** Packed size of bge-forge-cuda, bytes: what its machine code for five architectures may take. */
const LARGEST = 20e6

export interface CudaPackageOptions {
  /** the checkout */
  root: string
  /** bge_cuda.so */
  library: string
  /** where the tarball goes */
  out: string
  /** Default: that of bge-forge; another one is for tests */
  version?: string
}

/** The architectures of a release, as CMakeLists.txt has them: 80 86 89 90a and PTX for 120. */
function architectures(root: string): string[] {
  const list = /set\(CMAKE_CUDA_ARCHITECTURES ([^)$]+)\)/.exec(readFileSync(join(root, 'CMakeLists.txt'), 'utf8'))?.[1]
  if (!list) throw new Error('CMakeLists.txt: the architectures of a release were not found')
  return list.split(' ').map((a) => (a.endsWith('-virtual') ? `compute_${a.slice(0, -8)}` : `sm_${a.replace('-real', '')}`))
}

/** Version of the CUDA runtime that is linked into `library`: 13.0. Empty for the emulated device, which has none. */
function cudaVersion(library: string): string {
  if (!readFileSync(library).includes('.nv_fatbin')) return ''
  const compiler = process.env['CUDACXX'] ?? (existsSync('/usr/local/cuda/bin/nvcc') ? '/usr/local/cuda/bin/nvcc' : 'nvcc')
  const version = /release (\d+\.\d+)/.exec(spawnSync(compiler, ['--version'], { encoding: 'utf8' }).stdout ?? '')?.[1]
  if (!version) throw new Error(`${compiler} --version did not name its version`)
  return version
}

/**
 * Packs `library` as bge-forge-cuda-VERSION.tgz into `out`. It has to load, to be of the same sources as the addon of this checkout, and to ask
 * of a system no more than the prebuilt addon does.
 * @throws Error with a sentence
 */
export async function packCuda({ root, library, out, version }: CudaPackageOptions): Promise<Tarball> {
  if (!existsSync(library)) throw new Error(`${library} is not there: run \`npm run build:cuda\` first`)
  const above = aboveFloor(library, REQUIRED)
  if (above.length > 0) throw new Error(above.join('; '))
  process.env['BGE_CUDA_LIBRARY'] = library
  try {
    ;(await openDevice({ device: 'cuda' })).dispose()
  } catch (error) {
    const { message } = error as Error // a missing driver or GPU is no fault of the library
    if (/another version|does not load|is no CUDA library|did not load/.test(message)) throw error
  } finally {
    delete process.env['BGE_CUDA_LIBRARY']
  }
  const main = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string; license: string; engines: unknown }
  const cuda = cudaVersion(library)
  const folder = join(out, 'bge-forge-cuda')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  cpSync(library, join(folder, 'bge_cuda.so'))
  strip(join(folder, 'bge_cuda.so'))
  cpSync(join(root, 'LICENSE'), join(folder, 'LICENSE'))
  cpSync(join(root, 'packages/bge-forge-cuda/README.md'), join(folder, 'README.md'))
  const manifest = {
    name: 'bge-forge-cuda',
    version: version ?? main.version,
    description: `CUDA library of bge-forge for Linux on x86-64${cuda ? ` (CUDA ${cuda})` : ' (emulated device: tests only)'}`,
    license: main.license,
    keywords: ['bge-forge', 'cuda'],
    engines: main.engines,
    os: ['linux'],
    cpu: ['x64'],
    libc: ['glibc'],
    preferUnplugged: true,
    exports: { './package.json': './package.json', './bge_cuda.so': './bge_cuda.so' },
    files: ['bge_cuda.so'],
    // Both packages name each other's version exactly: npm refuses a pair that does not fit.
    peerDependencies: { 'bge-forge': version ?? main.version },
    config: {
      cuda: cuda || 'emulated',
      architectures: cuda ? architectures(root) : [],
      glibc: REQUIRED.glibc,
      libstdcxx: REQUIRED.libstdcxx,
    },
  }
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
  const tarball = pack(folder, out)
  rmSync(folder, { recursive: true })
  const expected = ['LICENSE', 'README.md', 'bge_cuda.so', 'package.json']
  if (tarball.files.join() !== expected.join())
    throw new Error(`${tarball.path} must hold ${expected.join(', ')}, but holds ${tarball.files.join(', ')}`)
  if (tarball.packed > LARGEST) throw new Error(`${tarball.path} is ${tarball.packed} bytes, more than ${LARGEST}`)
  return tarball
}
