import { rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'

/** In the order in which they go away; summary.json comes back last, so where it is, all is. */
const NAMES = ['summary.json', 'data', 'data-card.md', 'report.html'] as const

/**
 * Moves finished output from `place` to `out`, each name by one rename; going on after a kill is the same call again. False where a name
 * is in neither folder, or a shard is not as long as it was: then the output has to be made again.
 */
export async function publish(
  place: string,
  out: string,
  shards: readonly { readonly name: string; readonly bytes: number }[],
): Promise<boolean> {
  const waiting: string[] = []
  for (const name of NAMES) {
    if (await there(join(place, name))) waiting.push(name)
    else if (!(await there(join(out, name)))) return false
  }
  const data = join(waiting.includes('data') ? place : out, 'data')
  for (const { name, bytes } of shards) if ((await sizeOf(join(data, name))) !== bytes) return false
  if (waiting.length > 0) await rm(join(out, NAMES[0]), { force: true })
  for (const name of [...waiting].reverse()) {
    await rm(join(out, name), { recursive: true, force: true })
    await rename(join(place, name), join(out, name))
  }
  return true
}

async function there(path: string): Promise<boolean> {
  return (await sizeOf(path)) !== undefined
}

async function sizeOf(path: string): Promise<number | undefined> {
  return stat(path).then(
    (info) => info.size,
    () => undefined,
  )
}
