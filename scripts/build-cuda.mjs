// Builds the CUDA library, its kernel benchmark and its native tests: npm run build:cuda -- [--arch 90a] [--emulate] [--jobs N]
//   (nothing)     build-cuda/bge_cuda.so for the GPUs of a release; needs nvcc 13
//   --arch LIST   for development: machine code for these alone (90a; 80,90a)
//   --emulate     build-emulated/bge_cuda.so: the same kernels on a CUDA device made of the CPU, for tests; needs a C++ compiler only
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const { values } = parseArgs({ options: { arch: { type: 'string' }, emulate: { type: 'boolean' }, jobs: { type: 'string' } } })

function stop(sentence) {
  console.error(`build:cuda: ${sentence}`)
  process.exit(1)
}

const architectures = values.arch?.split(',')
if (architectures?.some((a) => !/^\d+a?$/.test(a))) stop(`--arch must be a list such as 80,90a, but was "${values.arch}"`)
if (values.emulate && architectures) stop('--arch has no meaning for the emulated device')
const jobs = Number(values.jobs ?? availableParallelism())
if (!(Number.isInteger(jobs) && jobs > 0)) stop(`--jobs must be a whole number, but was "${values.jobs}"`)
if (!values.emulate && spawnSync('nvcc', ['--version']).error && !process.env.CUDACXX && !existsSync('/usr/local/cuda/bin/nvcc')) {
  stop('nvcc was not found: install the CUDA toolkit and put its bin folder on PATH (or name nvcc in CUDACXX)')
}

const out = values.emulate ? 'build-emulated' : 'build-cuda'
const settings = values.emulate
  ? ['--CDBGE_CUDA_EMULATED=ON']
  : ['--CDBGE_CUDA=ON', `--CDBGE_CUDA_ARCHITECTURES=${architectures?.map((a) => `${a}-real`).join(';') ?? 'release'}`]
const cmakeJs = join(dirname(createRequire(import.meta.url).resolve('cmake-js/package.json')), 'bin/cmake-js')
const options = ['-O', out, '-l', 'error', '-p', String(jobs), ...settings]
// `build` alone takes a folder as it was configured: after a release, --arch would change nothing.
for (const command of [['configure'], ['build', '-T', 'bge_cuda_all']]) {
  const { status } = spawnSync(process.execPath, [cmakeJs, ...command, ...options], { cwd: root, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}
console.log(`${out}/bge_cuda.so`)
