// Runs on `npm install`: nothing to do when a binary that loads is there, otherwise build the CPU addon with node-gyp. Never uses the network
// for anything of ours.
'use strict'
const { spawnSync } = require('node:child_process')
const { existsSync } = require('node:fs')
const { join } = require('node:path')

const root = join(__dirname, '..')
const libc = process.platform !== 'linux' ? '' : existsSync('/etc/alpine-release') ? '.musl' : '.glibc'
const candidates = [join('build', 'Release', 'bge.node'), join('prebuilds', `${process.platform}-${process.arch}`, `bge-forge${libc}.node`)]
for (const name of candidates) {
  const file = join(root, name)
  if (!existsSync(file)) continue
  // A child process, so that a binary that crashes cannot take the installer with it.
  if (spawnSync(process.execPath, ['-e', `require(${JSON.stringify(file)})`], { stdio: 'ignore' }).status === 0) process.exit(0)
}

// Inside a lifecycle script npm puts its bundled node-gyp on PATH; JOBS=max compiles on all cores.
const built = spawnSync('node-gyp', ['rebuild'], { cwd: root, stdio: 'inherit', shell: true, env: { JOBS: 'max', ...process.env } })
if (built.status !== 0) {
  console.error(
    'bge-forge: the native addon was not built. It needs a C++17 compiler (g++ or clang), make and Python 3 for node-gyp. ' +
      'Install them and run `npm rebuild bge-forge`.',
  )
  process.exit(built.status ?? 1)
}
