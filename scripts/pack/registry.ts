import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { basename } from 'node:path'
import type { Tarball } from './tarball.js'

/**
 * A package registry on localhost: `tarballs` are its own, everything else is sent on to `upstream`. So the commands of the matrix are those that a
 * user types (`npm install bge-forge`), and approvals by name work as they do with a published package; package managers treat a path differently.
 */
export class Registry {
  readonly #server: Server
  readonly url: string
  private constructor(server: Server) {
    this.#server = server
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  }

  static async start(tarballs: readonly Tarball[], upstream: string): Promise<Registry> {
    const server = createServer((request, response) => {
      const path = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname).slice(1)
      const versions = tarballs.filter((t) => t.name === path)
      const file = tarballs.find((t) => path === `${t.name}/-/${basename(t.path)}`)
      if (file) response.end(readFileSync(file.path))
      else if (versions.length > 0) {
        const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
        const long = '2020-01-01T00:00:00.000Z' // pnpm takes nothing that is a day old
        const document = {
          name: path,
          'dist-tags': { latest: versions[0]!.version },
          versions: Object.fromEntries(
            versions.map((t) => [
              t.version,
              {
                ...t.manifest,
                _id: `${t.name}@${t.version}`,
                // npm writes this into what it publishes
                ...((t.manifest['scripts'] as Record<string, string> | undefined)?.['install'] ? { hasInstallScript: true } : {}),
                dist: {
                  tarball: `${base}${t.name}/-/${basename(t.path)}`,
                  integrity: `sha512-${createHash('sha512').update(readFileSync(t.path)).digest('base64')}`,
                },
              },
            ]),
          ),
          time: { created: long, modified: long, ...Object.fromEntries(versions.map((t) => [t.version, long])) },
        }
        response.setHeader('content-type', 'application/json')
        response.end(JSON.stringify(document))
      } else {
        response.statusCode = 302
        response.setHeader('location', new URL((request.url ?? '/').slice(1), upstream).href)
        response.end()
      }
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return new Registry(server)
  }

  close(): void {
    this.#server.closeAllConnections()
    this.#server.close()
  }
}
