import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { apiPage } from './api.js'
import { cliPage } from './commands.js'

const root = join(import.meta.dirname, '../..')
writeFileSync(join(root, 'docs/reference/api.md'), apiPage(root))
writeFileSync(join(root, 'docs/reference/cli.md'), await cliPage(root))
