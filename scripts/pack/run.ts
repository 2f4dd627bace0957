import { spawn } from 'node:child_process'

export interface Result {
  /** 0: it went well */
  status: number | null
  stdout: string
  stderr: string
  /** stdout and stderr as they came */
  output: string
}

/** Runs a command to its end without blocking this process, which serves its packages meanwhile. A command that does not start has status null. */
export async function run(
  command: string,
  args: readonly string[],
  options: { cwd: string; env: NodeJS.ProcessEnv; seconds?: number },
): Promise<Result> {
  return await new Promise((resolve) => {
    const child = spawn(command, args, { cwd: options.cwd, env: options.env, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
    const result: Result = { status: null, stdout: '', stderr: '', output: '' }
    const late = setTimeout(
      () => {
        result.output += '\nstopped: too slow'
        if (child.pid) process.kill(-child.pid, 'SIGKILL')
      },
      1000 * (options.seconds ?? 1200),
    )
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => {
        result[name] += text
        result.output += text
      })
    }
    child.on('error', (error) => {
      clearTimeout(late)
      resolve({ ...result, output: String(error) })
    })
    child.on('close', (status) => {
      clearTimeout(late)
      resolve({ ...result, status })
    })
  })
}
