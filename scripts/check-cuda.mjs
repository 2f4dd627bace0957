// What can be told about build-cuda/bge_cuda.so without a GPU: npm run check:cuda -- [--library FILE] [--arch LIST] [words of a kernel ...]
//   - machine code for every architecture of a release (--arch: for these), and PTX of the last for later GPUs
//   - no local memory (register spills, run-time indexed arrays) in any kernel but the slow paths named in COLD
//   - tensor-core instructions in the kernels named in TENSOR; those of a warpgroup, on sm_90a, in the kernels named in WARPGROUP
// Prints registers, stack, static shared memory and instruction counts of every kernel. Exit code 1 where something is wrong. Needs no CUDA
// tool: the fat binary and its ELF images are read here. Opcodes were found by compiling kernels of one instruction each with nvcc 13.0.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { decompress } from 'fzstd'

/** Architectures of a release: CMakeLists.txt. */
const RELEASE = ['80', '86', '89', '90a']
const RELEASE_PTX = '120'
/**
 * What may use local memory: slow paths for cases that BERT models do not have, and contrastiveKernel, where one thread of a row does the own
 * group in double (a division is a function call there, with two registers saved around it).
 */
const COLD = ['generalForward', 'generalBackward', 'contrastiveKernel']
/** Part of a kernel's name: it must have instructions of the tensor cores. */
const TENSOR = ['gemm16Bit', 'forwardKernel', 'backwardKernel']
/** The same for kernels of sm_90a, which are empty for every other architecture. */
const WARPGROUP = ['wgmmaForward']

const root = join(import.meta.dirname, '..')
const {
  values: { library = join(root, 'build-cuda/bge_cuda.so'), arch: wanted },
  positionals: words,
} = parseArgs({
  options: { library: { type: 'string' }, arch: { type: 'string' } },
  allowPositionals: true,
})
if (!existsSync(library)) {
  console.error(`check:cuda: ${library} is not there: run \`npm run build:cuda\` first`)
  process.exit(1)
}

/** The sections of a 64-bit little-endian ELF image. */
function sections(/** @type {Buffer} */ elf) {
  const first = Number(elf.readBigUInt64LE(40))
  const [size, count, names] = [elf.readUInt16LE(58), elf.readUInt16LE(60), elf.readUInt16LE(62)]
  const headers = Array.from({ length: count }, (_, i) => {
    const at = first + i * size
    const [offset, bytes] = [Number(elf.readBigUInt64LE(at + 24)), Number(elf.readBigUInt64LE(at + 32))]
    const stored = elf.readUInt32LE(at + 4) !== 8 // not SHT_NOBITS
    return { name: elf.readUInt32LE(at), bytes, data: stored ? elf.subarray(offset, offset + bytes) : Buffer.alloc(0) }
  })
  const table = headers[names].data
  return headers.map((h) => ({ ...h, name: table.toString('latin1', h.name, table.indexOf(0, h.name)) }))
}

/** The images of a fat binary: PTX (kind 1) and machine code (kind 2). */
function images(/** @type {Buffer} */ file) {
  const fat = sections(file).find((s) => s.name === '.nv_fatbin')?.data
  if (!fat) {
    console.error(`check:cuda: ${library} has no device code (is it the emulated device?)`)
    process.exit(1)
  }
  const found = []
  let at = 0
  while (at + 16 <= fat.length) {
    if (fat.readUInt32LE(at) !== 0xba55ed50) {
      at += 8 // padding between the binaries of two sources
      continue
    }
    let entry = at + fat.readUInt16LE(at + 6)
    const end = entry + Number(fat.readBigUInt64LE(at + 8))
    while (entry < end) {
      const header = fat.readUInt32LE(entry + 4)
      const size = Number(fat.readBigUInt64LE(entry + 8))
      const packed = fat.readUInt32LE(entry + 16) // bytes of compressed data, without padding; 0: not compressed
      const start = entry + header
      const specific = (fat.readUInt32LE(entry + 40) & 0x100000) !== 0 // the "a" of 90a
      found.push({
        kind: fat.readUInt16LE(entry),
        arch: `${fat.readUInt32LE(entry + 28)}${specific ? 'a' : ''}`,
        data: () => {
          const data = fat.subarray(start, start + (packed || size))
          return data.readUInt32LE(0) === 0xfd2fb528 ? Buffer.from(decompress(data)) : data
        },
      })
      entry += header + size
    }
    at = end
  }
  return found
}

/** Numbers that the compiler notes per kernel: EIATTR_REGCOUNT 0x2f, EIATTR_FRAME_SIZE 0x11. */
function notes(/** @type {ReturnType<typeof sections>} */ all) {
  const strings = all.find((s) => s.name === '.strtab').data
  const symbols = all.find((s) => s.name === '.symtab').data
  const nameOf = (i) => {
    const at = symbols.readUInt32LE(i * 24)
    return strings.toString('latin1', at, strings.indexOf(0, at))
  }
  const found = new Map()
  const data = all.find((s) => s.name === '.nv.info')?.data ?? Buffer.alloc(0)
  for (let at = 0; at + 4 <= data.length; ) {
    const [format, attribute, size] = [data[at], data[at + 1], data.readUInt16LE(at + 2)]
    if (format === 4 && (attribute === 0x2f || attribute === 0x11)) {
      const name = nameOf(data.readUInt32LE(at + 4))
      const of = found.get(name) ?? found.set(name, {}).get(name)
      of[attribute === 0x2f ? 'registers' : 'stack'] = data.readUInt32LE(at + 8)
    }
    at += 4 + (format === 4 ? size : 0)
  }
  return found
}

