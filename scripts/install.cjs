// Runs on `npm install` and `npm rebuild` (and by hand: node scripts/install.cjs). Nothing to do when a binary that loads is there; otherwise the
// addon is built with node-gyp. Nothing is ever fetched: node-gyp is given the headers that lie beside this Node.
'use strict'
const { spawnSync } = require('node:child_process')
const { existsSync, readFileSync } = require('node:fs')
const { dirname, join } = require('node:path')

const root = join(__dirname, '..')

function stop(sentence) {
  console.error(`bge-forge: ${sentence}`)
  process.exit(1)
}

/** A binary loads: asked of the package's own loader; a checkout that is not compiled yet has only what node-gyp built. */
function loads() {
  const loader = join(root, 'dist/loader.js')
  const [name, script] = existsSync(loader)
    ? [loader, 'import(require("node:url").pathToFileURL(process.argv[1])).then((m) => m.loadAddon())']
    : [join(root, 'build/Release/bge.node'), 'require(process.argv[1])']
  // A child process, so that a binary that crashes cannot take the installer with it.
  return existsSync(name) && spawnSync(process.execPath, ['-e', script, name], { stdio: 'ignore' }).status === 0
}

/** The folder that holds include/node of this Node; undefined where there is none. The user's wish goes first. */
function headers() {
  const wish = process.env.npm_config_nodedir
  if (wish) return wish
  const prefix = join(dirname(process.execPath), '..')
  try {
    const version = readFileSync(join(prefix, 'include/node/node_version.h'), 'utf8')
    return /NODE_MAJOR_VERSION (\d+)/.exec(version)?.[1] === process.versions.node.split('.')[0] ? prefix : undefined
  } catch {
    return undefined
  }
}

/** The command that starts node-gyp: the one npm names or puts on PATH for install scripts, else that of the npm beside this Node. */
function nodeGyp() {
  const inNpm = join(dirname(process.execPath), '../lib/node_modules/npm/node_modules/node-gyp/bin/node-gyp.js')
  const named = [process.env.npm_config_node_gyp, inNpm].find((file) => file && existsSync(file))
  if (named) return [process.execPath, [named]]
  return spawnSync('node-gyp', ['--version'], { stdio: 'ignore' }).status === 0 ? ['node-gyp', []] : undefined
}

if (!loads()) {
  const [folder, gyp] = [headers(), nodeGyp()]
  if (!gyp) stop('there is no prebuilt binary for this system, and node-gyp was not found: run `npm rebuild bge-forge`, which brings it')
  if (!folder) {
    stop(
      `there is no prebuilt binary for this system, and the headers of Node ${process.version} are not beside it (include/node), nothing is ` +
        'downloaded: install them (Alpine: nodejs-dev; Debian: libnode-dev), or set npm_config_nodedir to the folder that has include/node',
    )
  }
  const args = [...gyp[1], 'rebuild', `--nodedir=${folder}`]
  // JOBS=max compiles on all cores.
  const { status } = spawnSync(gyp[0], args, { cwd: root, stdio: 'inherit', env: { JOBS: 'max', ...process.env } })
  if (status !== 0) {
    stop(
      'the native addon was not built. It needs a C++17 compiler (g++ or clang), make and Python 3 (Debian: `apt install g++ make python3`; ' +
        'Alpine: `apk add g++ make python3`). Install them and run `npm rebuild bge-forge`',
    )
  }
}
