// De-duplication of a synthetic corpus: wall time, peak memory of the process (DuckDB runs inside it), disk, and what was found of what was planted.
//   npm run bench -- curate [--rows 1e5,1e6] [--threads N] [--memory 4GB] [--out NAME]        speed and memory, a process per trial
//   npm run bench -- curate --pipeline [--rows 1e6] [--out NAME]                            all of `bge curate` without a model: seconds of each stage, memory
//   npm run bench -- curate --contamination [--rows 1e5] [--out NAME]                       decontamination against 100,000 evaluation texts
//   npm run bench -- curate --recall [--out NAME]                                          precision and recall of near-duplicates
//   npm run bench -- curate --steps [--out NAME]                                           microseconds a text of each way to hash it
// The corpus is generated into the temporary folder and removed: 1 M rows take 0.6 GB, and de-duplicating them 1.5 GB more.
import { spawn } from 'node:child_process'
import { mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { availableParallelism, cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { curate } from '../lib/curate/curate.js'
import { decontaminate, type EvaluationText } from '../lib/curate/decontaminate.js'
import { dedup } from '../lib/curate/dedup.js'
import { eachShingle, jaccard, MinHasher, overlap } from '../lib/curate/near.js'
import { type DedupSettings, readRecipe } from '../lib/curate/recipe.js'
import { normaliseForIdentity, type Row } from '../lib/curate/row.js'
import { openStore } from '../lib/curate/store.js'
import { readJsonl } from '../lib/data/jsonl.js'
import { random } from '../lib/data/random.js'
import { chineseLike, editCharacters, passageLength, respell, rowOf, swapSentences } from '../test/support/corpus.js'
import { commit, writeResults } from './support.js'

const { values: args } = parseArgs({
  allowPositionals: true,
  options: {
    rows: { type: 'string', default: '1e5,1e6' },
    threads: { type: 'string', default: String(availableParallelism()) },
    memory: { type: 'string', default: '4GB' },
    recall: { type: 'boolean', default: false },
    steps: { type: 'boolean', default: false },
    contamination: { type: 'boolean', default: false },
    pipeline: { type: 'boolean', default: false },
    out: { type: 'string' },
    // what a trial's process is told
    generate: { type: 'string' },
    dedup: { type: 'string' },
    decontaminate: { type: 'string' },
    curate: { type: 'string' },
  },
})
const settings: DedupSettings = { exact: true, near: { threshold: 0.8, ngram: 5, hashes: 128 }, on: 'pair' }
const FILES = 8

if (args.generate) answer(await generate(args.generate, Number(args.rows)))
else if (args.dedup) answer(await measure(args.dedup))
else if (args.decontaminate) answer(await measureDecontamination(args.decontaminate))
else if (args.curate) answer(await measurePipeline(args.curate))
else if (args.pipeline) await pipeline()
else if (args.contamination) await contamination()
else if (args.recall) await recall()
else if (args.steps) await hashing()
else await speed()

/** The last line of a trial's process. */
function answer(value: object): void {
  console.log(`\n${JSON.stringify(value)}`)
}

async function speed(): Promise<void> {
  const trials: object[] = []
  for (const rows of args.rows.split(',').map(Number)) {
    const folder = await mkdtemp(join(tmpdir(), 'bge-curate-'))
    try {
      const corpus = await trial<Corpus>('--generate', folder, '--rows', String(rows))
      console.log(`${rows} rows, ${gigabytes(corpus.bytes)} GB: ${JSON.stringify(corpus.planted)}, generated in ${corpus.seconds} s`)
      const load = loadavg().map((x) => Number(x.toFixed(2)))
      const result = await trial<Measured>('--dedup', folder, '--threads', args.threads, '--memory', args.memory)
      console.log(JSON.stringify(result))
      trials.push({ rows, corpus, loadBefore: load, loadAfter: loadavg().map((x) => Number(x.toFixed(2))), ...result })
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  }
  const last = trials.at(-1) as { rows: number } & Measured
  const factor = 1e8 / last.rows
  const projection = {
    rows: 1e8,
    from: last.rows,
    hours: round((last.seconds * factor) / 3600),
    cpuHours: round((last.cpuSeconds * factor) / 3600),
    diskGB: round(last.diskGB * factor),
    note: 'linear in the rows; sorting grows by log(100 M)/log(rows), and beyond the memory limit DuckDB spills',
  }
  const content = { machine: machine(), threads: Number(args.threads), memoryLimit: args.memory, settings, trials, projection }
  if (args.out) console.log(`written to ${await writeResults(args.out, content)}`)
}

async function trial<T>(...flags: string[]): Promise<T> {
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, 'curate', ...flags], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  for await (const chunk of child.stdout) output += chunk
  const code = child.exitCode ?? (await new Promise((resolve) => child.on('exit', resolve)))
  if (code !== 0) throw new Error(`the trial ${flags.join(' ')} ended with ${code}`)
  return JSON.parse(output.trim().split('\n').at(-1)!) as T
}

interface Corpus {
  bytes: number
  seconds: number
  planted: Record<Kind, number>
}

type Kind = 'original' | 'exact' | 'edit 1 %' | 'edit 10 %' | 'same passage' | 'template'

/** Of 100 rows: 70 originals, 10 exact copies (respelled), 8 copies with 1 % edited, 4 with 10 %, 5 new questions on an old passage, 3 template rows. */
async function generate(folder: string, rows: number): Promise<Corpus> {
  const start = performance.now()
  const words = chineseLike(7)
  const planted: Record<Kind, number> = { original: 0, exact: 0, 'edit 1 %': 0, 'edit 10 %': 0, 'same passage': 0, template: 0 }
  const files = await Promise.all(Array.from({ length: FILES }, (_, i) => open(join(folder, `corpus-${i}.jsonl`), 'w')))
  const blocks: string[][] = files.map(() => [])
  // A copy is of one of the last originals; its file is another one as often as not.
  const recent: { query: string; pos: string }[] = []
  const draw = random(11, 'corpus')
  for (let i = 0; i < rows; i++) {
    const kind = recent.length < 100 ? 'original' : kindOf(draw.int(100))
    planted[kind]++
    const old = recent[draw.int(recent.length || 1)]!
    const topic = draw.int(2000)
    let [query, pos] = [words.title(topic, draw), '']
    if (kind === 'original') {
      pos = words.passage(topic, passageLength(draw), draw)
      recent[recent.length < 1000 ? recent.length : draw.int(1000)] = { query, pos }
    } else if (kind === 'template')
      pos = `${query}：本页面由系统自动生成，内容仅供参考，如有疑问请联系客服。${words.title(topic, draw)}。版权所有，未经许可不得转载。`
    else if (kind === 'exact') [query, pos] = [respell(old.query, draw), respell(old.pos, draw)]
    else if (kind === 'same passage') pos = old.pos
    else [query, pos] = [old.query, editCharacters(old.pos, kind === 'edit 1 %' ? 0.01 : 0.1, draw)]
    const to = draw.int(FILES)
    blocks[to]!.push(JSON.stringify(rowOf(`source-${to}`, `corpus-${to}:${i}`, query, pos)), '\n')
    if (blocks[to]!.length >= 4000) {
      await files[to]!.write(blocks[to]!.join(''))
      blocks[to] = []
    }
  }
  for (const [i, file] of files.entries()) {
    await file.write(blocks[i]!.join(''))
    await file.close()
  }
  return { bytes: await sizeOf(folder), seconds: round((performance.now() - start) / 1000), planted }
}

function kindOf(percent: number): Kind {
  if (percent < 70) return 'original'
  if (percent < 80) return 'exact'
  if (percent < 88) return 'edit 1 %'
  if (percent < 92) return 'edit 10 %'
  return percent < 97 ? 'same passage' : 'template'
}

interface Measured {
  seconds: number
  rowsPerSecond: number
  /** of this process, all threads: what the steps cost whatever else the machine does */
  cpuSeconds: number
  /** the most that the process held, DuckDB in it, and before the first row */
  peakRssGB: number
  startRssGB: number
  /** the most that store and output took beside the inputs */
  diskGB: number
  stepSeconds: Record<string, number>
  exact: number
  near: number
  kept: number
  counts: unknown
}

async function pipeline(): Promise<void> {
  const trials: object[] = []
  for (const rows of args.rows.split(',').map(Number)) {
    const folder = await mkdtemp(join(tmpdir(), 'bge-curate-'))
    try {
      const corpus = await trial<Corpus>('--generate', folder, '--rows', String(rows))
      const loadBefore = loadavg()
      const result = await trial<object>('--curate', folder, '--threads', args.threads, '--memory', args.memory)
      console.log(JSON.stringify(result))
      trials.push({ rows, bytes: corpus.bytes, loadBefore, loadAfter: loadavg(), ...result })
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  }
  const content = { machine: machine(), threads: Number(args.threads), memoryLimit: args.memory, trials }
  if (args.out) console.log(`written to ${await writeResults(args.out, content)}`)
}

async function measurePipeline(folder: string): Promise<object> {
  const recipe = join(folder, 'recipe.json')
  const source = {
    name: 'synthetic',
    files: ['*.jsonl'],
    extract: { type: 'query-passage', fields: { query: 'query', passage: 'pos[]' } },
    licence: 'none: generated',
  }
  await writeFile(recipe, JSON.stringify({ name: 'synthetic', sources: [source] }))
  const startRssGB = gigabytes(process.resourceUsage().maxRSS * 1024)
  const stages: Record<string, { seconds: number; rssGB: number }> = {}
  let [stage, since, start] = ['', performance.now(), performance.now()]
  const end = (): void => {
    if (stage) stages[stage] = { seconds: round((performance.now() - since) / 1000), rssGB: gigabytes(process.memoryUsage().rss) }
  }
  const { summary } = await curate(await readRecipe(recipe), {
    out: join(folder, 'out'),
    resources: { threads: Number(args.threads), memoryLimit: args.memory },
    onProgress({ stage: now }) {
      if (now === stage) return
      end()
      ;[stage, since] = [now, performance.now()]
    },
  })
  end()
  const seconds = (performance.now() - start) / 1000
  const { user, system } = process.cpuUsage()
  return {
    seconds: round(seconds),
    cpuSeconds: round((user + system) / 1e6),
    stages,
    peakRssGB: gigabytes(process.resourceUsage().maxRSS * 1024),
    startRssGB,
    written: summary.output.rows,
  }
}

async function measure(folder: string): Promise<Measured> {
  const inputs = (await readdir(folder)).sort().map((name) => join(folder, name))
  const out = join(folder, 'out')
  const startRssGB = gigabytes(process.resourceUsage().maxRSS * 1024)
  let disk = 0
  const timer = setInterval(() => sizeOf(out).then((bytes) => (disk = Math.max(disk, bytes))), 500)
  const steps: Record<string, number> = {}
  const start = performance.now()
  let [step, since] = ['read', start]
  const report = await dedup(inputs, out, settings, {
    threads: Number(args.threads),
    memoryLimit: args.memory,
    onProgress(now, done, total) {
      if (now === step) return
      steps[step] = round((performance.now() - since) / 1000)
      process.stderr.write(`${step} ${steps[step]} s, ${gigabytes(process.memoryUsage().rss)} GB; ${now} ${done}/${total}\n`)
      ;[step, since] = [now, performance.now()]
    },
  })
  const seconds = (performance.now() - start) / 1000
  const { user, system } = process.cpuUsage()
  steps[step] = round((performance.now() - since) / 1000)
  clearInterval(timer)
  const { read, exact, near, kept, nearCounts } = report
  return {
    seconds: round(seconds),
    rowsPerSecond: Math.round(read / seconds),
    cpuSeconds: round((user + system) / 1e6),
    peakRssGB: gigabytes(process.resourceUsage().maxRSS * 1024),
    startRssGB,
    diskGB: gigabytes(disk),
    stepSeconds: steps,
    exact,
    near,
    kept,
    counts: nearCounts,
  }
}

async function contamination(): Promise<void> {
  const trials: object[] = []
  for (const rows of args.rows.split(',').map(Number)) {
    const folder = await mkdtemp(join(tmpdir(), 'bge-curate-'))
    try {
      await trial<Corpus>('--generate', folder, '--rows', String(rows))
      trials.push({ rows, loadBefore: loadavg(), ...(await trial<object>('--decontaminate', folder)), loadAfter: loadavg() })
      console.log(JSON.stringify(trials.at(-1)))
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  }
  if (args.out) console.log(`written to ${await writeResults(args.out, { machine: machine(), trials })}`)
}

/** 50,000 queries and 50,000 passages that are not in the corpus, and 1000 passages of it with 1 % of the characters edited. */
async function measureDecontamination(folder: string): Promise<object> {
  const inputs = (await readdir(folder)).sort().map((name) => join(folder, name))
  const [words, draw] = [chineseLike(23), random(23, 'evaluation')]
  const texts: EvaluationText[] = []
  for (let i = 0; i < 50_000; i++) {
    texts.push({ task: 'Unseen', field: 'queries', text: words.title(i, draw) })
    texts.push({ task: 'Unseen', field: 'corpus', text: words.passage(i, passageLength(draw), draw) })
  }
  const planted = 1000
  for await (const { value } of readJsonl(inputs[0]!)) {
    texts.push({ task: 'Planted', field: 'corpus', text: editCharacters((value.pos as string[])[0]!, 0.01, draw) })
    if (texts.length === 100_000 + planted) break
  }
  const [start, before] = [performance.now(), cpuMicroseconds()]
  const report = await decontaminate(inputs, texts, join(folder, 'out'), { ngram: 13, threshold: 0.8 })
  const seconds = (performance.now() - start) / 1000
  return {
    evaluationTexts: texts.length,
    planted,
    seconds: round(seconds),
    cpuSeconds: round((cpuMicroseconds() - before) / 1e6),
    rowsPerSecond: Math.round(report.read / seconds),
    peakRssGB: gigabytes(process.resourceUsage().maxRSS * 1024),
    dropped: report.dropped,
    byTask: Object.fromEntries(Object.entries(report.byTask).map(([task, { rows }]) => [task, rows])),
  }
}

async function sizeOf(folder: string): Promise<number> {
  const names = await readdir(folder, { recursive: true }).catch(() => [])
  const sizes = await Promise.all(
    names.map((name) =>
      stat(join(folder, name)).then(
        (info) => (info.isFile() ? info.size : 0),
        () => 0,
      ),
    ),
  )
  return sizes.reduce((a, b) => a + b, 0)
}

function machine(): object {
  const [{ model = 'unknown' } = {}] = cpus()
  return { cpu: model, cores: availableParallelism(), node: process.version, commit: commit(), date: new Date().toISOString() }
}

function round(x: number): number {
  return Number(x.toPrecision(4))
}

function gigabytes(bytes: number): number {
  return round(bytes / 1e9)
}

interface RecallRow {
  kind: string
  pairs: number
  /** of the pairs, those whose similarity is at least the threshold, and those that were dropped */
  similar: number
  dropped: number
  /** dropped ones whose similarity is below the threshold, and ones dropped for a row that is not their origin */
  wrong: number
  /** found of the similar ones */
  recall: number | null
  meanSimilarity: number
}

/** Every original with a copy of each kind, as passages: what de-duplication drops against the true Jaccard similarity. */
async function recall(): Promise<void> {
  const words = chineseLike(13)
  const lengths = { short: 30, middle: 120, long: 400 }
  const kinds: Record<string, (text: string, draw: ReturnType<typeof random>, topic: number) => string> = {
    'edit 1 %': (text, draw) => editCharacters(text, 0.01, draw),
    'edit 2 %': (text, draw) => editCharacters(text, 0.02, draw),
    'edit 5 %': (text, draw) => editCharacters(text, 0.05, draw),
    'edit 10 %': (text, draw) => editCharacters(text, 0.1, draw),
    'edit 20 %': (text, draw) => editCharacters(text, 0.2, draw),
    'two sentences swapped': (text, draw) => swapSentences(text, draw),
    'same topic, another text': (text, draw, topic) => words.passage(topic, text.length, draw),
  }
  const folder = await mkdtemp(join(tmpdir(), 'bge-curate-'))
  const originals = 5000
  const results: object[] = []
  try {
    for (const threshold of [0.6, 0.7, 0.8, 0.9]) {
      for (const [size, length] of Object.entries(lengths)) {
        const table: RecallRow[] = []
        for (const [kind, copy] of Object.entries(kinds)) {
          const draw = random(17, kind, 0, length)
          const rows: Row[] = []
          const similarity = new Map<string, number>()
          for (let i = 0; i < originals; i++) {
            const topic = i % 100
            const pos = words.passage(topic, length, draw)
            const other = copy(pos, draw, topic)
            const [a, b] = [rowOf('original', `a:${i}`, `甲${i}`, pos), rowOf('copy', `b:${i}`, `乙${i}`, other)]
            rows.push(a, b)
            similarity.set(b.at, jaccard(plain(pos), plain(other), 5))
          }
          table.push(await recallOf(folder, kind, rows, similarity, threshold))
        }
        results.push({ threshold, size, length, table })
        console.log(`threshold ${threshold}, ${length} characters`)
        console.table(table)
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  if (args.out) console.log(`written to ${await writeResults(args.out, { machine: machine(), originals, results })}`)
}

function plain(text: string): string {
  return text.replaceAll(/[。，]/g, '')
}

async function recallOf(folder: string, kind: string, rows: Row[], similarity: Map<string, number>, threshold: number): Promise<RecallRow> {
  const input = join(folder, 'rows.jsonl')
  const out = join(folder, 'out')
  await writeFile(input, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  const near = { threshold, ngram: 5, hashes: 128 }
  const report = await dedup([input], out, { exact: false, near, on: 'passage' }, { priorities: { original: 1 }, memoryLimit: '1GB' })
  const kept = new Set<string>()
  for (const file of report.files)
    for (const line of (await readFile(file, 'utf8')).split('\n')) if (line) kept.add((JSON.parse(line) as Row).at)
  await rm(out, { recursive: true })
  const pairs = [...similarity]
  const similar = pairs.filter(([, s]) => s >= threshold)
  const dropped = pairs.filter(([at]) => !kept.has(at))
  const lost = rows.filter(({ at }) => at.startsWith('a:') && !kept.has(at)).length
  const found = similar.filter(([at]) => !kept.has(at)).length
  return {
    kind,
    pairs: pairs.length,
    similar: similar.length,
    dropped: dropped.length,
    wrong: dropped.length - found + lost,
    recall: similar.length ? round(found / similar.length) : null,
    meanSimilarity: round(pairs.reduce((sum, [, s]) => sum + s, 0) / pairs.length),
  }
}

function cpuMicroseconds(): number {
  const { user, system } = process.cpuUsage()
  return user + system
}

/** What chose the way of hashing: processor microseconds a passage, the least of five rounds. */
async function hashing(): Promise<void> {
  const [words, draw] = [chineseLike(19), random(19, 'hashing')]
  const passages = Array.from({ length: 10_000 }, (_, i) => words.passage(i % 100, passageLength(draw), draw))
  const texts = passages.map(normaliseForIdentity)
  const [signature, hasher] = [new Uint32Array(128), new MinHasher(128)]
  const seeds = Uint32Array.from({ length: 128 }, () => draw.next() | 1)
  const perHash = (text: string): void => {
    signature.fill(2 ** 32 - 1)
    eachShingle(text, 5, (hash) => {
      for (let k = 0; k < 128; k++) {
        const x = Math.imul(hash ^ (hash >>> 15) ^ seeds[k]!, seeds[k]!) >>> 0
        if (x < signature[k]!) signature[k] = x
      }
    })
  }
  const microseconds: Record<string, number> = {}
  const time = (name: string, work: (text: string, i: number) => unknown, input: readonly string[]): void => {
    let best = Number.POSITIVE_INFINITY
    for (let round = 0; round < 5; round++) {
      const start = cpuMicroseconds()
      for (const [i, text] of input.entries()) work(text, i)
      best = Math.min(best, cpuMicroseconds() - start)
    }
    microseconds[name] = round(best / input.length)
  }
  time('normaliseForIdentity', normaliseForIdentity, passages)
  time('MinHash, a pass per hash (128)', perHash, texts)
  time('MinHash, one permutation and densification (128)', (text) => hasher.sign(text, 5, signature), texts)
  time('exact Jaccard of two passages', (text, i) => overlap(text, texts[(i + 1) % texts.length]!, 5), texts)
  microseconds['DuckDB: hash() of the 5-grams as a list, without the 128 minima'] = await inDuckDB(texts)
  const characters = round(texts.reduce((sum, text) => sum + text.length, 0) / texts.length)
  console.table(microseconds)
  const content = { machine: machine(), load: loadavg(), characters, microseconds }
  if (args.out) console.log(`written to ${await writeResults(args.out, content)}`)
}

async function inDuckDB(texts: readonly string[]): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'bge-curate-'))
  const store = await openStore(folder, { threads: 1 })
  try {
    const writer = await store.create('texts', { text: 'VARCHAR' })
    for (const text of texts) writer.add([text])
    writer.close()
    let best = Number.POSITIVE_INFINITY
    for (let round = 0; round < 3; round++) {
      const start = cpuMicroseconds()
      await store.number('SELECT max(list_min(list_transform(range(1, length(text) - 3), lambda i: hash(substr(text, i, 5))))) FROM texts')
      best = Math.min(best, cpuMicroseconds() - start)
    }
    return round(best / texts.length)
  } finally {
    await store.close()
  }
}
