import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { REQUIRED } from '../../lib/loader.js'
import { aboveFloor, needsOf } from './binary.js'
import { run } from './run.js'
import { expectedFiles, LARGEST, listDifferences, PREBUILT, type Tarball } from './tarball.js'

/** A named check: undefined when it holds, else why it does not. */
export interface Check {
  title: string
  wrong: string | undefined
}

const joined = (sentences: readonly string[]): string | undefined => (sentences.length > 0 ? sentences.join('; ') : undefined)

/** What can be said of a tarball without installing it. `binary` is the prebuilt file inside it. */
export function tarballChecks(root: string, tarball: Tarball, binary: string): Check[] {
  const needs = needsOf(binary)
  return [
    {
      title: `${tarball.files.length} files, those of the allow-list`,
      wrong: joined(listDifferences(tarball.files, expectedFiles(root, [PREBUILT]))),
    },
    {
      title: `packed ${(tarball.packed / 1e6).toFixed(2)} MB (unpacked ${(tarball.unpacked / 1e6).toFixed(2)} MB), under ${LARGEST / 1e6} MB`,
      wrong: tarball.packed < LARGEST ? undefined : `${tarball.packed} bytes`,
    },
    {
      title: `the binary needs glibc ${needs.glibc} (floor ${REQUIRED.glibc}), GLIBCXX_${needs.libstdcxx} (floor ${REQUIRED.libstdcxx})`,
      wrong: joined(aboveFloor(binary, REQUIRED)),
    },
  ]
}

/** publint and are-the-types-wrong on the tarball, and a TypeScript project that uses the installed package, declarations checked. */
export async function toolChecks(root: string, tarball: Tarball, project: string, env: NodeJS.ProcessEnv): Promise<Check[]> {
  const bin = (name: string): string => join(root, 'node_modules/.bin', name)
  const check = async (title: string, name: string, args: readonly string[], cwd: string): Promise<Check> => {
    const { status, output } = await run(bin(name), args, { cwd, env })
    return { title, wrong: status === 0 ? undefined : output.trim() }
  }
  const others = Object.keys(tarball.manifest['exports'] as object).filter((path) => path !== '.' && path !== './package.json')
  const program = [
    "import { BgeModel, openDevice } from 'bge-forge'",
    ...others.map((path, i) => `import * as other${i} from 'bge-forge/${path.slice(2)}'`),
    "const model: BgeModel = await BgeModel.load('x')",
    "const { dims } = await model.encode(['a'])",
    `console.log(dims, (await openDevice({ device: 'cpu' })).description, ${others.map((_, i) => `other${i}`).join(', ')})`,
  ]
  writeFileSync(join(project, 'use.mts'), `${program.join('\n')}\n`)
  const types = ['--types', 'node', '--typeRoots', join(root, 'node_modules/@types')]
  const strict = [
    '--strict',
    '--noEmit',
    '--target',
    'es2022',
    '--lib',
    'es2023,esnext.disposable',
    '--exactOptionalPropertyTypes',
    ...types,
  ]
  return [
    await check('publint', 'publint', ['run', tarball.path, '--strict'], project),
    // "esm-only": what require() of an ES module cannot do in Node 16 is no concern of a package for Node 20.19 and newer.
    await check('are the types wrong', 'attw', [tarball.path, '--profile', 'esm-only', '--no-emoji', '--no-color'], project),
    await check('types: nodenext', 'tsc', ['--module', 'nodenext', ...strict, 'use.mts'], project),
    await check('types: bundler', 'tsc', ['--module', 'esnext', '--moduleResolution', 'bundler', ...strict, 'use.mts'], project),
  ]
}
