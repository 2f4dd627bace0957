import { BgeError, show } from '../errors.js'

/** What a pickle may name. Everything else is refused by name before anything is made of it. */
const storageTypes: Readonly<Record<string, { type: string; bytes: number }>> = {
  'torch.FloatStorage': { type: 'F32', bytes: 4 },
  'torch.DoubleStorage': { type: 'F64', bytes: 8 },
  'torch.HalfStorage': { type: 'F16', bytes: 2 },
  'torch.BFloat16Storage': { type: 'BF16', bytes: 2 },
  'torch.LongStorage': { type: 'I64', bytes: 8 },
  'torch.IntStorage': { type: 'I32', bytes: 4 },
  'torch.ShortStorage': { type: 'I16', bytes: 2 },
  'torch.CharStorage': { type: 'I8', bytes: 1 },
  'torch.ByteStorage': { type: 'U8', bytes: 1 },
  'torch.BoolStorage': { type: 'BOOL', bytes: 1 },
}
const functions: Readonly<Record<string, (args: unknown[], fail: Fail) => unknown>> = {
  'collections.OrderedDict': () => new Map(),
  'torch._utils._rebuild_tensor_v2': rebuildTensor,
  'torch._utils._rebuild_parameter': ([tensor]) => tensor,
  'torch._utils._rebuild_parameter_with_state': ([tensor]) => tensor,
}

type Fail = (what: string) => BgeError

/** A run of elements in the file, named by the key torch gave it. */
export class Storage {
  readonly key: string
  readonly type: string
  readonly bytes: number
  readonly elements: number
  constructor(key: string, type: string, bytes: number, elements: number) {
    this.key = key
    this.type = type
    this.bytes = bytes
    this.elements = elements
  }
}

/** A view on a storage; offset and strides in elements. */
export class PickledTensor {
  readonly storage: Storage
  readonly offset: number
  readonly shape: readonly number[]
  readonly strides: readonly number[]
  constructor(storage: Storage, offset: number, shape: readonly number[], strides: readonly number[]) {
    this.storage = storage
    this.offset = offset
    this.shape = shape
    this.strides = strides
  }
}

class Global {
  readonly name: string
  constructor(name: string) {
    this.name = name
  }
}

const mark = Symbol('mark')

/**
 * Runs the pickle that starts at `position`: a machine that knows dictionaries, lists, tuples, numbers, strings and tensors, and nothing
 * else. Returns its value and the position behind it. Errors: ERR_BGE_MODEL_FORMAT, naming what was refused.
 */
