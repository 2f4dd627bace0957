// What scripts/gpu/bench.ts measures: the sizes that ours.ts and peers.py both get, how often, in which order, and the goals of each figure.
import { presetConfig } from '../../lib/model/config.js'
import type { EncoderConfig } from '../../lib/native.js'

/** How one turn is timed: `warmups` untimed runs, then runs until `repeat` or, after at least three (or `repeat`), until `budget` seconds. */
interface Timing {
  warmups: number
  repeat: number
  budget: number
  /** ours: which matrix products (BGE_CUDA_GEMM). Default: what the library chooses */
  products?: 'own' | 'cublaslt'
}

/** The sizes of one section, as they travel to both processes. Every member of the union is one `section` of ours.ts and peers.py. */
export type Sizes = Timing &
  (
    | { section: 'ceilings'; gemm: number; sustainedSeconds: number; copyBytes: number }
    | {
        section: 'encode'
        config: EncoderConfig
        /** tokens of each text; given as a length and a count, or log-normal */
        lengths: { tokens: number; texts: number } | { median: number; longest: number; texts: number }
        /** ours: tokens of a micro-batch */
        microBatchTokens: readonly number[]
        /** theirs: texts of a batch */
        batchTexts: readonly number[]
        variants: readonly ('eager' | 'compile' | 'sentence-transformers')[]
      }
    | { section: 'latency'; config: EncoderConfig; tokens: number; variants: readonly ('eager' | 'compile')[] }
    | {
        section: 'train'
        config: EncoderConfig
        lengths: { tokens: number; texts: number } | { from: number; to: number; texts: number }
        /** 'hidden': a gradient on every last hidden state (a language-model head); 'cls': on the embeddings alone */
        gradient: 'hidden' | 'cls'
        variants: readonly ('eager' | 'compile')[]
      }
    | {
        section: 'attention'
        heads: number
        headSize: number
        tokens: number
        length: number
        dropout: number
        direction: 'forward' | 'backward'
      }
    | { section: 'linear'; rows: number; in: number; out: number; kind: 'bias' | 'gelu' | 'input' | 'weight' }
    | { section: 'layernorm'; rows: number; cols: number; length: number; dropout: number; direction: 'forward' | 'backward' }
    | {
        section: 'infonce'
        batch: number
        width: number
        temperature: number
        /** rows of dQ compared with float64; columns of dP too, where `columns` */
        sample: number
        columns: boolean
        variants: readonly ('bf16' | 'tf32' | 'fp32' | 'cached')[]
        cachedRows: number
      }
    | { section: 'mlm'; config: EncoderConfig; rows: number }
    | { section: 'retromae'; config: EncoderConfig; texts: number; tokens: number; maskRatio: number; decoderMaskRatio: number }
    | {
        section: 'gradcache'
        config: EncoderConfig
        pairs: number
        tokens: number
        microBatchTokens: readonly number[]
        cachedTexts: number
        temperature: number
        /** ours: also one step without GradCache (a plain step) of this many pairs, for the cost at equal tokens */
        plainPairs: number
      }
    | {
        section: 'finetune'
        config: EncoderConfig
        queries: number
        queryTokens: number
        passageTokens: number
        groupSize: number
        temperature: number
      }
    | { section: 'adamw'; config: EncoderConfig }
    | { section: 'topk'; queries: number; passages: number; width: number; k: number; peerRows: number }
  )

/** What a turn answers: seconds of every run of every variant, what else was found (errors, memory), and which variants failed and why. */
export interface Answer {
  seconds: Record<string, number[]>
  facts: Record<string, unknown>
  errors: Record<string, string>
}

/** Medians of a case. `ours`, `peers`: seconds of each variant. */
export interface Outcome {
  ours: Record<string, number>
  peers: Record<string, number>
  oursFacts: Record<string, unknown>
  peerFacts: Record<string, unknown>
  /** flop/s of bf16 products, measured in the same call: ten in a row, and half a minute of them */
  burst: number | undefined
  sustained: number | undefined
}

export interface Goal {
  /** as the issue words it */
  what: string
  value(outcome: Outcome): number | undefined
  atLeast?: number
  atMost?: number
}

export interface Case {
  /** what --only matches the beginning of */
  name: string
  sizes: Sizes
  /** A ours, B theirs */
  turns: string
  /** a turn that takes longer is ended */
  timeout: number
  /** of one run, for rates */
  work?: { tokens?: number; texts?: number; flops?: number; bytes?: number }
  goals: readonly Goal[]
}

