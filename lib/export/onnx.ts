import { type Checkpoint, openCheckpoint, readTensor } from '../model/checkpoint.js'
import type { ModelConfig, Pooling } from '../model/config.js'
import { readDescription } from '../model/folder.js'
import { type Attribute, type Graph, type Initializer, type Node, writeOnnx } from './onnx_format.js'

/** LayerNormalization came with operator set 17; later sets change nothing that is used here. */
const OPSET = 17

/** Of `exportOnnx`. */
export interface OnnxExportOptions {
  /** for a folder that does not say */
  pooling?: Pooling
}

/**
 * Writes a model folder's encoder as ONNX: inputs input_ids, attention_mask and token_type_ids, int64 (batch, sequence), padded as usual; outputs
 * last_hidden_state (batch, sequence, C) and sentence_embedding (batch, C), pooled and normalised as the folder says. float32, exact erf GELU, operator set
 * 17. At DIR/onnx/model.onnx sentence-transformers (backend 'onnx') and transformers.js find it.
 * Errors: those of the folder (ERR_BGE_FILE, ERR_BGE_MODEL_FORMAT, ERR_BGE_POOLING, ERR_BGE_NON_FINITE), ERR_BGE_ARGUMENT beyond 2 GiB.
 */
export async function exportOnnx(folder: string, file: string, options: OnnxExportOptions = {}): Promise<void> {
  const { config, pooling, normalize } = await readDescription(folder, options.pooling)
  const checkpoint = await openCheckpoint(folder)
  try {
    await writeOnnx(file, new BertGraph(config, checkpoint).build(pooling, normalize), OPSET)
  } finally {
    await checkpoint.close()
  }
}

/** A BERT encoder node by node, named after the parameters (post-LN; Devlin et al. 2018). */
class BertGraph {
  readonly #config: ModelConfig
  readonly #checkpoint: Checkpoint
  readonly #nodes: Node[] = []
  readonly #initializers = new Map<string, Initializer>()

  constructor(config: ModelConfig, checkpoint: Checkpoint) {
    this.#config = config
    this.#checkpoint = checkpoint
  }

  build(pooling: Pooling, normalize: boolean): Graph {
    const { layers, hidden } = this.#config
    let x = this.#embeddings()
    const bias = this.#attentionBias()
    for (let layer = 0; layer < layers; layer++) x = this.#layer(x, bias, `encoder.layer.${layer}`)
    this.#nodes.push({ op: 'Identity', inputs: [x], output: 'last_hidden_state', attributes: {} })
    const pooled = pooling === 'cls' ? this.#add('Gather', 'pooled', [x, this.#int('first', 0)], { axis: { int: 1 } }) : this.#mean(x)
    this.#nodes.push({
      op: 'Identity',
      inputs: [normalize ? this.#normalized(pooled) : pooled],
      output: 'sentence_embedding',
      attributes: {},
    })
    const port = (name: string) => ({ name, type: 'int64' as const, shape: ['batch', 'sequence'] })
    return {
      name: 'bert',
      nodes: this.#nodes,
      initializers: [...this.#initializers.values()],
      inputs: ['input_ids', 'attention_mask', 'token_type_ids'].map(port),
      outputs: [
        { name: 'last_hidden_state', type: 'float32', shape: ['batch', 'sequence', hidden] },
        { name: 'sentence_embedding', type: 'float32', shape: ['batch', hidden] },
      ],
      metadata: { pooling, normalize: String(normalize) },
    }
  }

