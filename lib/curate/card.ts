import { type CurationSummary, type RuleKind, ruleCounts, type SourceSummary, steps, total } from './summary.js'

/** data-card.md: what the pairs are, where they come from, what was dropped by which rule, with texts to look at. The same summary gives the same bytes. */
export function dataCard(summary: CurationSummary): string {
  const { output, recipe, description } = summary
  const sections = [
    `# ${recipe}: data card`,
    description ?? '',
    `${count(output.rows)} rows in ${output.files.length} files under \`data/\`, of ${count(total(summary, 'extracted'))} pairs extracted from ${count(total(summary, 'read'))} records of ${summary.sources.length} sources. The report with charts and more samples is \`report.html\`; all numbers are in \`summary.json\`.`,
    format(summary),
    `## Sources\n\n${sourceTable(summary)}`,
    `## Licences\n\n${licences(summary.sources)}`,
    `## Cleaning\n\n${rules(summary, 'unread', 'Records that make no pair')}\n\n${rules(summary, 'dropped', 'Rows dropped')}\n\n${rules(summary, 'changed', 'Rows changed')}`,
    `## De-duplication\n\n${dedup(summary)}`,
    `## De-contamination\n\n${contamination(summary)}`,
    `## Semantic filter\n\n${semantic(summary)}`,
    `## Lengths and tokens\n\n${lengths(summary)}`,
    `## Settings\n\n\`\`\`json\n${JSON.stringify(summary.settings, null, 2)}\n\`\`\``,
  ]
  return `${sections.filter((part) => part !== '').join('\n\n')}\n`
}

const count = (value: number): string => value.toLocaleString('en')
const share = (part: number, whole: number): string => (whole === 0 ? '–' : `${((100 * part) / whole).toFixed(1)} %`)
const percent = (value: number): string => `${(100 * value).toFixed(2)} %`

