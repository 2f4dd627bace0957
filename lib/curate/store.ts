import { mkdir, rm } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { DuckDBAppender, DuckDBConnection, DuckDBType } from '@duckdb/node-api'
import { BgeError, invalidArgument } from '../errors.js'

/**
 * What DuckDB leaves to the rest of the process: V8's heap, the texts in flight, and what DuckDB itself does not count. With 1 GiB, 10 M rows
 * under a limit of 4 GB took 4.4 GB (npm run bench -- curate --rows 1e7).
 */
const RESERVE = 1.75 * 2 ** 30
const CHUNK = 2048
/**
 * Rows that an appender holds before it hands them over: one row group, which goes to its place in the file. Fewer go through the log and are written
 * twice, more leave a rest that does; a transaction around all of them spills what is not committed.
 */
const ROW_GROUP = 60 * CHUNK

export interface StoreOptions {
  /** of the whole process, e.g. '4GB', '512MiB'; default '4GB'. DuckDB gets all but 1.75 GiB of it, at least half */
  memoryLimit?: string
  /** default: the cores of this process */
  threads?: number
  signal?: AbortSignal | undefined
}

export type ColumnType = 'UINTEGER' | 'UBIGINT' | 'DOUBLE' | 'VARCHAR'

/** A value of such a column: UBIGINT is a bigint. DuckDB's own type would make its package a need of everyone who compiles against ours. */
export type ColumnValue = number | bigint | string | null

/** Appends rows to a table; they are in it after close(). */
export interface TableWriter {
  add(row: readonly ColumnValue[]): void
  close(): void
}

/** An embedded DuckDB database in a folder of its own, for what does not fit in memory. */
export interface Store {
  run(sql: string): Promise<void>
  /** The one number that `sql` selects. */
  number(sql: string): Promise<number>
  /** The result as blocks of columns, at most 2048 rows each. Other statements may run meanwhile. */
  stream(sql: string): AsyncGenerator<ColumnValue[][]>
  /** Creates the table and returns its writer. */
  create(table: string, columns: Readonly<Record<string, ColumnType>>): Promise<TableWriter>
  /** Closes and removes everything. */
  close(): Promise<void>
}

/**
 * Opens an empty store in `folder`, which must not hold anything else: it is removed first, and by close().
 *
 * Throws ERR_BGE_DEPENDENCY where the optional package @duckdb/node-api is missing, ERR_BGE_ARGUMENT for options, and from its methods
 * ERR_BGE_OOM (the limit is too small), ERR_BGE_FILE (the disk) and the reason of an aborted signal.
 */
