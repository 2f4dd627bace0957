// Packs build-cuda/bge_cuda.so as bge-forge-cuda-VERSION.tgz: npm run build:cuda-package -- [--library FILE] [--out DIR] [--version V]
//   --library FILE   another library, such as build-emulated/bge_cuda.so (tests)
//   --version V      another version than that of bge-forge (tests)
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { runnerImport } from 'vite'

const root = join(import.meta.dirname, '..')
const {
  values: { library = join(root, 'build-cuda/bge_cuda.so'), out = root, version },
} = parseArgs({ options: { library: { type: 'string' }, out: { type: 'string' }, version: { type: 'string' } } })
const { module } = await runnerImport(join(root, 'scripts/pack/cuda_package.ts'), { root, logLevel: 'error' })
try {
  const { path, packed, unpacked } = await module.packCuda({
    root,
    library,
    out,
    ...(version ? { version } : {}),
  })
  console.log(`${path}: ${(packed / 1e6).toFixed(1)} MB, unpacked ${(unpacked / 1e6).toFixed(1)} MB`)
} catch (error) {
  console.error(`build:cuda-package: ${error.message}`)
  process.exit(1)
}