export const best = (variants: Record<string, number>, among?: readonly string[]): number | undefined => {
  const found = Object.entries(variants).flatMap(([name, s]) =>
    among === undefined || among.some((word) => name.startsWith(word)) ? s : [],
  )
  return found.length > 0 ? Math.min(...found) : undefined
}
const over = (a: number | undefined, b: number | undefined): number | undefined => (a === undefined || b === undefined ? undefined : a / b)
/** times as fast as the fastest peer whose name begins with one of `against` */
const ratio = (atLeast: number, ...against: string[]): Goal => ({
  what: `times ${against.join(' / ') || 'best peer'}`,
  value: ({ ours, peers }) => over(best(peers, against.length > 0 ? against : undefined), best(ours)),
  atLeast,
})
const rate = (unit: string, units: number, atLeast: number): Goal => ({
  what: unit,
  value: ({ ours }) => over(units, best(ours)),
  atLeast,
})
/** of the arithmetic that is counted, over the burst ceiling */
const share = (flops: number, atLeast: number): Goal => ({
  what: 'of the burst ceiling',
  value: ({ ours, burst }) => over(over(flops, best(ours)), burst),
  atLeast,
})
const seconds = (atMost: number): Goal => ({ what: 'seconds', value: ({ ours }) => best(ours), atMost })
const fact = (what: string, name: string, atMost: number): Goal => ({
  what,
  value: ({ oursFacts }) => (typeof oursFacts[name] === 'number' ? (oursFacts[name] as number) : undefined),
  atMost,
})

type Size = 'small' | 'base' | 'large'
const VOCABULARY = 21_128

