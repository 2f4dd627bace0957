/** Finds the first blocked word in a text, by any case; undefined where there is none. Made for lists of many thousand words. */
export function blockedFinder(words: readonly string[]): (text: string) => string | undefined {
  const byStart = new Map<string, string[]>()
  for (const word of new Set(words.map(fold))) {
    if (word === '') continue
    const start = word.slice(0, 2)
    const others = byStart.get(start)
    if (others) others.push(word)
    else byStart.set(start, [word])
  }
  if (byStart.size === 0) return () => undefined
  const singles = [...byStart.keys()].filter((start) => start.length === 1)
  const firsts = new Set([...byStart.keys()].map((start) => start.charCodeAt(0)))
  const isFirst = new Uint8Array(65536)
  for (const unit of firsts) isFirst[unit] = 1
  return (text) => {
    const folded = fold(text)
    for (let i = 0; i < folded.length; i++) {
      if (isFirst[folded.charCodeAt(i)] === 0) continue
      const longer = byStart.get(folded.slice(i, i + 2))?.find((word) => folded.startsWith(word, i))
      if (longer !== undefined) return longer
      if (singles.length > 0 && byStart.has(folded[i]!)) return folded[i]
    }
    return undefined
  }
}

function fold(text: string): string {
  return text.normalize('NFKC').toLowerCase().trim()
}
