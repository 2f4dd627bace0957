import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

// Who may import whom (docs/architecture, section 3). Every violation is named as file:line.
const root = join(dirname(fileURLToPath(import.meta.url)), '..')

function filesUnder(folder: string, extensions: readonly string[]): string[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && extensions.some((extension) => entry.name.endsWith(extension)))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
    .sort()
}

interface Line {
  at: string
  text: string
}
const linesOf = (file: string): Line[] =>
  readFileSync(join(root, file), 'utf8')
    .split('\n')
    .map((text, i) => ({ at: `${file}:${i + 1}`, text }))

// Arrows point down only; a layer may also use its own files. model, data and hub share a level.
const LEVELS: readonly (readonly string[])[] = [
  ['cli', 'quickstart', 'run', 'index'],
  ['train', 'eval', 'curate', 'mine', 'report', 'export', 'bench', 'merge', 'doctor', 'live', 'serve', 'adapters'],
  ['model', 'data', 'hub'],
  ['tokenizer'],
  ['native'],
  ['loader'],
  ['errors'],
]
const levelOf = (layer: string): number => LEVELS.findIndex((names) => names.includes(layer))
/** lib/train/loop.ts -> train, lib/native.ts -> native */
const layerOf = (file: string): string => file.split('/')[1]!.replace(/\.ts$/, '')

interface Import extends Line {
  file: string
  /** What is imported: a path under lib/ without extension, or a package name. */
  target: string
}

function importsOf(file: string): Import[] {
  const found: Import[] = []
  // `from '...'` also ends an import that began lines before; a dynamic import counts like any other.
  const pattern = /(?:\bfrom|\bimport\s*\(|^\s*import)\s*'([^']+)'/
  for (const line of linesOf(file)) {
    const specifier = pattern.exec(line.text)?.[1]
    if (specifier === undefined || /^\s*(\/\/|\*)/.test(line.text)) continue
    const target = specifier.startsWith('.') ? posix.join(posix.dirname(file), specifier).replace(/\.js$/, '.ts') : specifier
    found.push({ ...line, file, target })
  }
  return found
}

/** An import that its file's layer may not make, as a sentence; undefined when it may. */
function forbidden({ file, target }: Import): string | undefined {
  if (!target.startsWith('lib/')) return undefined
  const [from, to] = [layerOf(file), layerOf(target)]
  if (levelOf(from) < 0) return `${from} has no level: add it to LEVELS`
  if (levelOf(to) < 0) return `${to} has no level: add it to LEVELS`
  if (levelOf(to) < levelOf(from)) return `${from} may not import ${to}: arrows point down`
  if ((from === 'train' && to === 'eval') || (from === 'eval' && to === 'train')) return 'train and eval never import each other'
  return undefined
}

const libImports = filesUnder('lib', ['.ts']).flatMap(importsOf)
const violations = (wrong: (i: Import) => string | undefined): string[] =>
  libImports.flatMap((i) => {
    const reason = wrong(i)
    return reason ? [`${i.at}: ${reason} (${i.text.trim()})`] : []
  })

it('lib imports point down', () => {
  expect(libImports.length).toBeGreaterThan(50)
  expect(violations(forbidden)).toEqual([])
})