/** `tiny`: the same lines at sizes a CPU (or the emulated device) can run, to find what would fail. */
export function cases(scale: 'full' | 'tiny'): Case[] {
  const tiny = scale === 'tiny'
  const pick = (full: number, small: number): number => (tiny ? small : full)
  const config = (size: Size, dropout = 0): EncoderConfig => {
    const { source: _, ...shape } = presetConfig(size, pick(VOCABULARY, 208))
    const narrow = tiny ? { layers: 2, hidden: 64, heads: 1, intermediate: 128 } : {}
    return { ...shape, ...narrow, hiddenDropout: dropout, attentionDropout: dropout, pooling: 'cls', normalize: true }
  }
  const timing = (repeat: number, budget = 3, warmups = 3): Timing =>
    tiny ? { warmups: 1, repeat: 2, budget: 1 } : { warmups, repeat, budget }
  const heavy = (repeat: number, budget: number): Timing => timing(repeat, budget, 1)

  const list: Case[] = []
  const add = (name: string, sizes: Sizes, goals: readonly Goal[] = [], more: Partial<Case> = {}): void => {
    list.push({ name, sizes, goals, turns: 'ABBA', timeout: 120, ...more })
  }

  // ---- what every share of a ceiling divides by
  add(
    'ceilings',
    { section: 'ceilings', ...timing(10), gemm: pick(8192, 64), sustainedSeconds: pick(30, 0.1), copyBytes: pick(4e9, 1e6) },
    [],
    { turns: 'B' },
  )

  // ---- issue 3
  const perSequence = { small: [2, 200_000], base: [1.6, 30_400], large: [1.4, 8800] } as const
  const encoded = (size: Size, tokens: number, variants: readonly ('eager' | 'compile')[], prefix = ''): void => {
    const texts = pick(Math.round((size === 'small' ? 524_288 : size === 'base' ? 262_144 : 65_536) / tokens), 6)
    const length = pick(tokens, 12)
    const [least, aim] = perSequence[size]
    add(
      `${prefix}encode-${size}-${tokens}`,
      {
        section: 'encode',
        ...timing(10),
        config: config(size),
        lengths: { tokens: length, texts },
        microBatchTokens: tiny ? [48] : [16_896, 67_584],
        batchTexts: tiny ? [3] : [Math.max(1, Math.round(16_384 / tokens)), Math.round(65_536 / tokens)],
        variants,
      },
      tokens === 128 && prefix === '' ? [ratio(least, 'eager'), rate('sequences/s', texts, aim)] : [],
      { work: { texts, tokens: texts * length, flops: texts * forwardFlops(config(size), length) }, ...(prefix && { timeout: 240 }) },
    )
  }
  for (const tokens of [128, 32, 512]) for (const size of ['base', 'small', 'large'] as const) encoded(size, tokens, ['eager'])
  for (const size of ['base', 'small'] as const) {
    add(
      `mixed-${size}`,
      {
        section: 'encode',
        ...timing(5, 6, 1),
        config: config(size),
        lengths: { median: pick(60, 6), longest: pick(512, 20), texts: pick(2000, 12) },
        microBatchTokens: tiny ? [48] : [16_896, 67_584],
        batchTexts: tiny ? [4] : [32, 128],
        variants: ['eager', 'sentence-transformers'],
      },
      size === 'base' ? [ratio(2.5, 'sentence-transformers', 'eager'), ratio(5, 'sentence-transformers', 'eager')] : [],
      { work: { texts: pick(2000, 12) } },
    )
  }
  const latent = (size: Size, tokens: number, variants: readonly ('eager' | 'compile')[], prefix = ''): void =>
    add(
      `${prefix}latency-${size}-${tokens}`,
      { section: 'latency', ...timing(400, 3, 20), config: config(size), tokens: pick(tokens, 12), variants },
      size === 'base' && tokens === 128 && prefix === '' ? [ratio(5, 'eager'), seconds(0.18e-3)] : [],
      prefix ? { timeout: 240 } : {},
    )
  for (const tokens of [128, 32, 16]) for (const size of ['base', 'small', 'large'] as const) latent(size, tokens, ['eager'])

  const trained = config('base', 0.1)
  const texts = pick(64, 3)
  const trainedFull = (variants: readonly ('eager' | 'compile')[], prefix = ''): void => {
    const flops = 3 * texts * forwardFlops(trained, pick(512, 12))
    add(
      `${prefix}train-full-512`,
      { section: 'train', ...heavy(8, 6), config: trained, lengths: { tokens: pick(512, 12), texts }, gradient: 'hidden', variants },
      prefix === '' ? [ratio(1.5, 'eager'), share(flops, 0.72)] : [],
      { work: { texts, flops }, ...(prefix && { timeout: 240 }) },
    )
  }
  trainedFull(['eager'])
  for (const gradient of ['hidden', 'cls'] as const) {
    add(
      `train-unpadded-${gradient}`,
      {
        section: 'train',
        ...heavy(8, 6),
        config: trained,
        lengths: { from: pick(64, 3), to: pick(512, 12), texts },
        gradient,
        variants: ['eager'],
      },
      gradient === 'hidden' ? [ratio(1.5, 'eager')] : [],
      { work: { texts } },
    )
  }
  for (const direction of ['forward', 'backward'] as const) {
    for (const length of [512, 128]) {
      for (const dropout of [0, 0.1]) {
        const [heads, headSize, tokens] = [12, 64, pick(65_536, 24)]
        const l = Math.min(length, pick(512, 12))
        add(
          `attention-${direction}-${length}${dropout > 0 ? '-dropout' : ''}`,
          { section: 'attention', ...timing(30, 2), heads: pick(heads, 2), headSize, tokens, length: l, dropout, direction },
          length !== 512 || dropout > 0 ? [] : direction === 'forward' ? [ratio(0.85), ratio(1.25)] : [ratio(0.75), ratio(1.2)],
          { work: { flops: (direction === 'forward' ? 4 : 10) * tokens * l * heads * headSize } },
        )
      }
    }
  }
  const [rows, H] = [pick(16_896, 24), pick(768, 64)]
  for (const [kind, i, o] of [
    ['bias', H, 3 * H],
    ['bias', H, H],
    ['gelu', H, 4 * H],
    ['bias', 4 * H, H],
    ['input', H, 4 * H],
    ['weight', H, 4 * H],
  ] as const) {
    add(`linear-${kind}-${i}x${o}`, { section: 'linear', ...timing(30, 2), rows, in: i, out: o, kind }, [], {
      work: { flops: 2 * rows * i * o },
    })
  }
  for (const direction of ['forward', 'backward'] as const) {
    const bytes = 8 * 4 * rows * H // four bf16 matrices
    add(
      `layernorm-${direction}`,
      { section: 'layernorm', ...timing(30, 2), rows: 4 * rows, cols: H, length: pick(512, 12), dropout: 0.1, direction },
      [],
      { work: { bytes } },
    )
  }

  // ---- issue 4
  const infonce = (
    batch: number,
    width: number,
    variants: readonly ('bf16' | 'tf32' | 'fp32' | 'cached')[],
    goals: readonly Goal[] = [],
    more: Partial<Case> = {},
  ): void => {
    const B = tiny ? Math.min(batch, 48) : batch
    add(
      `infonce-${batch}x${width}`,
      {
        section: 'infonce',
        ...(batch > 100_000 ? timing(1, 1, 0) : batch > 30_000 ? heavy(5, 5) : timing(20, 4)),
        batch: B,
        width: tiny ? 64 : width,
        temperature: pick(0.01, 0.05),
        sample: pick(batch > 100_000 ? 8 : 32, 4),
        columns: batch < 30_000,
        variants,
        cachedRows: pick(1024, 16),
      },
      goals,
      { work: { flops: 6 * B * B * (tiny ? 64 : width) }, timeout: 150, ...more },
    )
  }
  const all = ['bf16', 'tf32', 'fp32', 'cached'] as const
  for (const width of [768, 512]) {
    const wide = width === 768
    const error = fact('gradient error', 'gradientError', 2e-3)
    infonce(19_200, width, all, wide ? [seconds(3e-3), error, fact('bytes of the loss', 'lossBytes', 0.2e9)] : [])
    infonce(2048, width, all)
    infonce(65_536, width, all)
    infonce(262_144, width, ['cached'], [], { turns: 'AB' })
    infonce(1_048_576, width, [], wide ? [seconds(11), fact('bytes of everything', 'allBytes', 16e9), error] : [], {
      turns: 'A',
      timeout: 240,
    })
  }
  infonce(1_048_576, 768, ['cached'], [], { name: 'infonce-1048576x768-cached', turns: 'B', timeout: 240 })
  const mlmRows = pick(42_600, 20)
  add(
    'mlm-head',
    { section: 'mlm', ...heavy(10, 4), config: config('base'), rows: mlmRows },
    [seconds(7.2e-3), fact('bytes of workspace', 'workspaceBytes', 200e6)],
    { work: { flops: 6 * mlmRows * (H * pick(VOCABULARY, 208) + H * H) } },
  )
  const pretrained = pick(64, 3)
  add(
    'retromae-base-512',
    {
      section: 'retromae',
      ...heavy(6, 6),
      config: trained,
      texts: pretrained,
      tokens: pick(512, 12),
      maskRatio: 0.3,
      decoderMaskRatio: 0.5,
    },
    [rate('sequences/s', pretrained, 1300), rate('sequences/s', pretrained, 1500)],
    { work: { texts: pretrained }, timeout: 120 },
  )
  const pairs = pick(19_200, 6)
  add(
    'gradcache-base-19200',
    {
      section: 'gradcache',
      ...timing(1, 1, 0),
      config: trained,
      pairs,
      tokens: pick(128, 8),
      microBatchTokens: tiny ? [32] : [67_584],
      cachedTexts: pick(512, 4),
      temperature: 0.01,
      plainPairs: pick(256, 3),
    },
    [ratio(2, 'sentence-transformers'), seconds(5.3), fact('times a plain step at equal tokens', 'timesPlainStep', 1.35)],
    { work: { texts: 2 * pairs }, turns: 'ABA', timeout: 200 },
  )
  const samples = pick(64, 3)
  add(
    'finetune-base',
    {
      section: 'finetune',
      ...heavy(8, 6),
      config: trained,
      queries: samples,
      queryTokens: pick(64, 5),
      passageTokens: pick(256, 9),
      groupSize: 2,
      temperature: 0.02,
    },
    [],
    { work: { texts: 3 * samples } },
  )
  add('adamw-base', { section: 'adamw', ...timing(50, 2), config: config('base') }, [seconds(0.85e-3)])
  const [queries, passages] = [pick(4096, 5), pick(262_144, 40)]
  add('topk', { section: 'topk', ...heavy(5, 5), queries, passages, width: pick(768, 16), k: pick(100, 3), peerRows: pick(1024, 4) }, [], {
    work: { flops: 2 * queries * passages * pick(768, 16) },
  })

  // ---- against torch.compile, max-autotune: minutes of compiling
  encoded('base', 128, ['eager', 'compile'], 'compiled-')
  latent('base', 128, ['eager', 'compile'], 'compiled-')
  trainedFull(['eager', 'compile'], 'compiled-')
  encoded('small', 128, ['eager', 'compile'], 'compiled-')
  encoded('large', 128, ['eager', 'compile'], 'compiled-')
  // ---- our own matrix products everywhere, cuBLASLt nowhere
  for (const { name, sizes, work, timeout } of [...list]) {
    if (!/^(encode-(base|small)-128|train-full|linear)/.test(name)) continue
    add(`own-gemm-${name}`, { ...sizes, products: 'own' }, [], { turns: 'A', timeout, ...(work && { work }) })
  }
  // What the goals ask comes first: a call that ends early has answered most of them.
  const rank = (c: Case): number => (c.name === 'ceilings' ? 0 : c.goals.length > 0 ? 1 : 2)
  return list.sort((a, b) => rank(a) - rank(b))
}

/** Arithmetic of one sequence of `s` tokens through every layer, nothing pruned: 24 H^2 + 4 s H a token and layer where F = 4 H. */
function forwardFlops({ layers, hidden, intermediate }: EncoderConfig, s: number): number {
  return s * layers * (8 * hidden * hidden + 4 * hidden * intermediate + 4 * s * hidden)
}
