/**
 * What to say where nobody answers and the environment names a proxy: Node's fetch reads HTTP_PROXY, HTTPS_PROXY and NO_PROXY only with
 * NODE_USE_ENV_PROXY=1, and only from Node 22.21 and 24 on. '' where there is nothing to say.
 */
export function proxyAdvice(environment: NodeJS.ProcessEnv = process.env, node: string = process.versions.node): string {
  const name = ['HTTPS_PROXY', 'https_proxy', 'HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy'].find((each) => environment[each])
  if (name === undefined) return ''
  const [major, minor] = node.split('.').map(Number) as [number, number]
  if (major < 22 || (major === 22 && minor < 21) || major === 23)
    return `; ${name} is set, but Node ${node} reads no proxy: 22.21 or 24 does, with NODE_USE_ENV_PROXY=1`
  return environment.NODE_USE_ENV_PROXY === '1' ? '' : `; ${name} is set, but Node reads it only with NODE_USE_ENV_PROXY=1`
}
