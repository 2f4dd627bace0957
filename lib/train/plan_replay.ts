import type { Device, EncoderConfig } from '../native.js'
import { type ArenaMark, ArenaReplay } from './plan_arena.js'
import { type AttentionShape, hiddenBytes, type OpMemory } from './plan_ops.js'

const INT = 4
const F32 = 4
const CROSS_ENTROPY_RESULT = 24 // bytes, native/core/backend.h
const CONTRASTIVE_RESULT = 32

/** One micro-batch: what memory depends on. */
export interface MicroShape {
  /** T tokens in N sequences, the longest of `longest` tokens */
  readonly tokens: number
  readonly sequences: number
  readonly longest: number
  /** RetroMAE: labelled rows of the encoder and of the decoder, and 64-bit words of the decoder's mask rows */
  readonly labelled?: number
  readonly predicted?: number
  readonly maskWords?: number
}

/** What the objective of stages 2 and 3 depends on. */
export interface ObjectiveShape {
  /** B queries with G passages each */
  readonly queries: number
  readonly groupSize: number
  readonly candidates: 'batch' | 'source' | 'group'
  readonly direction: 'query-to-passage' | 'symmetric'
  readonly matryoshka: readonly number[]
  readonly teacher: boolean
  /** numbers of listed positives of all queries, or 'none' where duplicates are kept */
  readonly positives: number | 'none'
}

/**
 * Replays the requests of native/model/*.cc to the workspace and to the encoder's arena of activations, for any number of micro-batches.
 * Letters as in docs/architecture.md: T tokens, N sequences, R rows, C width, F feed-forward width, V vocabulary.
 */
export class Replay {
  readonly workspace: ArenaReplay = new ArenaReplay()
  readonly activations: ArenaReplay = new ArenaReplay()
  readonly #model: EncoderConfig
  readonly #ops: OpMemory
  /** where the outstanding forwards' activations begin, the newest last */
  readonly #outstanding: ArenaMark[] = []

  constructor(model: EncoderConfig, ops: OpMemory) {
    this.#model = model
    this.#ops = ops
  }

  /** Tensor::gatherRows, scatterRows of n rows. */
  moveRows(n: number): void {
    this.workspace.op([n * INT])
  }

