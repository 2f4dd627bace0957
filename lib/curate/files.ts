import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { glob } from 'tinyglobby'
import { BgeError } from '../errors.js'

/**
 * The files of a source, absolute, sorted by name: paths and globs relative to `root`. A path that exists is itself, brackets and all.
 * Throws ERR_BGE_FILE for a path or glob without a file.
 */
export async function sourceFiles(source: { readonly files: readonly string[]; readonly name?: string }, root: string): Promise<string[]> {
  const found = new Set<string>()
  for (const pattern of source.files) {
    const path = resolve(root, pattern)
    const isFile = await stat(path).then(
      (info) => info.isFile(),
      () => false,
    )
    // Below the root, whose own name may hold brackets.
    const files = isFile
      ? [path]
      : await glob(pattern, { cwd: root, absolute: true, onlyFiles: true, dot: false, expandDirectories: false })
    if (files.length === 0) {
      const of = source.name === undefined ? '' : ` (source ${source.name})`
      throw new BgeError('ERR_BGE_FILE', `${pattern}${of} matches no file under ${root}`, { details: { pattern, root } })
    }
    for (const file of files) found.add(resolve(file))
  }
  return [...found].sort()
}
