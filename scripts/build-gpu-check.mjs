// `npm run build:gpu-check`: everything scripts/gpu-check needs, in one folder that runs with Node alone: build-cuda/check/.
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const to = join(root, 'build-cuda/check')
rmSync(to, { recursive: true, force: true })
execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'scripts/gpu/tsconfig.json')], {
  stdio: 'inherit',
})
writeFileSync(join(to, 'package.json'), '{ "type": "module" }\n')
cpSync(join(root, 'test/fixtures/torch'), join(to, 'test/fixtures/torch'), {
  recursive: true,
  filter: (file) => !file.includes('folder-') && !file.endsWith('.py'),
})
mkdirSync(join(to, 'build/Release'), { recursive: true })
cpSync(join(root, 'build/Release/bge.node'), join(to, 'build/Release/bge.node'))
const library = join(root, 'build-cuda/bge_cuda.so')
mkdirSync(join(to, 'build-cuda'), { recursive: true })
if (existsSync(library)) cpSync(library, join(to, 'build-cuda/bge_cuda.so'))
else console.error('build-cuda/bge_cuda.so is not there (npm run build:cuda makes it): the folder holds no CUDA library')
