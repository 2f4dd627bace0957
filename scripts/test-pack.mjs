// Packs the package, installs it as a user would and loads it: npm run test:pack -- [--cache DIR] [--out DIR]
//   --cache DIR   keeps the Nodes, package managers and packages that it fetches (default ~/.cache/bge-forge-pack)
//   --out DIR     keeps the tarball that was tested: the one to publish
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { runnerImport } from 'vite'

const root = join(import.meta.dirname, '..')
const { values } = parseArgs({ options: { cache: { type: 'string' }, out: { type: 'string' } } })
const { module } = await runnerImport(join(root, 'scripts/pack/matrix.ts'), { root, logLevel: 'error' })
try {
  const good = await module.testPack({
    root,
    ...(values.cache ? { cache: resolve(values.cache) } : {}),
    ...(values.out ? { out: resolve(values.out) } : {}),
  })
  process.exitCode = good ? 0 : 1
} catch (error) {
  console.error(`test:pack: ${error.message}`)
  process.exitCode = 1
}
