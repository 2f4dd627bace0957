import { spawnSync } from 'node:child_process'

/** What a binary asks of the system it runs on. */
export interface Needs {
  /** highest symbol version of glibc, such as 2.34 */
  glibc: string
  /** highest GLIBCXX version; '' without one */
  libstdcxx: string
  /** names of shared libraries, sorted */
  libraries: string[]
}

function read(command: string, args: readonly string[]): string {
  const { status, stdout, error, stderr } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 28 })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`)
  return stdout
}

const parts = (version: string): number[] => version.split('.').map(Number)
/** Of versions such as 2.4 and 2.34: -1, 0 or 1. */
export function compareVersions(a: string, b: string): number {
  const [x, y] = [parts(a), parts(b)]
  for (let i = 0; i < Math.max(x.length, y.length); i++) {
    const difference = (x[i] ?? 0) - (y[i] ?? 0)
    if (difference !== 0) return Math.sign(difference)
  }
  return 0
}

/** Read with binutils, which come with every C++ compiler. */
export function needsOf(file: string): Needs {
  const symbols = read('objdump', ['-T', file])
  const highest = (library: string): string =>
    [...symbols.matchAll(new RegExp(`\\b${library}_([\\d.]+)`, 'g'))]
      .map((m) => m[1]!)
      .sort(compareVersions)
      .at(-1) ?? ''
  const libraries = [...read('readelf', ['-d', '-W', file]).matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((m) => m[1]!)
  return { glibc: highest('GLIBC'), libstdcxx: highest('GLIBCXX'), libraries: libraries.sort() }
}

/** What every glibc system with a C++ program on it has; Node itself needs the same. */
const EVERYWHERE = /^(libstdc\+\+\.so\.6|libgcc_s\.so\.1|libm\.so\.6|libc\.so\.6|libdl\.so\.2|libpthread\.so\.0|ld-linux[\w-]*\.so\.\d)$/

/** How `file` asks for more than is promised, a sentence each; empty when it does not. */
export function aboveFloor(file: string, floor: { glibc: string; libstdcxx: string }): string[] {
  const needs = needsOf(file)
  const wrong: string[] = []
  if (compareVersions(needs.glibc, floor.glibc) > 0) wrong.push(`${file} needs glibc ${needs.glibc}, above ${floor.glibc}`)
  if (compareVersions(needs.libstdcxx || '0', floor.libstdcxx) > 0) {
    wrong.push(`${file} needs GLIBCXX_${needs.libstdcxx}, above ${floor.libstdcxx}`)
  }
  for (const library of needs.libraries) if (!EVERYWHERE.test(library)) wrong.push(`${file} needs ${library}`)
  return wrong
}

/** Removes debug and local symbols, as prebuildify --strip does. */
export function strip(file: string): void {
  read('strip', process.platform === 'darwin' ? ['-Sx', file] : ['--strip-all', file])
}
