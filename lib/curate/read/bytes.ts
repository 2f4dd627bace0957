import { createReadStream } from 'node:fs'
import type { Transform } from 'node:stream'
import * as zlib from 'node:zlib'
import { Decompress } from 'fzstd'
import { BgeError } from '../../errors.js'

const CHUNK = 1 << 20

/**
 * The bytes of a file in chunks, unpacked where its name ends in .gz, .zst or .zstd. Memory: a few chunks of 1 MiB (zstd: and its window).
 * Errors: ERR_BGE_FILE, and ERR_BGE_DATA for a packed file that is damaged or incomplete.
 */
export async function* fileBytes(file: string): AsyncGenerator<Buffer> {
  const packing = /\.(gz|zst|zstd)$/i.exec(file)?.[1]?.toLowerCase()
  if (packing === undefined) return yield* stored(file)
  const kind = packing === 'gz' ? 'gzip' : 'zstd'
  try {
    if (kind === 'gzip') yield* through(stored(file), zlib.createGunzip({ chunkSize: CHUNK }))
    else if (zstdOfNode) yield* through(stored(file), zstdOfNode())
    else yield* zstd(stored(file))
  } catch (cause) {
    if (cause instanceof BgeError) throw cause
    const reason = (cause as Error).message
    throw new BgeError('ERR_BGE_DATA', `${file}: expected a whole ${kind} file, but it cannot be unpacked (${reason}); was it cut off?`, {
      cause,
    })
  }
}

async function* stored(file: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of createReadStream(file, { highWaterMark: CHUNK })) yield chunk as Buffer
  } catch (cause) {
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${(cause as Error).message}`, { cause, details: { file } })
  }
}

/** Node 22.15 and later; types of Node 20 do not know it. */
const zstdOfNode: (() => Transform) | undefined = (zlib as { createZstdDecompress?: () => Transform }).createZstdDecompress

async function* through(input: AsyncGenerator<Buffer>, transform: Transform): AsyncGenerator<Buffer> {
  const feed = (async () => {
    for await (const chunk of input) {
      if (transform.destroyed) return
      if (!transform.write(chunk)) await new Promise((next) => transform.once('drain', next).once('close', next))
    }
    transform.end()
  })()
  feed.catch((error: Error) => transform.destroy(error))
  try {
    for await (const chunk of transform) yield chunk as Buffer
    await feed
  } finally {
    transform.destroy()
    await input.return(undefined)
  }
}

async function* zstd(input: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  let ready: Buffer[] = []
  const unpacker = new Decompress((data) => {
    // A copy: the unpacker goes on writing where this points to.
    if (data.length > 0) ready.push(Buffer.from(data))
  })
  for await (const chunk of input) {
    unpacker.push(chunk)
    yield* ready
    ready = []
  }
  unpacker.push(new Uint8Array(0), true)
  yield* ready
}
