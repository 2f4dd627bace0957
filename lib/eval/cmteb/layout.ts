/** config -> split -> files of a dataset repository. */
export type RepoConfigs = ReadonlyMap<string, ReadonlyMap<string, readonly string[]>>

const DATA_FILE = /\.(parquet|jsonl?(\.gz)?)$/
const SPLITS = ['train', 'validation', 'test', 'dev']

/**
 * Which files hold which split of which config: as the README's `configs:` says, else by the hub's conventions
 * (`data/SPLIT-00000-of-00001-HASH.parquet`, `SPLIT.jsonl`, `CONFIG/SPLIT-*`, `SPLIT/CONFIG.json.gz`).
 */
export function repoConfigs(files: readonly string[], readme: string): RepoConfigs {
  const data = files.filter((file) => DATA_FILE.test(file)).sort()
  const configs = new Map<string, Map<string, string[]>>()
  const add = (config: string, split: string, file: string): void => {
    const splits = configs.get(config) ?? new Map<string, string[]>()
    configs.set(config, splits)
    const list = splits.get(split) ?? []
    splits.set(split, list)
    if (!list.includes(file)) list.push(file)
  }
  const declared = declaredFiles(readme)
  for (const { config, split, pattern } of declared) {
    const matches = globExpression(pattern)
    for (const file of data) if (matches.test(file)) add(config, split, file)
  }
  if (declared.length === 0) {
    for (const file of data) {
      const [config, split] = conventional(file)
      add(config, split, file)
    }
  }
  return configs
}

function conventional(file: string): [config: string, split: string] {
  const parts = file.replace(DATA_FILE, '').split('/')
  if (parts.length > 1 && parts[0] === 'data') parts.shift()
  const last = parts.pop()!.replace(/-\d{5}-of-\d{5}(-[0-9a-f]+)?$/, '')
  const folder = parts.join('/')
  if (folder === '') return ['default', last]
  return SPLITS.includes(folder) ? [last, folder] : [folder, last]
}

/**
 * The `configs:` of a dataset card. Not a YAML parser: the block is written by the hub's own tools in one form,
 * `- config_name: C / data_files: / - split: S / path: P` with P a pattern or a list of them.
 */
function declaredFiles(readme: string): { config: string; split: string; pattern: string }[] {
  const card = /^---\r?\n([\s\S]*?)\r?\n---/.exec(readme)?.[1] ?? ''
  const lines = card.split(/\r?\n/)
  const start = lines.findIndex((line) => /^configs:\s*$/.test(line))
  if (start < 0) return []
  const entries: { config: string; split: string; patterns: string[] }[] = []
  let config = 'default'
  let entry: (typeof entries)[number] | undefined
  for (const line of lines.slice(start + 1)) {
    if (/^[^\s-]/.test(line)) break
    const match = /^\s*(-\s+)?(?:([\w-]+):(?:\s+|$))?(.*)$/.exec(line)!
    const [item, key, value] = [match[1] !== undefined, match[2], unquoted(match[3]!)]
    if (key === 'config_name') {
      config = value
      entry = undefined
    } else if (key === 'data_files' && value !== '') entries.push({ config, split: 'train', patterns: [value] })
    else if (key === 'split' || key === 'path') {
      if (item || entry === undefined) entries.push((entry = { config, split: 'train', patterns: [] }))
      if (key === 'split') entry.split = value
      else if (value !== '') entry.patterns.push(value)
    } else if (item && key === undefined && entry !== undefined) entry.patterns.push(value)
  }
  return entries.flatMap(({ config, split, patterns }) => patterns.map((pattern) => ({ config, split, pattern })))
}

function unquoted(text: string): string {
  return text.trim().replace(/^(['"])(.*)\1$/, '$2')
}

function globExpression(pattern: string): RegExp {
  const source = pattern
    .split(/(\*\*\/|\*\*|\*|\?)/)
    .map((part) => ({ '**/': '(?:.*/)?', '**': '.*', '*': '[^/]*', '?': '[^/]' })[part] ?? part.replace(/[.+^${}()|[\]\\]/g, '\\$&'))
    .join('')
  return new RegExp(`^${source}$`)
}