  /** Encoder::embed, pass 1 of GradCache. */
  embed({ tokens: T, sequences: N, longest }: MicroShape): void {
    const { layers, hidden: C, intermediate: F, pooling } = this.#model
    const { workspace: a } = this
    const cls = pooling === 'cls'
    a.scope(() => {
      this.#batch(a, T, N)
      if (cls) {
        this.#selection(a, N, N)
        a.take(N * INT)
      }
      a.take(N * C * F32)
      a.scope(() => {
        a.take(this.#hidden(T, C))
        for (let layer = 1; layer <= layers; layer++) {
          const pruned = cls && layer === layers
          const R = pruned ? N : T
          if (pruned) a.take(this.#hidden(R, C), this.#hidden(R, C))
          const unused = a.mark()
          a.take(this.#hidden(R + 2 * T, C), this.#hidden(R, C), this.#hidden(Math.min(R, this.#ops.chainRows), F))
          this.#layerForward(R, T, !pruned, N, longest, this.#ops.chainRows)
          a.reset(unused)
        }
        a.take(N * F32, N * C * F32)
      })
    })
  }

  /** Encoder::forward, which keeps its activations, and the number of rows of the last layer. */
  forward({ tokens: T, sequences: N, longest, labelled = 0 }: MicroShape): void {
    const { layers, hidden: C, pooling } = this.#model
    const { activations: a } = this
    const pruned = pooling === 'cls'
    const selected = Math.min(T, labelled + N)
    this.#outstanding.push(a.mark())
    this.#batch(a, T, N)
    if (pruned) this.#selection(a, selected, N)
    a.take(labelled * INT, N * INT, this.#hidden(T, C), T * F32, T * F32)
    for (let layer = 1; layer <= layers; layer++) {
      const last = pruned && layer === layers
      const R = last ? selected : T
      if (last) a.take(this.#hidden(R, C))
      a.take(this.#hidden(R, C))
      this.#keptLayer(a, R, T, !last)
      this.#layerForward(R, T, !last, N, longest)
    }
    a.take(N * C * F32, N * F32)
  }

  /** Encoder::backward; `from`: which gradients come in. */
  backward({ tokens: T, sequences: N, longest, labelled = 0 }: MicroShape, from: 'embeddings' | 'rows'): void {
    const { layers, hidden: C, pooling, normalize } = this.#model
    const { workspace: w } = this
    const pruned = pooling === 'cls'
    const selected = Math.min(T, labelled + N)
    w.scope(() => {
      w.take(this.#hidden(pruned ? selected : T, C))
      if (from === 'embeddings' && normalize) w.take(N * C * F32, N * C * F32)
      if (pruned) w.take(this.#hidden(T, C))
      for (let layer = layers; layer >= 1; layer--) {
        const last = pruned && layer === layers
        this.#layerBackward(last ? selected : T, T, !last, N, longest)
      }
      w.op(this.#ops.embeddingBackward(T, C))
    })
    this.activations.reset(this.#outstanding.pop())
  }

  /** MlmHead::step; x: where the hidden states come from. */
  mlmHead(rows: number, x: 'hidden' | 'float' = 'float'): void {
    if (rows > 0) this.workspace.scope(() => this.#mlmHead(rows, x))
  }

  #mlmHead(R: number, x: 'hidden' | 'float'): void {
    const { hidden: C, vocab: V } = this.#model
    const { workspace: w } = this
    const ops = this.#ops
    w.take(this.#hidden(R, C), this.#hidden(R, C), this.#hidden(R, C), R * F32, R * F32)
    w.op(ops.linear(R, C, C, x))
    w.take(R * INT, CROSS_ENTROPY_RESULT, this.#hidden(R, C))
    const chunk = Math.min(R, ops.logitRows(V))
    w.take(chunk * Math.ceil(V / 8) * 8 * F32)
    for (const n of blocks(R, chunk)) {
      w.op(ops.linear(n, V, C, 'hidden'))
      w.op(ops.crossEntropy(n))
      w.op(ops.linearBackwardWeight(n, V, C, 'float', 'hidden'))
      w.op(ops.linearBackwardInput(n, V, C, 'float'))
    }
    w.op(ops.layerNormBackward(R, C))
    w.op(ops.linearBackwardWeight(R, C, C, 'hidden', x))
    w.op(ops.linearBackwardInput(R, C, C, 'hidden'))
  }

  /** EnhancedDecoder::step, RetroMAE's decoder. */
  decoder({ tokens: T, sequences: N, longest, predicted: R = 0, maskWords = 0 }: MicroShape): void {
    if (R === 0) return
    const { hidden: C } = this.#model
    const { workspace: w } = this
    w.scope(() => {
      this.#batch(w, T, N)
      this.#selection(w, R, N)
      this.#keptLayer(w, R, T, false)
      w.take(this.#hidden(T, C), T * F32, T * F32, this.#hidden(R, C), R * F32, R * F32, maskWords * 8, R * INT, this.#hidden(R, C))
      this.#layerForward(R, T, false, N, longest)
      w.take(this.#hidden(R, C))
      this.mlmHead(R, 'hidden')
      w.take(this.#hidden(T, C), N * C * F32, N * C * F32)
      this.#layerBackward(R, T, false, N, longest)
      w.op(this.#ops.embeddingBackward(R, C))
      w.op(this.#ops.embeddingBackward(T, C))
    })
  }

  /** contrastiveObjective: the side inputs, and the passes over all scores. */
  contrastive(o: ObjectiveShape): void {
    const { workspace: w } = this
    const { hidden: D } = this.#model
    const { queries: B, matryoshka, direction, positives } = o
    const M = B * o.groupSize
    w.scope(() => {
      w.take(2 * CONTRASTIVE_RESULT * Math.max(1, matryoshka.length))
      if (o.teacher) w.take(M * F32)
      if (positives !== 'none') w.take(M * INT, B * INT, (B + 1) * INT, positives * INT)
      if (o.candidates === 'source') w.take(B * INT)
      if (direction === 'symmetric' && positives !== 'none') w.take(B * INT, B * INT, B * INT, positives * INT)
      if (matryoshka.length === 0) return this.#bothWays(o, D)
      for (const width of matryoshka) {
        w.scope(() => {
          const q = B * width * F32
          const p = M * width * F32
          w.take(q, p, B * F32, M * F32, q, p)
          this.#bothWays(o, width)
        })
      }
    })
  }

  #bothWays({ queries: B, groupSize: G, candidates, direction }: ObjectiveShape, D: number): void {
    if (candidates === 'group') {
      this.#ownGroups(B, G, D)
      return
    }
    this.workspace.op(this.#ops.contrastivePass(B, G, D, 0))
    if (direction === 'symmetric') this.workspace.op(this.#ops.contrastivePass(B, 1, D, G * D))
  }

  /** Blocks of the scores of each query's own group. */
  #ownGroups(B: number, G: number, D: number): void {
    const { workspace: w } = this
    const ops = this.#ops
    const rows = Math.min(B, 64)
    w.scope(() => {
      w.take(rows * rows * G * F32)
      for (const n of blocks(B, rows)) {
        w.op(ops.matmul(n, n * G, D, 'plain'))
        w.op(ops.contrastive(n, G))
        w.op(ops.matmul(n, D, n * G, 'plain'))
        w.op(ops.matmul(n * G, D, n, 'transposed'))
      }
    })
  }

  /** A step of stage 1 over these micro-batches (pretrain.ts), without the optimizer's. */
  retroMaeStep(microBatches: readonly MicroShape[]): void {
    for (const micro of microBatches) {
      this.forward(micro)
      this.mlmHead(micro.labelled ?? 0)
      this.decoder(micro)
      this.backward(micro, 'rows')
    }
  }

  /** A step of stages 2 and 3 over these micro-batches (gradcache.ts), the last `kept` of them run once; without the optimizer's. */
  contrastiveStep(microBatches: readonly MicroShape[], objective: ObjectiveShape, kept: number): void {
    const groups = [objective.queries, objective.queries * objective.groupSize]
    const first = microBatches.length - kept
    for (const [i, micro] of microBatches.entries()) {
      if (i < first) this.embed(micro)
      else this.forward(micro)
      this.moveRows(micro.sequences)
    }
    for (const rows of groups) this.moveRows(rows)
    this.contrastive(objective)
    for (const rows of groups) this.moveRows(rows)
    for (const [i, micro] of [...microBatches.entries()].reverse()) {
      if (i < first) this.forward(micro)
      this.moveRows(micro.sequences)
      this.backward(micro, 'embeddings')
    }
  }

  /** Optimizer::step over modules of so many parameters. */
  optimizer(modules: readonly number[]): void {
    this.workspace.scope(() => {
      this.workspace.take(8)
      this.workspace.op(this.#ops.adamw(modules))
    })
  }

  #hidden(rows: number, cols: number): number {
    return rows * cols * this.#ops.hiddenBytes
  }

  #batch(a: ArenaReplay, T: number, N: number): void {
    a.take(T * INT, (N + 1) * INT, T * INT, T * INT, N * INT)
  }

  #selection(a: ArenaReplay, R: number, N: number): void {
    a.take(R * INT, (N + 1) * INT, R * INT, R * INT)
  }

  /** LayerActivations::kept */
  #keptLayer(a: ArenaReplay, R: number, T: number, joint: boolean): void {
    const { hidden: C, intermediate: F, heads } = this.#model
    if (joint) a.take(this.#hidden(T, 3 * C))
    else a.take(this.#hidden(T, 2 * C), this.#hidden(R, C))
    a.take(this.#hidden(R, C), heads * R * F32, this.#hidden(R, C), R * F32, R * F32, this.#hidden(R, C))
    a.take(this.#hidden(R, F), this.#hidden(R, F), this.#hidden(R, C), R * F32, R * F32)
  }

  #attention(R: number, N: number, longest: number): AttentionShape {
    const { hidden, heads } = this.#model
    return { queries: R, sequences: N, longest, heads, size: hidden / heads }
  }

  /** `chain`: rows of the feed-forward part at a time, all in training */
  #layerForward(R: number, T: number, joint: boolean, N: number, longest: number, chain: number = R): void {
    const { hidden: C, intermediate: F } = this.#model
    const { workspace: w } = this
    const ops = this.#ops
    if (joint) w.op(ops.linear(T, 3 * C, C, 'hidden'))
    else {
      w.op(ops.linear(R, C, C, 'hidden'))
      w.op(ops.linear(T, 2 * C, C, 'hidden'))
    }
    w.op(ops.attention(this.#attention(R, N, longest)))
    w.op(ops.linear(R, C, C, 'hidden'))
    w.op(ops.linear(Math.min(R, chain), F, C, 'hidden'))
    w.op(ops.linear(Math.min(R, chain), C, F, 'hidden'))
  }

  #layerBackward(R: number, T: number, joint: boolean, N: number, longest: number): void {
    const { hidden: C, intermediate: F, hiddenDropout } = this.#model
    const { workspace: w } = this
    const ops = this.#ops
    const weight = (rows: number, out: number, input: number): void => w.op(ops.linearBackwardWeight(rows, out, input, 'hidden', 'hidden'))
    const input = (rows: number, out: number, width: number): void => w.op(ops.linearBackwardInput(rows, out, width, 'hidden'))
    w.scope(() => {
      if (hiddenDropout > 0) w.take(this.#hidden(R, C))
      w.op(ops.layerNormBackward(R, C))
      w.take(this.#hidden(R, F))
      weight(R, C, F)
      input(R, C, F)
      weight(R, F, C)
      input(R, F, C)
      w.op(ops.layerNormBackward(R, C))
      w.take(this.#hidden(R, C))
      weight(R, C, C)
      input(R, C, C)
      if (joint) w.take(this.#hidden(T, 3 * C))
      else w.take(this.#hidden(R, C), this.#hidden(T, 2 * C))
      w.op(ops.attentionBackward(this.#attention(R, N, longest)))
      for (const [rows, width] of joint ? [[T, 3 * C] as const] : [[R, C] as const, [T, 2 * C] as const]) {
        weight(rows, width, C)
        input(rows, width, C)
      }
    })
  }
}

/** Bytes that one Encoder::forward without labelled rows keeps for its backward. */
export function activationBytes(model: EncoderConfig, device: Pick<Device, 'kind'>, shape: MicroShape): number {
  const none = (): number[] => []
  const ops = { hiddenBytes: hiddenBytes(device), linear: none, attention: none } as Partial<OpMemory> as OpMemory // the workspace is not asked for
  const replay = new Replay(model, ops)
  replay.forward(shape)
  return replay.activations.need
}

/** Sizes of the blocks that `rows` are cut into: whole ones of `most` (one stands for all), and the rest. */
function blocks(rows: number, most: number): number[] {
  const rest = rows % most
  return [...(rows >= most ? [most] : []), ...(rest > 0 ? [rest] : [])]
}
