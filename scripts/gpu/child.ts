import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

interface Running {
  process: ChildProcessWithoutNullStreams
  lines: AsyncIterator<string>
  errors: string
}

/** A process that answers one JSON line with one JSON line; started when it is needed, and again after it has failed. */
export class Child {
  readonly #name: string
  readonly #command: string
  readonly #args: readonly string[]
  #running: Running | undefined

  constructor(name: string, command: string, args: readonly string[]) {
    this.#name = name
    this.#command = command
    this.#args = args
  }

  /** @throws when the answer says so, when there is none within `timeout` seconds, or when the process ends: it is ended and forgotten then */
  async ask<T>(message: object, timeout: number): Promise<T> {
    const child = this.#start()
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${this.#name}: no answer within ${timeout} s`)), timeout * 1000)
    })
    try {
      child.process.stdin.write(`${JSON.stringify(message)}\n`)
      const { value, done } = await Promise.race([child.lines.next(), late])
      if (done) {
        const said = child.errors.trim().split('\n').reverse().slice(0, 4)
        throw new Error(`${this.#name}: the process ended: ${said.join(' | ') || 'it said nothing'}`)
      }
      const answer = JSON.parse(value) as T & { failed?: string }
      if (answer.failed === undefined) return answer
      // A CUDA context that has seen an error may be of no more use.
      throw new Error(answer.failed)
    } catch (error) {
      this.end()
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  /** Asks a running process to give its memory back. */
  async release(): Promise<void> {
    if (this.#running) await this.ask({ close: true }, 30).catch(() => {})
  }

  end(): void {
    this.#running?.process.kill('SIGKILL')
    this.#running = undefined
  }

  #start(): Running {
    if (this.#running) return this.#running
    const process = spawn(this.#command, [...this.#args])
    const child: Running = { process, lines: createInterface(process.stdout)[Symbol.asyncIterator](), errors: '' }
    process.stderr.setEncoding('utf8').on('data', (text: string) => {
      child.errors = (child.errors + text).slice(-8000)
    })
    process.on('error', (error) => {
      child.errors += error.message
    })
    process.stdin.on('error', () => {}) // seen as the end of its answers
    this.#running = child
    return child
  }
}