export function unpickle(bytes: Buffer, file: string, position = 0): { value: unknown; end: number } {
  const fail: Fail = (what) => new BgeError('ERR_BGE_MODEL_FORMAT', `${file}: ${what}`)
  const malformed = (): BgeError => fail(`its pickle is malformed near byte ${at}`)
  const stack: unknown[] = []
  const memo = new Map<number, unknown>()
  let at = position
  const take = (size: number): number => {
    const start = at
    at += size
    if (at > bytes.length) throw fail('its pickle ends too early (truncated?)')
    return start
  }
  const u8 = (): number => bytes.readUInt8(take(1))
  const u32 = (): number => bytes.readUInt32LE(take(4))
  const u64 = (): number => Number(bytes.readBigUInt64LE(take(8)))
  const text = (size: number, encoding: 'utf8' | 'latin1' = 'utf8'): string => {
    const start = take(size)
    return bytes.toString(encoding, start, start + size)
  }
  const line = (): string => {
    const newline = bytes.indexOf(10, at)
    if (newline < 0) throw malformed()
    const start = take(newline - at + 1)
    return bytes.toString('utf8', start, newline)
  }
  const pop = (): unknown => {
    if (stack.length === 0 || stack.at(-1) === mark) throw malformed()
    return stack.pop()
  }
  const popToMark = (): unknown[] => {
    const start = stack.lastIndexOf(mark)
    if (start < 0) throw malformed()
    return stack.splice(start).slice(1)
  }
  const top = (): unknown => stack.at(-1)
  const global = (module: string, name: string): Global => {
    const full = `${module}.${name}`
    if (!Object.hasOwn(functions, full) && !Object.hasOwn(storageTypes, full)) {
      throw fail(`its pickle names ${show(full)}, but a state dict holds nothing but tensors; it was not run`)
    }
    return new Global(full)
  }
  const set = (items: unknown[]): void => {
    const target = top()
    if (!(target instanceof Map) || items.length % 2 !== 0) throw malformed()
    for (let i = 0; i < items.length; i += 2) target.set(items[i], items[i + 1])
  }
  const append = (items: unknown[]): void => {
    const target = top()
    if (!Array.isArray(target)) throw malformed()
    for (const item of items) target.push(item)
  }
  const remembered = (key: number): unknown => {
    if (!memo.has(key)) throw malformed()
    return memo.get(key)
  }
  const string = (): string => {
    const value = pop()
    if (typeof value !== 'string') throw malformed()
    return value
  }
  for (;;) {
    const code = u8()
    switch (code) {
      case 0x80: // PROTO
        if (u8() > 5) throw fail('its pickle protocol is newer than 5')
        break
      case 0x95:
        take(8)
        break // FRAME
      case 0x2e:
        return { value: pop(), end: at } // STOP
      case 0x28:
        stack.push(mark)
        break // MARK
      case 0x30:
        stack.pop()
        break // POP
      case 0x32:
        stack.push(top())
        break // DUP
      case 0x4e:
        stack.push(null)
        break // NONE
      case 0x88:
        stack.push(true)
        break // NEWTRUE
      case 0x89:
        stack.push(false)
        break // NEWFALSE
      case 0x4b:
        stack.push(u8())
        break // BININT1
      case 0x4d:
        stack.push(bytes.readUInt16LE(take(2)))
        break // BININT2
      case 0x4a:
        stack.push(bytes.readInt32LE(take(4)))
        break // BININT
      case 0x8a:
        stack.push(long(bytes, u8(), take))
        break // LONG1
      case 0x47:
        stack.push(bytes.readDoubleBE(take(8)))
        break // BINFLOAT
      case 0x58:
        stack.push(text(u32()))
        break // BINUNICODE
      case 0x8c:
        stack.push(text(u8()))
        break // SHORT_BINUNICODE
      case 0x8d:
        stack.push(text(u64()))
        break // BINUNICODE8
      case 0x55:
        stack.push(text(u8(), 'latin1'))
        break // SHORT_BINSTRING
      case 0x54:
        stack.push(text(u32(), 'latin1'))
        break // BINSTRING
      case 0x7d:
        stack.push(new Map())
        break // EMPTY_DICT
      case 0x5d:
        stack.push([])
        break // EMPTY_LIST
      case 0x29:
        stack.push([])
        break // EMPTY_TUPLE
      case 0x74:
        stack.push(popToMark())
        break // TUPLE
      case 0x85:
        stack.push([pop()])
        break // TUPLE1
      case 0x86:
        stack.push([pop(), pop()].reverse())
        break // TUPLE2
      case 0x87:
        stack.push([pop(), pop(), pop()].reverse())
        break // TUPLE3
      case 0x73:
        set([pop(), pop()].reverse())
        break // SETITEM
      case 0x75:
        set(popToMark())
        break // SETITEMS
      case 0x61:
        append([pop()])
        break // APPEND
      case 0x65:
        append(popToMark())
        break // APPENDS
      case 0x71:
        memo.set(u8(), top())
        break // BINPUT
      case 0x72:
        memo.set(u32(), top())
        break // LONG_BINPUT
      case 0x94:
        memo.set(memo.size, top())
        break // MEMOIZE
      case 0x68:
        stack.push(remembered(u8()))
        break // BINGET
      case 0x6a:
        stack.push(remembered(u32()))
        break // LONG_BINGET
      case 0x63:
        stack.push(global(line(), line()))
        break // GLOBAL
      case 0x93: {
        // STACK_GLOBAL
        const name = string()
        stack.push(global(string(), name))
        break
      }
      case 0x51:
        stack.push(storage(pop(), fail))
        break // BINPERSID
      case 0x52: {
        // REDUCE
        const args = pop()
        const callee = pop()
        const body = callee instanceof Global ? functions[callee.name] : undefined
        if (body === undefined || !Array.isArray(args)) throw malformed()
        stack.push(body(args, fail))
        break
      }
      case 0x62: {
        // BUILD: a state dict carries its modules' versions as an attribute; nothing else has a state
        pop()
        if (!(top() instanceof Map)) throw malformed()
        break
      }
      default:
        throw fail(`its pickle uses operation 0x${code.toString(16)}, which a state dict never needs`)
    }
  }
}

function long(bytes: Buffer, size: number, take: (size: number) => number): number | bigint {
  const start = take(size)
  let value = 0n
  for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes.readUInt8(start + i))
  if (size > 0) value = BigInt.asIntN(8 * size, value)
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value
}

function natural(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function naturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(natural)
}

/** ('storage', type, key, location, elements[, null]): torch's persistent id. */
function storage(id: unknown, fail: Fail): Storage {
  const [tag, type, key, , elements, view] = Array.isArray(id) ? id : []
  const known = type instanceof Global ? storageTypes[type.name] : undefined
  if (tag !== 'storage' || known === undefined || typeof key !== 'string' || !natural(elements) || (view !== undefined && view !== null)) {
    throw fail('its pickle refers to something that is not a tensor storage')
  }
  return new Storage(key, known.type, known.bytes, elements)
}

function rebuildTensor(args: unknown[], fail: Fail): PickledTensor {
  const [store, offset, shape, strides] = args
  if (!(store instanceof Storage) || !natural(offset) || !naturals(shape) || !naturals(strides) || shape.length !== strides.length) {
    throw fail('its pickle describes a malformed tensor')
  }
  const empty = shape.includes(0)
  const last = shape.reduce((sum, size, i) => sum + (size - 1) * (strides[i] as number), offset)
  if (!empty && last >= store.elements)
    throw fail(`a tensor of shape [${shape.join(', ')}] reaches beyond its storage of ${store.elements} elements`)
  // Also keeps a hostile file from asking for more memory than it has bytes (a stride of 0 repeats an element without end).
  if (shape.reduce((product, size) => product * size, 1) > store.elements) {
    throw fail(`a tensor of shape [${shape.join(', ')}] repeats the elements of its storage, which a state dict never does`)
  }
  return new PickledTensor(store, offset, shape, strides)
}
