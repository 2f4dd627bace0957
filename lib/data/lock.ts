import { mkdir, open, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { BgeError } from '../errors.js'

/**
 * Keeps a second process out of a folder while `work` runs: two would delete each other's files. The lock of a process that is gone is taken over: on Linux a
 * process is known by its number and the time of its start, elsewhere by its number.
 * Errors: ERR_BGE_RESUME while another process works there, ERR_BGE_FILE.
 */
export async function exclusively<T>(folder: string, work: () => Promise<T>): Promise<T> {
  const file = join(folder, 'lock')
  await acquire(folder, file)
  try {
    return await work()
  } finally {
    await rm(file, { force: true })
  }
}

async function acquire(folder: string, file: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true })
    for (;;) {
      const handle = await open(file, 'wx').catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error
      })
      if (handle) {
        await handle.writeFile(JSON.stringify({ pid: process.pid, start: await startOf(process.pid) }))
        await handle.close()
        return
      }
      const owner = await readFile(file, 'utf8').catch(() => '')
      if (await isAlive(owner)) {
        const { pid } = JSON.parse(owner) as { pid: number }
        throw new BgeError('ERR_BGE_RESUME', `${folder} must not be in use, but process ${pid} is working there: wait for it or stop it`)
      }
      await rm(file, { force: true })
    }
  } catch (cause) {
    if (cause instanceof BgeError) throw cause
    throw new BgeError('ERR_BGE_FILE', `${folder} cannot be written: ${(cause as Error).message}`, { cause })
  }
}

async function isAlive(owner: string): Promise<boolean> {
  let found: { pid: number; start: string | null }
  try {
    found = JSON.parse(owner) as typeof found
    process.kill(found.pid, 0)
  } catch (error) {
    // EPERM: it is there, and somebody else's. A torn or empty file is what a killed process left.
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  return found.start === null || found.start === (await startOf(found.pid))
}

/** Ticks since boot at which a process started; null where that cannot be known. */
async function startOf(pid: number): Promise<string | null> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null)
  // Field 22; the second, the name, may hold spaces and ends with ').'
  return stat === null ? null : (stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null)
}
