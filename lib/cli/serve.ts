import { type Command, Option } from 'commander'
import { startServer } from '../serve/server.js'
import { addModelOptions, loadModel, type ModelFlags } from './model_options.js'
import { integer, list } from './options.js'

interface ServeFlags extends ModelFlags {
  host: string
  port: number
  names?: string[]
  truncation: 'end' | 'error'
  queueTokens?: number
  quiet?: true
}

/** Adds `serve`. */
export function register(program: Command): void {
  addModelOptions(program.command('serve'))
    .description("serve a model over HTTP: OpenAI's /v1/embeddings, text-embeddings-inference's /embed, Prometheus' /metrics")
    .option('--host <address>', 'address to listen on; 0.0.0.0 is every network of this machine', '127.0.0.1')
    .option('--port <n>', '0 takes any free one', integer(0), 8080)
    .option('--names <list>', 'what requests may call the model, separated by commas (default: the name of its folder)', list)
    .addOption(
      new Option('--truncation <how>', 'texts that are too long: cut at the end, or refused').choices(['end', 'error']).default('end'),
    )
    .option('--queue-tokens <n>', 'tokens that may wait before requests are answered 429 (default: 64 batches)', integer(1))
    .option('--quiet', 'no line for each request')
    .addHelpText(
      'after',
      '\nThe API key, if there is one, is read from BGE_API_KEY: what stands on a command line can be read by other users.\n\nExamples:\n' +
        '  bge serve --model my-model\n  BGE_API_KEY=... bge serve --model my-model --host 0.0.0.0 --names bge,text-embedding-3-small',
    )
    .action(run)
}

async function run(flags: ServeFlags): Promise<void> {
  const { host, port, names, truncation, queueTokens } = flags
  const apiKey = process.env.BGE_API_KEY
  const model = await loadModel(flags)
  try {
    const server = await startServer(model, {
      host,
      port,
      truncation,
      limits: queueTokens === undefined ? {} : { queueTokens },
      ...(names && { names }),
      ...(apiKey !== undefined && { apiKey }),
      ...(!flags.quiet && { log: (line: string) => process.stderr.write(`${line}\n`) }),
    })
    if (apiKey === undefined && !['127.0.0.1', '::1', 'localhost'].includes(host))
      process.stderr.write('anybody who reaches this address may use the server: set BGE_API_KEY to ask for a key\n')
    process.stderr.write(`serving ${flags.model} on ${model.device.description}; stop with Ctrl-C\n`)
    process.stdout.write(`${server.url}\n`)
    await stopSignal()
    process.stderr.write('stopping: requests under way are finished, a second Ctrl-C ends at once\n')
    await server.stop()
  } finally {
    model.dispose()
  }
}

/** Resolves at the first SIGINT or SIGTERM; the second ends the process. */
function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    let signals = 0
    for (const name of ['SIGINT', 'SIGTERM'] as const)
      process.on(name, () => {
        if (++signals > 1) process.exit(130)
        resolve()
      })
  })
}