  #embeddings(): string {
    const name = 'embeddings'
    const { vocab, maxPositions, typeVocab, hidden } = this.#config
    const words = this.#add('Gather', `${name}.words`, [this.#tensor(`${name}.word_embeddings.weight`, vocab, hidden), 'input_ids'])
    const types = this.#add('Gather', `${name}.types`, [
      this.#tensor(`${name}.token_type_embeddings.weight`, typeVocab, hidden),
      'token_type_ids',
    ])
    const shape = this.#add('Shape', `${name}.shape`, ['input_ids'])
    const length = this.#add('Gather', `${name}.length`, [shape, this.#int('second', 1)], { axis: { int: 0 } })
    const range = this.#add('Range', `${name}.range`, [this.#int('first', 0), length, this.#int('second', 1)])
    const positions = this.#add('Gather', `${name}.positions`, [
      this.#tensor(`${name}.position_embeddings.weight`, maxPositions, hidden),
      range,
    ])
    const sum = this.#add('Add', `${name}.words_types`, [words, types])
    return this.#layerNorm(this.#add('Add', `${name}.sum`, [sum, positions]), `${name}.LayerNorm`)
  }

  /** 0 where a key is visible, the lowest float where it is padding; (batch, 1, 1, sequence). */
  #attentionBias(): string {
    const mask = this.#add('Cast', 'mask.float', ['attention_mask'], { to: { int: 1 } })
    const hidden = this.#add('Sub', 'mask.hidden', [this.#scalar('one', 1), mask])
    const bias = this.#add('Mul', 'mask.bias', [hidden, this.#scalar('lowest', -3.4028234663852886e38)])
    return this.#add('Unsqueeze', 'mask.unsqueezed', [bias, this.#ints('mask.axes', [1, 2])])
  }

  #layer(x: string, bias: string, name: string): string {
    const { hidden, heads, intermediate } = this.#config
    const size = hidden / heads
    const self = `${name}.attention.self`
    const split = (what: string, perm: readonly number[]): string => {
      const projected = this.#linear(x, `${self}.${what}`, hidden, hidden)
      const reshaped = this.#add('Reshape', `${self}.${what}.heads`, [projected, this.#ints('heads.shape', [0, 0, heads, size])])
      return this.#add('Transpose', `${self}.${what}.transposed`, [reshaped], { perm: { ints: perm } })
    }
    const [query, key, value] = [split('query', [0, 2, 1, 3]), split('key', [0, 2, 3, 1]), split('value', [0, 2, 1, 3])]
    const products = this.#add('MatMul', `${self}.products`, [query, key])
    const scaled = this.#add('Div', `${self}.scaled`, [products, this.#scalar('scale', Math.sqrt(size))])
    const masked = this.#add('Add', `${self}.masked`, [scaled, bias])
    const probabilities = this.#add('Softmax', `${self}.probabilities`, [masked], { axis: { int: -1 } })
    const context = this.#add('MatMul', `${self}.context`, [probabilities, value])
    const joined = this.#add('Transpose', `${self}.joined`, [context], { perm: { ints: [0, 2, 1, 3] } })
    const flat = this.#add('Reshape', `${self}.flat`, [joined, this.#ints('flat.shape', [0, 0, hidden])])
    const attended = this.#linear(flat, `${name}.attention.output.dense`, hidden, hidden)
    const middle = this.#layerNorm(this.#add('Add', `${name}.attention.sum`, [attended, x]), `${name}.attention.output.LayerNorm`)
    const inner = this.#gelu(this.#linear(middle, `${name}.intermediate.dense`, intermediate, hidden), `${name}.intermediate.gelu`)
    const outer = this.#linear(inner, `${name}.output.dense`, hidden, intermediate)
    return this.#layerNorm(this.#add('Add', `${name}.output.sum`, [outer, middle]), `${name}.output.LayerNorm`)
  }

  /** x W^T + b, W (rows, cols); it is written transposed, as MatMul wants it. */
  #linear(x: string, name: string, rows: number, cols: number): string {
    const product = this.#add('MatMul', `${name}.product`, [x, this.#transposed(`${name}.weight`, rows, cols)])
    return this.#add('Add', `${name}.sum`, [product, this.#tensor(`${name}.bias`, rows)])
  }

  #gelu(x: string, name: string): string {
    const scaled = this.#add('Div', `${name}.scaled`, [x, this.#scalar('sqrt2', Math.SQRT2)])
    const error = this.#add('Erf', `${name}.erf`, [scaled])
    const shifted = this.#add('Add', `${name}.shifted`, [error, this.#scalar('one', 1)])
    const product = this.#add('Mul', `${name}.product`, [x, shifted])
    return this.#add('Mul', name, [product, this.#scalar('half', 0.5)])
  }

  #layerNorm(x: string, name: string): string {
    const { hidden, layerNormEps } = this.#config
    return this.#add('LayerNormalization', name, [x, this.#tensor(`${name}.weight`, hidden), this.#tensor(`${name}.bias`, hidden)], {
      axis: { int: -1 },
      epsilon: { float: layerNormEps },
    })
  }

  #mean(x: string): string {
    const mask = this.#add('Unsqueeze', 'mean.mask', ['mask.float', this.#ints('mean.axes', [2])])
    const kept = this.#add('Mul', 'mean.kept', [x, mask])
    const axis = this.#ints('mean.axis', [1])
    const sum = this.#add('ReduceSum', 'mean.sum', [kept, axis], { keepdims: { int: 0 } })
    const count = this.#add('ReduceSum', 'mean.count', [mask, axis], { keepdims: { int: 0 } })
    return this.#add('Div', 'pooled', [sum, count])
  }

  #normalized(x: string): string {
    const norm = this.#add('ReduceL2', 'normalize.norm', [x], { axes: { ints: [-1] }, keepdims: { int: 1 } })
    const least = this.#add('Max', 'normalize.least', [norm, this.#scalar('tiny', 1e-12)])
    return this.#add('Div', 'normalized', [x, least])
  }

  #add(op: string, output: string, inputs: readonly string[], attributes: Readonly<Record<string, Attribute>> = {}): string {
    this.#nodes.push({ op, inputs, output, attributes })
    return output
  }

  /** A parameter by its Hugging Face name. */
  #tensor(name: string, ...shape: number[]): string {
    return this.#constant({ name, shape, type: 'float32', read: () => readTensor(this.#checkpoint, name, shape) })
  }

  #transposed(name: string, rows: number, cols: number): string {
    const read = async (): Promise<Float32Array> => transposed(await readTensor(this.#checkpoint, name, [rows, cols]), rows, cols)
    return this.#constant({ name, shape: [cols, rows], type: 'float32', read })
  }

  #scalar(name: string, value: number): string {
    return this.#constant({ name, shape: [], type: 'float32', read: async () => Float32Array.of(value) })
  }

  #int(name: string, value: number): string {
    return this.#constant({ name, shape: [], type: 'int64', read: async () => BigInt64Array.of(BigInt(value)) })
  }

  #ints(name: string, values: readonly number[]): string {
    return this.#constant({ name, shape: [values.length], type: 'int64', read: async () => BigInt64Array.from(values, BigInt) })
  }

  #constant(initializer: Initializer): string {
    if (!this.#initializers.has(initializer.name)) this.#initializers.set(initializer.name, initializer)
    return initializer.name
  }
}

/** (rows, cols) to (cols, rows), a block at a time for the cache's sake. */
function transposed(values: Float32Array, rows: number, cols: number): Float32Array {
  const result = new Float32Array(values.length)
  const block = 32
  for (let r0 = 0; r0 < rows; r0 += block) {
    for (let c0 = 0; c0 < cols; c0 += block) {
      for (let r = r0; r < Math.min(rows, r0 + block); r++) {
        for (let c = c0; c < Math.min(cols, c0 + block); c++) result[c * rows + r] = values[r * cols + c]!
      }
    }
  }
  return result
}
