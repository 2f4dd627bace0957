/** Lists of numbers by owner in one array: 4 bytes an entry and 4 an owner. */
export interface Lists {
  /** the entries of an owner, in the order in which they were given; a view */
  of(owner: number): Int32Array
}

/** @param owners (E) 0 .. count - 1 @param entries (E) */
export function listsOf(count: number, owners: Int32Array, entries: Int32Array): Lists {
  const starts = new Int32Array(count + 1)
  for (const owner of owners) starts[owner + 1]!++
  for (let i = 0; i < count; i++) starts[i + 1]! += starts[i]!
  const next = starts.slice()
  const sorted = new Int32Array(entries.length)
  for (let i = 0; i < owners.length; i++) sorted[next[owners[i]!]!++] = entries[i]!
  return { of: (owner) => sorted.subarray(starts[owner]!, starts[owner + 1]!) }
}
