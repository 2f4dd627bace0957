import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { createAtomic } from '../data/atomic.js'
import { BgeError } from '../errors.js'
import { elements } from '../model/weights.js'

// Messages of onnx.proto (https://onnx.ai/onnx/repo-docs/IR.html): only the fields that are written here, with their numbers.

/** An attribute of a node: an integer, a float, a list of integers. */
export type Attribute = { readonly int: number } | { readonly float: number } | { readonly ints: readonly number[] }

export interface Node {
  readonly op: string
  readonly inputs: readonly string[]
  readonly output: string
  readonly attributes: Readonly<Record<string, Attribute>>
}

/** A constant tensor. `read` is called once, when its turn to be written comes. */
export interface Initializer {
  readonly name: string
  readonly shape: readonly number[]
  readonly type: 'float32' | 'int64'
  read(): Promise<Float32Array | BigInt64Array>
}

/** A graph's input or output; a string among the dimensions is a free one. */
export interface Port {
  readonly name: string
  readonly type: 'float32' | 'int64'
  readonly shape: readonly (number | string)[]
}

export interface Graph {
  readonly name: string
  readonly nodes: readonly Node[]
  readonly initializers: readonly Initializer[]
  readonly inputs: readonly Port[]
  readonly outputs: readonly Port[]
  /** key and value pairs for whoever looks into the file */
  readonly metadata: Readonly<Record<string, string>>
}

const elementType = { float32: 1, int64: 7 } as const
const elementBytes = { float32: 4, int64: 8 } as const
/** Of protobuf: no message may be larger. */
const largest = 2 ** 31 - 1

/**
 * Writes an ONNX model, operator set `opset`, one tensor in memory at a time; the file appears complete or not at all.
 * Errors: ERR_BGE_ARGUMENT for a graph beyond 2 GiB, ERR_BGE_FILE.
 */
export async function writeOnnx(file: string, graph: Graph, opset: number): Promise<void> {
  const head = graphHead(graph)
  const heads = graph.initializers.map(initializerHead)
  const sizes = graph.initializers.map(({ shape, type }) => elements(shape) * elementBytes[type])
  const total = head.length + heads.reduce((sum, bytes, i) => sum + bytes.length + sizes[i]!, 0)
  if (total > largest) {
    throw new BgeError('ERR_BGE_ARGUMENT', `an ONNX file holds at most ${largest} bytes of tensors, but this model needs ${total}`)
  }
  const model = new BinaryWriter().tag(1, WireType.Varint).int64(8).tag(2, WireType.LengthDelimited).string('bge-forge')
  message(model, 8, (set) => set.tag(1, WireType.LengthDelimited).string('').tag(2, WireType.Varint).int64(opset))
  for (const [key, value] of Object.entries(graph.metadata)) {
    message(model, 14, (entry) => entry.tag(1, WireType.LengthDelimited).string(key).tag(2, WireType.LengthDelimited).string(value))
  }
  model.tag(7, WireType.LengthDelimited).uint32(total)

  const target = await createAtomic(file)
  try {
    await target.write(model.finish())
    await target.write(head)
    for (const [i, tensor] of graph.initializers.entries()) {
      const values = await tensor.read()
      if (values.byteLength !== sizes[i]) {
        throw new BgeError('ERR_BGE_INTERNAL', `tensor "${tensor.name}" has ${values.byteLength} bytes, but ${sizes[i]} were announced`)
      }
      await target.write(heads[i]!)
      await target.write(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
    }
    await target.commit()
  } finally {
    await target.discard()
  }
}

/** Everything of GraphProto but its initializers; protobuf does not care for the order of fields. */
function graphHead({ name, nodes, inputs, outputs }: Graph): Uint8Array {
  const writer = new BinaryWriter()
  for (const node of nodes) message(writer, 1, (to) => writeNode(to, node))
  writer.tag(2, WireType.LengthDelimited).string(name)
  for (const port of inputs) message(writer, 11, (to) => writePort(to, port))
  for (const port of outputs) message(writer, 12, (to) => writePort(to, port))
  return writer.finish()
}

/** What stands before a tensor's raw bytes: field 5 of GraphProto, its length, and TensorProto up to and including the length of raw_data. */
function initializerHead({ name, shape, type }: Initializer): Uint8Array {
  const tensor = new BinaryWriter()
  for (const size of shape) tensor.tag(1, WireType.Varint).int64(size)
  tensor.tag(2, WireType.Varint).int32(elementType[type])
  tensor.tag(8, WireType.LengthDelimited).string(name)
  const bytes = elements(shape) * elementBytes[type]
  const fields = tensor.tag(9, WireType.LengthDelimited).uint32(bytes).finish()
  const head = new BinaryWriter()
    .tag(5, WireType.LengthDelimited)
    .uint32(fields.length + bytes)
    .finish()
  return Buffer.concat([head, fields])
}

function writeNode(to: BinaryWriter, { op, inputs, output, attributes }: Node): void {
  for (const input of inputs) to.tag(1, WireType.LengthDelimited).string(input)
  to.tag(2, WireType.LengthDelimited).string(output)
  to.tag(3, WireType.LengthDelimited).string(output)
  to.tag(4, WireType.LengthDelimited).string(op)
  for (const [name, value] of Object.entries(attributes)) {
    message(to, 5, (attribute) => {
      attribute.tag(1, WireType.LengthDelimited).string(name)
      if ('float' in value) attribute.tag(2, WireType.Bit32).float(value.float).tag(20, WireType.Varint).int32(1)
      else if ('int' in value) attribute.tag(3, WireType.Varint).int64(value.int).tag(20, WireType.Varint).int32(2)
      else {
        for (const int of value.ints) attribute.tag(8, WireType.Varint).int64(int)
        attribute.tag(20, WireType.Varint).int32(7)
      }
    })
  }
}

function writePort(to: BinaryWriter, { name, type, shape }: Port): void {
  to.tag(1, WireType.LengthDelimited).string(name)
  message(to, 2, (value) =>
    message(value, 1, (tensor) => {
      tensor.tag(1, WireType.Varint).int32(elementType[type])
      message(tensor, 2, (dims) => {
        for (const size of shape) {
          message(dims, 1, (dim) => {
            if (typeof size === 'number') dim.tag(1, WireType.Varint).int64(size)
            else dim.tag(2, WireType.LengthDelimited).string(size)
          })
        }
      })
    }),
  )
}

function message(writer: BinaryWriter, field: number, fill: (to: BinaryWriter) => unknown): void {
  writer.tag(field, WireType.LengthDelimited).fork()
  fill(writer)
  writer.join()
}
