// Writes docs/reference/api.md and docs/reference/cli.md from dist/: npm run docs:reference
import { join } from 'node:path'
import { runnerImport } from 'vite'

const root = join(import.meta.dirname, '..')
await runnerImport(join(root, 'scripts/reference/write.ts'), { root, logLevel: 'error' })
