// `npm run build:gpu-check`: everything that scripts/gpu-check and scripts/gpu-run need, in one folder that runs with Node alone (and Python, for
// the peers of the benchmark): build-cuda/check/.
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const to = join(root, 'build-cuda/check')
rmSync(to, { recursive: true, force: true })
execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'scripts/gpu/tsconfig.json')], {
  stdio: 'inherit',
})
writeFileSync(join(to, 'package.json'), '{ "type": "module" }\n')
const copy = (file) => cpSync(join(root, file), join(to, file), { recursive: true })
for (const file of readdirSync(join(root, 'test/fixtures/torch'))) {
  if (file.endsWith('.safetensors') || file === 'curves.json') copy(`test/fixtures/torch/${file}`)
}
for (const file of readdirSync(join(root, 'benchmarks/gpu'))) {
  if (file.endsWith('.py')) copy(`benchmarks/gpu/${file}`)
}
// What lib/train imports of other packages; neither has dependencies.
for (const name of ['@huggingface/tokenizers', '@bufbuild/protobuf'])
  cpSync(join(root, 'node_modules', name), join(to, 'node_modules', name), { recursive: true, dereference: true })
mkdirSync(join(to, 'build/Release'), { recursive: true })
copy('build/Release/bge.node')
// The library, and what needs neither Node nor Python.
if (!existsSync(join(root, 'build-cuda/bge_cuda.so'))) {
  console.error('build-cuda/bge_cuda.so is not there (npm run build:cuda makes it): the folder holds no CUDA library')
}
for (const file of ['bge_cuda.so', 'bge_cuda_test', 'bge_cuda_bench'])
  if (existsSync(join(root, 'build-cuda', file))) copy(`build-cuda/${file}`)