/** Text inside a table or a list: no line break, and nothing that Markdown or HTML would read. */
function plain(text: string): string {
  return text
    .replaceAll(/\s+/g, ' ')
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll(/([\\`*_[\]|])/g, '\\$1')
    .trim()
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

function format({ output, settings }: CurationSummary): string {
  const kind = settings.output.format === 'jsonl' ? 'JSON Lines in the format of FlagEmbedding' : 'Parquet'
  const score = settings.semantic ? ' `score` is the cosine of `query` and `pos[0]` by the model of the semantic filter.' : ''
  const types = Object.entries(output.byType).map(([type, rows]) => `${type} ${count(rows)}`)
  return `${kind}: \`query\`, \`pos\`, \`neg\` (may be empty), \`query_id\`, \`pos_ids\`, \`neg_ids\` (equal texts have equal ids, in every curation), \`source\`, \`pair_type\`.${score} Per row ${(output.positives / Math.max(1, output.rows)).toFixed(2)} positives and ${(output.negatives / Math.max(1, output.rows)).toFixed(2)} negatives. Kinds of pairs: ${types.join(', ')}.`
}

function sourceTable(summary: CurationSummary): string {
  const columns = steps(summary)
  const rows = summary.sources.map((source) => [
    plain(source.name),
    source.type,
    ...columns.map(({ key }) => count(source.rows[key] ?? 0)),
    share(source.rows.written, source.rows.extracted),
    source.expectedCount === null ? '' : count(source.expectedCount),
  ])
  const all = [
    '**all**',
    '',
    ...columns.map(({ key }) => count(total(summary, key))),
    share(total(summary, 'written'), total(summary, 'extracted')),
    '',
  ]
  return table(['source', 'pairs of', ...columns.map(({ title }) => title), 'kept', 'expected'], [...rows, all])
}

function licences(sources: readonly SourceSummary[]): string {
  return table(
    ['source', 'licence', 'homepage', 'negatives', 'notes'],
    sources.map(({ name, licence, homepage, negatives, notes }) => [
      plain(name),
      plain(licence),
      homepage ?? '',
      negatives,
      plain(notes ?? ''),
    ]),
  )
}

function rules(summary: CurationSummary, kind: RuleKind, title: string): string {
  const found = ruleCounts(summary, kind)
  if (found.length === 0) return `${title}: none.`
  const whole = total(summary, kind === 'unread' ? 'read' : 'extracted')
  const counts = table(
    ['rule', title.toLowerCase(), kind === 'unread' ? 'of the records' : 'of the pairs'],
    found.map(({ rule, count: rows }) => [rule, count(rows), share(rows, whole)]),
  )
  const samples = found.map(({ rule, samples }) => {
    const lines = samples
      .slice(0, 3)
      .map(({ at, text, after }) => `* ${plain(at)}: ${plain(text)}${after === undefined ? '' : ` → ${plain(after)}`}`)
    return `### ${title}: ${rule}\n\n${lines.join('\n')}`
  })
  return [counts, ...samples].join('\n\n')
}

function dedup({ dedup: report, settings }: CurationSummary): string {
  if (report === null) return 'Was not asked for.'
  const samples = report.samples.near.slice(0, 3).map(({ dropped, kept, similarity }) => {
    const side = ({ source, at, query, pos }: typeof kept): string =>
      `${plain(source)} ${plain(at)}: ${plain(query)} / ${plain(pos.slice(0, 120))}`
    return `* similarity ${similarity.toFixed(3)}: dropped ${side(dropped)}; kept ${side(kept)}`
  })
  const near = settings.dedup!.near
  const nearWords =
    near === false
      ? 'Near-duplicates were not looked for.'
      : `${count(report.near)} near-duplicates (Jaccard similarity ${near.threshold} or more).`
  return [
    `Over all sources, by ${settings.dedup!.on}: ${count(report.exact)} of ${count(report.read)} rows were exact copies. ${nearWords}`,
    samples.join('\n'),
  ]
    .filter((part) => part !== '')
    .join('\n\n')
}

function contamination({ decontamination: report, settings }: CurationSummary): string {
  if (report === null) return 'Was not asked for: rows may repeat texts of an evaluation set.'
  const rows = Object.entries(report.byTask).map(([task, { texts, rows }]) => [
    plain(task),
    ...[texts, rows.equal, rows.near, rows.ngram].map(count),
  ])
  const words = `Against ${settings.decontaminate!.against.map(plain).join(', ')}: ${count(report.dropped)} of ${count(report.read)} rows repeat a text that is evaluated.`
  return `${words}\n\n${table(['task', 'texts', 'equal', 'near', 'n-gram'], rows)}`
}

function semantic({ semantic: report, settings }: CurationSummary): string {
  if (report === null) return 'Was not asked for: no model has looked at whether the two texts of a pair belong together.'
  const { threshold, keepRate, kept, rows, ties } = report
  const how = keepRate === null ? '' : `, the keep-rate ${percent(keepRate)}`
  const words = `Model ${plain(settings.semantic!.model)} (SHA-256 of the folder ${settings.semantic!.modelHash}). Rows with a cosine from ${Number(threshold.toFixed(6))}${how} are kept: ${count(kept)} of ${count(rows)}, ${count(ties)} of them exactly at the threshold.`
  const candidates = report.candidates.map((candidate) => [
    candidate.threshold.toFixed(4),
    candidate.why,
    count(candidate.kept),
    share(candidate.kept, rows),
  ])
  const dropped = report.dropped
    .slice(0, 5)
    .map(({ score, query, passage }) => `* ${score.toFixed(4)}: ${plain(query)} / ${plain(passage)}`)
  return [
    words,
    table(['threshold', 'why', 'rows', 'kept'], candidates),
    ...(dropped.length > 0 ? [`### Dropped\n\n${dropped.join('\n')}`] : []),
  ].join('\n\n')
}

function lengths({ output, tokensAbsent }: CurationSummary): string {
  const { query, passage } = output.lengths
  const row = (name: string, of: typeof query): string[] => [
    name,
    count(of.count),
    of.mean.toFixed(1),
    ...[of.p50, of.p90, of.p99, of.max].map(count),
  ]
  const characters = table(['characters', 'texts', 'mean', 'p50', 'p90', 'p99', 'longest'], [row('query', query), row('passage', passage)])
  const { tokens } = output
  if (tokens === null) return `${characters}\n\nTokens were not counted: ${tokensAbsent}.`
  const side = (name: string, { mean, unknown, cut }: typeof tokens.query): string[] => [
    name,
    mean.toFixed(1),
    percent(unknown),
    ...Object.values(cut).map(percent),
  ]
  const heads = ['tokens', 'mean', '[UNK]', ...Object.keys(tokens.query.cut).map((length) => `longer than ${length}`)]
  return `${characters}\n\n${table(heads, [side('query', tokens.query), side('passage', tokens.passage)])}\n\nTokens of ${count(tokens.rows)} rows, chosen by hash.`
}
