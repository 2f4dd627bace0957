// `npm run bench -- NAME [flags]`: runs benchmarks/NAME.ts. Vite (it comes with vitest) transforms the TypeScript, so that benchmarks import the
// sources they measure on every supported Node.
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { runnerImport } from 'vite'

const here = fileURLToPath(new URL('.', import.meta.url))
const names = readdirSync(here)
  .filter((file) => file.endsWith('.ts') && file !== 'support.ts')
  .map((file) => file.slice(0, -3))
const name = process.argv[2] ?? ''
if (!names.includes(name)) {
  console.error(`benchmark must be one of ${names.join(', ')}, but was "${name}"`)
  process.exit(2)
}
process.argv.splice(2, 1)
await runnerImport(`${here}${name}.ts`, { root: fileURLToPath(new URL('..', import.meta.url)), logLevel: 'error' })
