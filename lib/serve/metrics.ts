import type { Gauge, Registry } from 'prom-client'

/** What a server counts, for Prometheus. */
export interface ServeMetrics {
  request(route: string, status: number, seconds: number): void
  texts(texts: number, tokens: number, truncated: number): void
  batch(tokens: number): void
  /** text of /metrics and its content type */
  read(): Promise<{ text: string; type: string }>
}

/** prom-client is loaded here and nowhere else. `queuedTokens` is asked at every read. */
export async function createMetrics(queuedTokens: () => number): Promise<ServeMetrics> {
  const { default: client } = await import('prom-client')
  const register: Registry = new client.Registry()
  client.collectDefaultMetrics({ register }) // process memory, CPU and event-loop delay
  const registers = [register]
  const counter = (name: string, help: string, labelNames: string[] = []): InstanceType<typeof client.Counter> =>
    new client.Counter({ name, help, labelNames, registers })
  const requests = counter('bge_http_requests_total', 'Requests answered', ['route', 'status'])
  const seconds = new client.Histogram({
    name: 'bge_http_request_seconds',
    help: 'From a request to its answer',
    labelNames: ['route'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registers,
  })
  const texts = counter('bge_texts_total', 'Texts embedded')
  const tokens = counter('bge_tokens_total', 'Tokens embedded, [CLS] and [SEP] included')
  const truncated = counter('bge_truncated_texts_total', 'Texts that were cut')
  const batches = new client.Histogram({
    name: 'bge_batch_tokens',
    help: 'Tokens of each batch that was computed',
    buckets: [16, 64, 256, 1024, 4096, 16_384],
    registers,
  })
  const waiting: Gauge = new client.Gauge({
    name: 'bge_queue_tokens',
    help: 'Tokens that wait for the device',
    registers,
    collect: (): void => waiting.set(queuedTokens()),
  })
  return {
    request(route, status, time) {
      requests.inc({ route, status })
      seconds.observe({ route }, time)
    },
    texts(count, tokenCount, cut) {
      texts.inc(count)
      tokens.inc(tokenCount)
      truncated.inc(cut)
    },
    batch: (count) => batches.observe(count),
    read: async () => ({ text: await register.metrics(), type: register.contentType }),
  }
}