/** What a mangled name says, short enough for a table: attn::forwardKernel<64,1,0>. Namespaces bge and the unnamed ones are left out. */
function readable(/** @type {string} */ mangled) {
  let text = ''
  const open = [] // N: a nested name, I: a list of template arguments
  const next = () => (open.includes('I') && !/[<,]$/.test(text) ? ',' : '')
  for (let at = 2; at < mangled.length; ) {
    const rest = mangled.slice(at)
    const number = /^\d+/.exec(rest)?.[0]
    const literal = /^L[a-z]n?(\d+)E/.exec(rest)
    if (number !== undefined) {
      const part = rest.slice(number.length, number.length + Number(number))
      at += number.length + part.length
      if (part === 'bge' || part.startsWith('_GLOBAL__N_') || part.startsWith('_INTERNAL_')) continue
      const inside = open.at(-1) === 'N' && /\w$/.test(text) // of a namespace
      text += (inside ? '::' : next()) + (part === '__nv_bfloat16' ? 'bf16' : part)
      if (open.length === 0 && rest[number.length + part.length] !== 'I') break
    } else if (literal) {
      text += next() + literal[1]
      at += literal[0].length
    } else if (rest[0] === 'N' || rest[0] === 'I') {
      if (rest[0] === 'I') text += '<'
      else text += open.length > 0 ? next() : ''
      open.push(rest[0])
      at += 1
    } else if (rest[0] === 'E') {
      if (open.pop() === 'I') text += '>'
      at += 1
      if (open.length === 0) break
    } else {
      const substitution = /^S[0-9A-Z]*_/.exec(rest)?.[0]
      if (rest[0] === 'f') text += `${next()}float`
      else if (substitution && open.at(-1) === 'I') text += `${next()}..` // something that came before
      at += substitution?.length ?? 1
    }
  }
  return text.length > 83 ? `${text.slice(0, 80)}...` : text || mangled
}

const wrong = []
const all = images(readFileSync(library))
const has = (kind, arch) => all.some((i) => i.kind === kind && i.arch === arch)
for (const arch of wanted?.split(',') ?? RELEASE) {
  if (!has(2, arch)) wrong.push(`there is no machine code for sm_${arch}`)
}
if (!wanted && !has(1, RELEASE_PTX)) wrong.push(`there is no PTX for compute_${RELEASE_PTX}`)

const rows = []
for (const image of all) {
  if (image.kind !== 2) continue
  const parts = sections(image.data())
  const noted = notes(parts)
  for (const { name, data } of parts) {
    if (!name.startsWith('.text.')) continue
    const kernel = name.slice(6)
    const count = { tensor: 0, warpgroup: 0, local: 0 }
    for (let i = 0; i + 16 <= data.length; i += 16) {
      const opcode = data.readUInt16LE(i) & 0x1ff
      if (opcode === 0x03c || opcode === 0x1f0) count.tensor += 1 // HMMA, HGMMA
      if (opcode === 0x1f0) count.warpgroup += 1
      if (opcode === 0x183 || opcode === 0x187) count.local += 1 // LDL, STL
    }
    const shared = parts.find((s) => s.name === `.nv.shared.${kernel}`)?.bytes ?? 0
    rows.push({ kernel, arch: image.arch, ...count, shared, instructions: data.length / 16, registers: 0, stack: 0, ...noted.get(kernel) })
  }
}
if (rows.length === 0) wrong.push('there is no kernel')

for (const row of rows) {
  const what = `${readable(row.kernel)} for sm_${row.arch}`
  if (row.local > 0 && !COLD.some((word) => row.kernel.includes(word))) wrong.push(`${what} uses local memory: ${row.local} instructions`)
  if (row.tensor === 0 && TENSOR.some((word) => row.kernel.includes(word))) wrong.push(`${what} has no instruction of the tensor cores`)
  if (WARPGROUP.some((word) => row.kernel.includes(word)) && row.warpgroup > 0 !== (row.arch === '90a')) {
    wrong.push(`${what} has ${row.warpgroup} products of a warpgroup`)
  }
}
for (const word of [...COLD, ...TENSOR, ...WARPGROUP]) {
  if (!rows.some((row) => row.kernel.includes(word))) wrong.push(`no kernel is named ${word} any more: correct scripts/check-cuda.mjs`)
}

const shown = rows.map((row) => ({ ...row, name: readable(row.kernel) })).filter((row) => words.every((word) => row.name.includes(word)))
shown.sort((a, b) => (a.name === b.name ? a.arch.localeCompare(b.arch) : a.name < b.name ? -1 : 1))
console.log(`${'kernel'.padEnd(84)}   arch registers stack shared instructions tensor local`)
for (const row of shown) {
  const numbers = [row.registers, row.stack, row.shared, row.instructions, row.tensor, row.local]
  console.log(row.name.padEnd(84) + row.arch.padStart(7) + numbers.map((n, i) => String(n).padStart([10, 6, 7, 13, 7, 6][i])).join(''))
}
const architectures = [...new Set(all.map((i) => `${i.kind === 1 ? 'compute' : 'sm'}_${i.arch}`))].sort().join(', ')
console.log(`${new Set(rows.map((row) => row.kernel)).size} kernels, ${architectures}`)
for (const sentence of wrong) console.error(`check:cuda: ${sentence}`)
process.exit(wrong.length > 0 ? 1 : 0)