export async function openStore(folder: string, options: StoreOptions = {}): Promise<Store> {
  const { memoryLimit = '4GB', threads = availableParallelism(), signal } = options
  const limit = bytesOf(memoryLimit)
  if (!Number.isSafeInteger(threads) || threads < 1) throw invalidArgument('threads', 'an integer of at least 1', threads)
  const duckdb = await loadDuckDB()
  signal?.throwIfAborted()
  const fail = (cause: unknown): never => {
    throw storeError(cause, folder, memoryLimit)
  }
  await rm(folder, { recursive: true, force: true }).catch(fail)
  await mkdir(folder, { recursive: true }).catch(fail)
  const create = duckdb.DuckDBInstance.create(join(folder, 'store.duckdb'), {
    memory_limit: `${Math.floor(Math.max(limit - RESERVE, limit / 2) / 2 ** 20)}MiB`,
    threads: String(threads),
    temp_directory: join(folder, 'spill'),
    // Order comes from ORDER BY only; then nothing is buffered to keep it.
    preserve_insertion_order: 'false',
  })
  const instance = await create.catch(fail)
  const open = new Set<DuckDBConnection>()
  const appenders = new Set<DuckDBAppender>()
  const interrupt = (): void => {
    for (const connection of open) connection.interrupt()
  }
  signal?.addEventListener('abort', interrupt)

  const checked = async <T>(work: () => Promise<T>): Promise<T> => {
    signal?.throwIfAborted()
    try {
      return await work()
    } catch (cause) {
      signal?.throwIfAborted()
      return fail(cause)
    }
  }
  const connected = async (): Promise<DuckDBConnection> => {
    const connection = await checked(() => instance.connect())
    open.add(connection)
    return connection
  }
  const disconnect = (connection: DuckDBConnection): void => {
    open.delete(connection)
    connection.closeSync()
  }
  const main = await connected()

  return {
    run: async (sql) => void (await checked(() => main.run(sql))),
    number: async (sql) => Number((await checked(() => main.runAndReadAll(sql))).getRows()[0]![0]),
    async *stream(sql) {
      const connection = await connected()
      try {
        const result = await checked(() => connection.stream(sql))
        for (;;) {
          const chunk = await checked(() => result.fetchChunk())
          if (chunk === null || chunk.rowCount === 0) return
          yield chunk.getColumns() as ColumnValue[][]
        }
      } finally {
        disconnect(connection)
      }
    },
    async create(name, columns) {
      const types = Object.values(columns).map((type): DuckDBType => duckdb[type])
      const definition = Object.entries(columns).map(([column, type]) => `${column} ${type}`)
      await checked(() => main.run(`CREATE TABLE ${name} (${definition.join(', ')})`))
      const connection = await connected()
      const appender = await checked(() => connection.createAppender(name))
      appenders.add(appender)
      const done = (): void => {
        appenders.delete(appender)
        disconnect(connection)
      }
      return tableWriter(appender, duckdb.DuckDBDataChunk, types, fail, done)
    },
    async close() {
      signal?.removeEventListener('abort', interrupt)
      for (const appender of appenders) {
        try {
          appender.clear()
          appender.closeSync()
        } catch {
          // What it held is not wanted any more.
        }
      }
      for (const connection of [...open]) disconnect(connection)
      instance.closeSync()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

type DataChunkClass = typeof import('@duckdb/node-api').DuckDBDataChunk

function tableWriter(
  appender: DuckDBAppender,
  DataChunk: DataChunkClass,
  types: readonly DuckDBType[],
  fail: (cause: unknown) => never,
  done: () => void,
): TableWriter {
  let columns: ColumnValue[][] = types.map(() => [])
  let pending = 0
  const flush = (): void => {
    const rows = columns[0]!.length
    if (rows === 0) return
    try {
      const chunk = DataChunk.create(types, rows)
      chunk.setColumns(columns)
      appender.appendDataChunk(chunk)
      pending += rows
      if (pending >= ROW_GROUP) {
        appender.flushSync()
        pending = 0
      }
    } catch (cause) {
      fail(cause)
    }
    columns = types.map(() => [])
  }
  return {
    add(row) {
      for (let i = 0; i < columns.length; i++) columns[i]!.push(row[i]!)
      if (columns[0]!.length === CHUNK) flush()
    },
    close() {
      flush()
      try {
        appender.closeSync()
      } catch (cause) {
        fail(cause)
      }
      done()
    },
  }
}

async function loadDuckDB(): Promise<typeof import('@duckdb/node-api')> {
  try {
    return await import('@duckdb/node-api')
  } catch (cause) {
    throw new BgeError(
      'ERR_BGE_DEPENDENCY',
      `de-duplication needs the optional package @duckdb/node-api, which cannot be loaded (${(cause as Error).message}); install it with: npm install @duckdb/node-api`,
      { cause },
    )
  }
}

function storeError(cause: unknown, folder: string, memoryLimit: string): BgeError {
  const message = cause instanceof Error ? cause.message : String(cause)
  if (/out of memory/i.test(message) && !/disk|max_temp_directory/i.test(message)) {
    return new BgeError('ERR_BGE_OOM', `the memory limit of ${memoryLimit} is too small for this step: ${message}`, { cause })
  }
  const code = (cause as NodeJS.ErrnoException | undefined)?.code
  if (/^IO Error|no space left|max_temp_directory/i.test(message) || /^E[A-Z]+$/.test(code ?? '')) {
    return new BgeError('ERR_BGE_FILE', `the store in ${folder} cannot be written: ${message}`, { cause })
  }
  return new BgeError('ERR_BGE_INTERNAL', `DuckDB failed: ${message}`, { cause })
}

/** '4GB' = 4e9, '4GiB' = 4 * 2^30 */
function bytesOf(size: string): number {
  const found = /^(\d+(?:\.\d+)?)\s*([KMGT])(i?)B$/i.exec(size.trim())
  if (!found) throw invalidArgument('memoryLimit', "a size such as '4GB' or '512MiB'", size)
  const power = 'KMGT'.indexOf(found[2]!.toUpperCase()) + 1
  const bytes = Number(found[1]) * (found[3] ? 1024 : 1000) ** power
  if (bytes < 256 * 2 ** 20) throw invalidArgument('memoryLimit', 'at least 256MiB', size)
  return bytes
}