it('only loader.ts opens the addon, for native.ts', () => {
  expect(
    violations(({ file, text, target }) => {
      if (file !== 'lib/loader.ts' && /\.node['"`]/.test(text)) return 'the addon is opened by loader.ts'
      return target === 'lib/loader.ts' && file !== 'lib/native.ts' ? 'the addon is reached through native.ts' : undefined
    }),
  ).toEqual([])
})

it('no file is imported for its side effects', () => {
  expect(violations(({ text }) => (/^\s*import\s*'/.test(text) ? 'imported for its side effects' : undefined))).toEqual([])
})

it('the rules see a violation', () => {
  const made = (file: string, target: string): Import => ({ file, target, at: `${file}:1`, text: '' })
  expect(forbidden(made('lib/train/loop.ts', 'lib/eval/tasks.ts'))).toMatch(/never import/)
  expect(forbidden(made('lib/model/model.ts', 'lib/train/loop.ts'))).toMatch(/arrows/)
  expect(forbidden(made('lib/surprise/new.ts', 'lib/errors.ts'))).toMatch(/no level/)
  expect(forbidden(made('lib/cli/main.ts', 'lib/native.ts'))).toBeUndefined()
})

// ---- native/ ----

interface NativeRule {
  folder: string
  what: string
  wrong: RegExp
  /** Files that the rule does not bind, with the reason. */
  except?: Readonly<Record<string, string>>
}

const NATIVE_RULES: readonly NativeRule[] = [
  { folder: 'native/core', what: 'knows nothing of Node', wrong: /#include\s*[<"](napi|node|uv|v8)/ },
  { folder: 'native/ops', what: 'knows nothing of Node', wrong: /#include\s*[<"](napi|node|uv|v8)/ },
  { folder: 'native/model', what: 'knows nothing of Node', wrong: /#include\s*[<"](napi|node|uv|v8)/ },
  { folder: 'native/text', what: 'knows text alone', wrong: /#include\s*([<"](napi|node|uv|v8)|".*\b(core|ops|model|bindings)\/)/ },
  { folder: 'native/core', what: 'knows no model and no binding', wrong: /#include\s*".*\b(model|bindings)\// },
  { folder: 'native/ops', what: 'knows no model and no binding', wrong: /#include\s*".*\b(model|bindings)\// },
  {
    folder: 'native/model',
    what: 'asks a Backend only: no op, no binding, no device of its own',
    wrong: /#include\s*".*(\b(ops|bindings)\/|core\/(cpu|cuda|thread_pool)\.h)/,
  },
  { folder: 'native/model', what: 'is the same for every device', wrong: /\bcuda|\bkind\(\)|\bCpuBackend\b/i },
  { folder: 'native/bindings', what: 'includes no kernel', wrong: /#include\s*".*(\bops\/|core\/(cpu|cuda|thread_pool)\.h)/ },
  // A binding checks and passes on: nothing of <cmath>, and no Backend operation but moving bytes.
  {
    folder: 'native/bindings',
    what: 'never computes',
    wrong: /#include\s*<cmath>/,
    except: { 'native/bindings/convert.cc': 'std::floor tells whole numbers from others' },
  },
  {
    folder: 'native/bindings',
    what: 'never computes',
    wrong: /\bstd::(exp|log|sqrt|pow|tanh|erf|fma|abs|inner_product|accumulate)\w*\s*\(/,
  },
  {
    folder: 'native/bindings',
    what: 'calls no operation of a device',
    wrong:
      /\b(b|backend)\s*(\.|->)\s*(linear|matmul|attention|embedding|addLayerNorm|add|crossEntropy|meanPool|normalize|contrastive|squaredNorm|adamw)\w*\s*\(/,
    except: { 'native/bindings/op.cc': 'the side door of tests and benchmarks' },
  },
]

it.each(NATIVE_RULES)('$folder $what ($wrong)', ({ folder, wrong, except }) => {
  const files = filesUnder(folder, ['.h', '.cc', '.inl', '.cu', '.cuh'])
  expect(files.length).toBeGreaterThan(0)
  const lines = files.filter((file) => !(except && file in except)).flatMap(linesOf)
  expect(lines.filter(({ text }) => wrong.test(text.replace(/\/\/.*/, ''))).map(({ at, text }) => `${at}: ${text.trim()}`)).toEqual([])
})

// The linker may keep any one copy of an inline function, also the AVX-512 one: native/ops/cpu/kernels.h.
it('the files of one instruction set include nothing of the standard library that may be emitted as code', () => {
  const sources = JSON.parse(readFileSync(join(root, 'native/sources.json'), 'utf8')) as Record<string, string[]>
  const perIsa = [...sources['base']!, ...sources['avx2']!, ...sources['avx512']!, ...filesUnder('native/ops/cpu', ['.inl'])]
  const headers = /#include\s*<(algorithm|array|cmath|functional|limits|map|memory|string|utility|vector)>/
  expect(
    perIsa
      .flatMap(linesOf)
      .filter(({ text }) => headers.test(text))
      .map(({ at, text }) => `${at}: ${text}`),
  ).toEqual([])
})

it('native/sources.json lists every source file once', () => {
  const listed = Object.values(JSON.parse(readFileSync(join(root, 'native/sources.json'), 'utf8')) as Record<string, string[]>).flat()
  expect([...listed].sort()).toEqual(filesUnder('native', ['.cc', '.cu']))
})
