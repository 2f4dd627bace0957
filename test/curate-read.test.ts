import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterAll, describe, expect, it } from 'vitest'
import { cleanSource } from '../lib/curate/clean.js'
import { sourceFiles } from '../lib/curate/files.js'
import { LONGEST } from '../lib/curate/read/lines.js'
import { readRecipe } from '../lib/curate/recipe.js'
import { emptyTally } from '../lib/curate/tally.js'
import { runFile, scratch } from './support/curate.js'

const place = scratch()
afterAll(() => place.remove())

const titleBody = { extract: { type: 'title-body' } }
const text = (n: number): string => `这是第${'一二三四五六七八九十'[n]}篇文章的正文，讲的是不同的事情。`
const run = (name: string, content: string | Uint8Array, source: Record<string, unknown> = titleBody, clean = {}) =>
  runFile(place, name, content, source, clean)
const pairs = async (...args: Parameters<typeof run>): Promise<string[]> => {
  const { rows } = await run(...args)
  return rows.map(({ query, pos, at }) => `${query}|${pos.join('+')}|${at}`)
}
const wrong = (message: RegExp, code = 'ERR_BGE_DATA'): object => ({ code, message: expect.stringMatching(message) })

// zstd of the line {"title":"标题一","body":"压缩过的正文，解开以后才能读。"}
const ZSTD = 'KLUv/SRNaQIAeyJ0aXRsZSI6Iuagh+mimOS4gCIsImJvZHkiOiLljovnvKnov4fnmoTmraPmlofvvIzop6PlvIDku6XlkI7miY3og73or7vjgIIifQpSQk6E'

describe('JSON lines', () => {
  const line = (n: number): string => JSON.stringify({ title: `标题${n}`, body: text(n) })

  it('skips a byte-order mark, CRLF and blank lines, and numbers lines from 1', async () => {
    expect(await pairs('a.jsonl', `\ufeff${line(0)}\r\n\r\n${line(1)}\r\n  \n${line(2)}`)).toEqual([
      `标题0|${text(0)}|a.jsonl:1`,
      `标题1|${text(1)}|a.jsonl:3`,
      `标题2|${text(2)}|a.jsonl:5`,
    ])
  })

  it('reads lines across chunks of the file', async () => {
    const lines = Array.from({ length: 9000 }, (_, i) =>
      JSON.stringify({ title: `标题${i}`, body: `第${i}段：${'连续不断的文字'.repeat(1 + (i % 40))}结束` }),
    )
    const { rows } = await run('big.jsonl', lines.join('\n'), titleBody, { repeatedNgrams: 1 })
    expect(rows.map(({ query }) => query)).toEqual(lines.map((_, i) => `标题${i}`))
    expect(rows.at(-1)!.at).toBe('big.jsonl:9000')
  })

  it.each([
    ['{"title": "a"', /a\.jsonl:2: expected a JSON object on one line/],
    ['["a"]', /a\.jsonl:2: expected a JSON object on one line, but was an array of 1/],
    ['{"title": {"x": 1}, "body": "b"}', /a\.jsonl:2: field title expected a text \(title\), but was a Object/],
  ])('%s stops the run with file:line', async (bad, message) => {
    await expect(run('a.jsonl', `${line(0)}\n${bad}\n${line(1)}\n`)).rejects.toMatchObject(wrong(message))
  })

  it('malformed: drop counts records that are no JSON or not UTF-8', async () => {
    const bytes = Buffer.concat([Buffer.from(`${line(0)}\n{"title"\n`), Buffer.from([0xff, 0xfe, 0x41, 0x0a]), Buffer.from(line(1))])
    const { rows, tally } = await run('a.jsonl', bytes, { ...titleBody, malformed: 'drop' })
    expect(rows.map(({ at }) => at)).toEqual(['a.jsonl:1', 'a.jsonl:4'])
    expect(tally.dropped['malformed']).toMatchObject({ count: 2, samples: [{ at: 'a.jsonl:3' }, { at: 'a.jsonl:2', text: '{"title"' }] })
    expect(tally.read).toBe(2)
  })

  it('text that is not UTF-8 is refused with its line', async () => {
    const bytes = Buffer.concat([Buffer.from(`${line(0)}\n`), Buffer.from([0xc4, 0xe3, 0xba, 0xc3])])
    await expect(run('a.jsonl', bytes)).rejects.toMatchObject(wrong(/a\.jsonl:2: expected UTF-8 text, but was something else/))
    await expect(run('a.jsonl', Buffer.from(`\ufeff${line(0)}`, 'utf16le'))).rejects.toMatchObject(wrong(/byte-order mark says UTF-16/))
  })

  it('a line of more than 64 MiB is refused', async () => {
    await expect(run('a.jsonl', Buffer.alloc(LONGEST + (1 << 20) + 1, 0x61))).rejects.toMatchObject(
      wrong(/a\.jsonl:1: expected a line of at most 64 MiB/),
    )
  })
})

describe('JSON', () => {
  const one = { title: '标题一"}]', body: text(0), deep: { list: [[1], { a: '[{' }] } }
  const two = { title: '标题二\\', body: text(1) }

  it.each([
    ['a list', JSON.stringify([one, two]), 1, 1],
    ['a list over lines', JSON.stringify([one, two], null, 2), 2, 16],
    ['objects one after the other', `${JSON.stringify(one)} ${JSON.stringify(two)}`, 1, 1],
    ['lines', `\ufeff${JSON.stringify(one)}\r\n${JSON.stringify(two)}\n`, 1, 2],
  ])('%s', async (_, content, first, second) => {
    expect(await pairs('a.json', content)).toEqual([
      `${one.title}|${one.body}|a.json:${first}`,
      `${two.title}|${two.body}|a.json:${second}`,
    ])
  })

  it('a list under a key, other keys before and after it', async () => {
    const content = JSON.stringify({
      version: '1',
      data: 'no',
      other: { rows: [{ title: 'x', body: 'y' }] },
      result: { n: [1], rows: [one, two] },
      z: [{}],
    })
    const source = { ...titleBody, records: 'result.rows' }
    expect(await pairs('a.json', content, source)).toHaveLength(2)
    await expect(run('a.json', content, { ...titleBody, records: 'result.row' })).rejects.toMatchObject(
      wrong(/a list under the key result\.row, but there is none/),
    )
    await expect(run('a.json', '[]', { ...titleBody, records: 'rows' })).rejects.toMatchObject(
      wrong(/expected an object with the key rows/),
    )
  })

  // A mark, a backslash or a quote may fall on the end of a chunk of 1 MiB.
  it.each([0, 1, 2, 3, 4, 5, 6, 7])('values cut by the end of a chunk, shifted by %i', async (shift) => {
    const filler = JSON.stringify({ title: '开头的标题', body: `开头。${'字'.repeat(((1 << 20) - 200) / 3)}` })
    const tricky = JSON.stringify({ title: '\\"\\\\"}]{[', body: text(2) })
    const content = `[${filler},${' '.repeat((1 << 20) - Buffer.byteLength(filler) - 2 - 10 - shift)}${tricky}]`
    const { rows } = await run('a.json', content, titleBody, { repeatedNgrams: 1, passageLength: { max: 1 << 20 }, textShare: 0 })
    expect(rows.map(({ query }) => query)).toEqual(['开头的标题', '\\"\\\\"}]{['])
  })

  it.each([
    ['[{"title": "a"}', /expected the JSON to be closed, but the file ends/],
    ['[1]', /a\.json:1: expected a JSON object, but was "1\]"/],
    ['["a"]', /expected a JSON object, but was/],
    ['[{"title": tru}]', /a\.json:1: expected a JSON object here/],
    ['"a"', /expected a list of objects, or an object, but the file begins with """/],
    ['[{"title":"a","body":"b"}][{}]', /expected the end of the file/],
  ])('%s stops the run', async (content, message) => {
    await expect(run('a.json', content)).rejects.toMatchObject(wrong(message))
  })
})

describe('tables', () => {
  it('CSV: quotes, delimiters and breaks inside of cells; a header', async () => {
    expect(await pairs('a.csv', `title,body\r\n"标题,一","他说""好""。\r\n${text(0)}"\r\n标题二,${text(1)}\r\n`)).toEqual([
      `标题,一|他说"好"。\n${text(0)}|a.csv:3`,
      `标题二|${text(1)}|a.csv:4`,
    ])
  })

  it('CSV: columns without a header, or in place of it', async () => {
    const source = { ...titleBody, columns: ['title', 'body'] }
    expect(await pairs('a.csv', `甲标题,${text(0)}\n`, source)).toHaveLength(1)
    expect(await pairs('a.csv', `q,p\n甲标题,${text(0)}\n`, { ...source, header: 'skip' })).toEqual([`甲标题|${text(0)}|a.csv:2`])
    expect(await pairs('a.csv', `甲标题;${text(0)}\n`, { ...source, delimiter: ';' })).toHaveLength(1)
  })

  it('TSV: quotes are text; csv quotes when asked', async () => {
    expect(await pairs('a.tsv', `title\tbody\n"半个引号\t${text(0)}\n`)).toEqual([`"半个引号|${text(0)}|a.tsv:2`])
    expect(await pairs('a.tsv', `title\tbody\n"标\t题"\t${text(0)}\n`, { ...titleBody, quotes: 'csv' })).toEqual([
      `标 题|${text(0)}|a.tsv:2`,
    ])
    expect(await pairs('a.tsv', `q\tp\n标题\t${text(0)}\n`, { ...titleBody, columns: ['title', 'body'], header: 'skip' })).toHaveLength(1)
  })

  it.each(['csv', 'tsv'])('%s: a row of another width stops the run, or is counted', async (format) => {
    const [d, name] = [format === 'csv' ? ',' : '\t', `a.${format}`]
    const content = `title${d}body\n标题一${d}${text(0)}\n只有一格\n标题三${d}${text(2)}\n`
    await expect(run(name, content)).rejects.toMatchObject(wrong(/:3: expected 2 columns \("title, body"\), but the row has 1/))
    const { rows, tally } = await run(name, content, { ...titleBody, malformed: 'drop' })
    expect(rows.map(({ at }) => at)).toEqual([`${name}:2`, `${name}:4`])
    expect(tally.dropped['malformed']!.samples).toEqual([{ at: `${name}:3`, text: '只有一格' }])
  })

  it('CSV: a quote that is not closed stops the run', async () => {
    await expect(run('a.csv', `title,body\n"标题,${text(0)}\n`)).rejects.toMatchObject(
      wrong(/a\.csv:\d: expected a row of CSV, but Quote Not Closed/),
    )
  })

  it('parquet: row groups, 64-bit ids, lists', async () => {
    const buffer = parquetWriteBuffer({
      columnData: [
        { name: 'title', data: ['标题一', '标题二', '标题三'], type: 'STRING' },
        { name: 'body', data: [0, 1, 2].map(text), type: 'STRING' },
        { name: 'id', data: [1n, 2n, 3n], type: 'INT64' },
      ],
      rowGroupSize: 2,
    })
    expect(await pairs('a.parquet', new Uint8Array(buffer), { ...titleBody, where: { id: { min: 2 } } })).toEqual([
      `标题二|${text(1)}|a.parquet:2`,
      `标题三|${text(2)}|a.parquet:3`,
    ])
    await expect(run('a.parquet', new Uint8Array(buffer).slice(0, 200))).rejects.toMatchObject(wrong(/expected a whole parquet file/))
  })
})

describe('text and pages', () => {
  it('plain text by paragraph, line and file', async () => {
    const content = `第一个标题\n${text(0)}\n${text(1)}\n\n\n第二个标题\r\n${text(2)}\r\n`
    const whole = { repeatedNgrams: 1 }
    expect(await pairs('a.txt', content, titleBody, whole)).toEqual([
      `第一个标题|${text(0)}\n${text(1)}|a.txt:1`,
      `第二个标题|${text(2)}|a.txt:6`,
    ])
    const lines = await pairs('a.txt', content, { unit: 'line', extract: { type: 'title-body', fields: { title: 'text', body: 'text' } } })
    expect(lines).toHaveLength(5)
    expect(await pairs('a.txt', content, { ...titleBody, unit: 'file' }, whole)).toEqual([
      `第一个标题|${text(0)}\n${text(1)}\n第二个标题\n${text(2)}|a.txt:1`,
    ])
  })

  const markdown = `---
title: "封面上的标题"
---
# 文章标题

开头的**一段**话，有[链接](https://example.org)和\`代码\`。

## 第一节

- 第一条内容
- 第二条内容

\`\`\`js
const ignored = 1
\`\`\`

## 空的一节

## 第二节

| 名称 | 用途 |
| --- | --- |
| 苹果 | 直接吃 |

> 引用的一句话。
`
  it('Markdown: the document and its sections', async () => {
    expect(await pairs('a.md', markdown, { extract: { type: 'title-body', fields: { body: 'text' } } })).toEqual([
      '封面上的标题|开头的一段话，有链接和代码。\n第一条内容\n第二条内容\n名称 用途\n苹果 直接吃\n引用的一句话。|a.md:1',
    ])
    expect(await pairs('a.md', markdown, { unnest: ['sections'], extract: { type: 'subtitle-passage' } })).toEqual([
      '第一节|第一条内容\n第二条内容|a.md:1',
      '第二节|名称 用途\n苹果 直接吃\n引用的一句话。|a.md:1',
    ])
  })

  const html = (charset: string): string => `<!doctype html><html><head><meta charset="${charset}"><title>页面标题_某网站</title>
<meta name="description" content="页面的摘要"><style>p { color: red }</style></head>
<body><nav><a href="/">首页</a></nav><header><h1>网站名</h1></header><div class="x"><article><header><h1>文章&amp;标题</h1></header>
<p>第一段<b>加粗</b>的文字，<br>换行以后。</p><script>var a = '<p>no</p>'</script>
<h2>小标题</h2><p>小标题下面的一段话。<ul><li>列表的一项</ul></article></div><footer>版权所有</footer></body></html>`
  it('HTML: text without navigation, sections, entities, and the encoding that the page declares', async () => {
    const source = { extract: { type: 'title-body', fields: { body: 'text' } } }
    const expected = ['文章&标题|第一段加粗的文字，\n换行以后。\n小标题下面的一段话。\n列表的一项|a.html:1']
    expect(await pairs('a.html', html('utf-8'), source)).toEqual(expected)
    const gbk = Buffer.from(html('gbk').replaceAll(/[^\0-\x7f]/g, (c) => `&#${c.codePointAt(0)};`))
    expect(await pairs('a.html', gbk, source)).toEqual(expected)
    expect(await pairs('a.html', html('utf-8'), { unnest: ['sections'], extract: { type: 'subtitle-passage' } })).toEqual([
      '小标题|小标题下面的一段话。\n列表的一项|a.html:1',
    ])
    expect(
      await pairs('a.html', html('utf-8'), { extract: { type: 'title-summary', fields: { title: 'pageTitle', summary: 'description' } } }),
    ).toEqual(['页面标题_某网站|页面的摘要|a.html:1'])
  })

  it('HTML: bytes of GBK are decoded, and a wrong declaration is refused', async () => {
    const page = Buffer.concat([
      Buffer.from('<meta charset=gbk><title>'),
      Buffer.from([0xc4, 0xe3, 0xba, 0xc3, 0xca, 0xc0, 0xbd, 0xe7]), // 你好世界
      Buffer.from('</title><p>'),
      Buffer.from([0xd6, 0xd0, 0xce, 0xc4, 0xd5, 0xfd, 0xce, 0xc4]), // 中文正文
    ])
    expect(await pairs('a.html', page, { extract: { type: 'title-body', fields: { body: 'text' } } })).toEqual([
      '你好世界|中文正文|a.html:1',
    ])
    await expect(run('a.html', Buffer.from(page.toString('latin1').replace('gbk', 'utf-8'), 'latin1'))).rejects.toMatchObject(
      wrong(/not the utf-8 that it declares/),
    )
    await expect(run('a.html', '<meta charset=nonsense>')).rejects.toMatchObject(
      wrong(/encoding that is known, but the page declares nonsense/),
    )
  })

  it('WikiExtractor: what is no article is refused', async () => {
    await expect(run('wiki_00', 'text\n', { ...titleBody, format: 'wikiextract' })).rejects.toMatchObject(
      wrong(/wiki_00:1: expected <doc id= url= title=>/),
    )
    await expect(run('wiki_00', '<doc id="1" url="" title="a">\na\n', { ...titleBody, format: 'wikiextract' })).rejects.toMatchObject(
      wrong(/wiki_00:1: expected <\/doc>, but the file ends/),
    )
  })
})

describe('packed files and globs', () => {
  const line = JSON.stringify({ title: '标题一', body: '压缩过的正文，解开以后才能读。' })

  it('gzip, also of several members', async () => {
    const two = Buffer.concat([gzipSync(`${line}\n`), gzipSync(line.replace('标题一', '标题二'))])
    expect((await run('a.jsonl.gz', two)).rows.map(({ query, at }) => [query, at])).toEqual([
      ['标题一', 'a.jsonl.gz:1'],
      ['标题二', 'a.jsonl.gz:2'],
    ])
    await expect(run('a.jsonl.gz', gzipSync(line.repeat(1000)).subarray(0, 60))).rejects.toMatchObject(wrong(/expected a whole gzip file/))
  })

  it('zstd', async () => {
    const bytes = Buffer.from(ZSTD, 'base64')
    expect(await pairs('a.jsonl.zst', bytes)).toEqual(['标题一|压缩过的正文，解开以后才能读。|a.jsonl.zst:1'])
    await expect(run('a.jsonl.zst', bytes.subarray(0, 40))).rejects.toMatchObject(wrong(/expected a whole zstd file/))
  })

  it('globs are sorted, a path with brackets is itself, and what matches nothing is an error', async () => {
    for (const name of ['g/b.txt', 'g/a.txt', 'g/[1].txt', 'g/sub/c.txt']) place.write(name, 'x')
    const names = async (...files: string[]): Promise<string[]> =>
      (await sourceFiles({ files, name: 's' }, place.folder)).map((file) => file.slice(place.folder.length + 1))
    expect(await names('g/*.txt')).toEqual(['g/[1].txt', 'g/a.txt', 'g/b.txt'])
    expect(await names('g/[1].txt', 'g/**/c.txt')).toEqual(['g/[1].txt', 'g/sub/c.txt'])
    await expect(names('g/*.md')).rejects.toMatchObject(wrong(/g\/\*\.md \(source s\) matches no file under/, 'ERR_BGE_FILE'))
  })
})

describe('extraction', () => {
  const lines = (...records: unknown[]): string => records.map((record) => JSON.stringify(record)).join('\n')

  it.each([
    ['title-body', 'title', 'body'],
    ['subtitle-passage', 'subtitle', 'passage'],
    ['question-answer', 'question', 'answer'],
    ['question-question', 'question', 'similar'],
    ['title-summary', 'title', 'summary'],
    ['title-abstract', 'title', 'abstract'],
    ['sentence-edited', 'sentence', 'edited'],
    ['query-context', 'query', 'context'],
    ['query-passage', 'query', 'passage'],
  ])('%s takes %s and %s, or mapped fields', async (type, query, pos) => {
    const { rows } = await run('a.jsonl', lines({ [query]: '查询的文字', [pos]: text(0) }), { extract: { type } })
    expect(rows).toMatchObject([{ query: '查询的文字', pos: [text(0)], neg: [], type, source: 'one' }])
    const mapped = { type, fields: { [query]: 'a.b', [pos]: 'list[].t', negative: 'n' } }
    const record = { a: { b: '查询的文字' }, list: [{ t: text(0) }, { t: text(1) }], n: [text(2)] }
    expect((await run('a.jsonl', lines(record), { extract: mapped })).rows).toMatchObject([
      { query: '查询的文字', pos: [text(0), text(1)], neg: [text(2)] },
    ])
  })

  it('paths: one of a list, numbers, names with dots, a list of strings', async () => {
    const extract = { type: 'title-body', fields: { title: 'a.b', body: 'list[1]' } }
    expect(await pairs('a.jsonl', lines({ 'a.b': 2024, list: ['第一个', text(0)] }), { extract })).toEqual([`2024|${text(0)}|a.jsonl:1`])
    const all = { type: 'title-body', fields: { body: 'list' } }
    expect(await pairs('a.jsonl', lines({ title: '标题', list: [text(0), text(1)] }), { extract: all })).toEqual([
      `标题|${text(0)}+${text(1)}|a.jsonl:1`,
    ])
  })

  it('where: values, text of numbers, ranges, exclusions, missing fields; rejected records are counted', async () => {
    const rows = [
      { title: '留下的一', body: text(0), star: '3', lang: 'zh', bad: null },
      { title: '语言不对', body: text(1), star: 5, lang: 'en' },
      { title: '分数太低', body: text(2), star: 1, lang: 'zh' },
      { title: '没有分数', body: text(3), lang: 'zh' },
      { title: '排除的', body: text(4), star: 9, lang: 'zh', bad: true },
    ]
    const { rows: kept, tally } = await run('a.jsonl', lines(...rows), {
      ...titleBody,
      where: { star: { min: 3 }, lang: ['zh', 'yue'], bad: { not: [true] } },
    })
    expect(kept.map(({ query }) => query)).toEqual(['留下的一'])
    expect(tally).toMatchObject({ read: 5, extracted: 1, kept: 1 })
    expect(tally.dropped['where']!.samples.map((sample) => sample.text)).toEqual(['lang: ["en"]', 'star: [1]', 'star: []', 'bad: [true]'])
  })

  it('unnest gives entries the fields around them', async () => {
    const record = { title: '外面的标题', parts: [{ list: [{ body: text(0) }, { title: '自己的标题', body: text(1) }] }, { list: [] }] }
    expect(await pairs('a.jsonl', lines(record), { ...titleBody, unnest: ['parts', 'list'] })).toEqual([
      `外面的标题|${text(0)}|a.jsonl:1`,
      `自己的标题|${text(1)}|a.jsonl:1`,
    ])
    const { tally } = await run('a.jsonl', lines(record, { title: '没有', parts: [] }), { ...titleBody, unnest: ['parts', 'list'] })
    expect(tally.dropped['unnest']).toMatchObject({ count: 1, samples: [{ at: 'a.jsonl:2' }] })
  })

  const judged = (group: 'adjacent' | 'all'): Record<string, unknown> => ({
    extract: { type: 'nli', label: 'label', positive: 1, negative: { max: 0 }, groupBy: 'premise', group },
  })
  const judgments = lines(
    { premise: '第一个前提', hypothesis: '它的正例', label: 1 },
    { premise: '第一个前提', hypothesis: '它的反例', label: 0 },
    { premise: '第二个前提', hypothesis: '只有反例', label: 0 },
    { premise: '第一个前提', hypothesis: '后来的正例', label: '1' },
    { premise: '第三个前提', hypothesis: '没有判断', label: null },
  )
  it('labels and groups: adjacent records, or all of the file', async () => {
    const near = await run('a.jsonl', judgments, judged('adjacent'))
    expect(near.rows.map(({ query, pos, neg, at }) => [query, pos, neg, at])).toEqual([
      ['第一个前提', ['它的正例'], ['它的反例'], 'a.jsonl:1'],
      ['第一个前提', ['后来的正例'], [], 'a.jsonl:4'],
    ])
    const { rows, tally } = await run('a.jsonl', judgments, judged('all'))
    expect(rows.map(({ query, pos, neg }) => [query, pos, neg])).toEqual([['第一个前提', ['它的正例', '后来的正例'], ['它的反例']]])
    expect(tally.dropped).toMatchObject({
      'no-positive': { count: 1, samples: [{ text: '第二个前提' }] },
      label: { count: 1, samples: [{ text: '[]' }] },
    })
  })

  it('a field that is in no record is an error, one that is empty in some is counted', async () => {
    await expect(run('a.jsonl', lines({ titel: 'a', body: 'b' }))).rejects.toMatchObject(
      wrong(/a\.jsonl: no record has the field title \(title of source one\); the first has titel, body/),
    )
    const { rows, tally } = await run('a.jsonl', lines({ title: ' ', body: text(0) }, { title: '标题', body: text(1) }))
    expect(rows).toHaveLength(1)
    expect(tally.dropped['missing']).toEqual({ count: 1, samples: [{ at: 'a.jsonl:1', text: 'title (title)' }] })
  })

  it('a passage is once among the positives, and no negative is a positive or the query', async () => {
    const record = { query: '同样的问题', pos: [text(0), `${text(0)} `, text(1)], neg: [text(1), '同样的问题！', text(2)] }
    const { rows, tally } = await run('a.jsonl', lines(record), {
      extract: { type: 'query-passage', fields: { passage: 'pos', negative: 'neg' } },
    })
    expect(rows).toMatchObject([{ pos: [text(0), text(1)], neg: [text(2)] }])
    expect(rows[0]!.posIds).toHaveLength(2)
    expect(tally.changed['repeatedPassages']!.count).toBe(1)
  })
})

describe('join', () => {
  const source = (more: Record<string, unknown> = {}): Record<string, unknown> => ({
    columns: ['q', 'p'],
    join: [
      { files: ['q.tsv'], columns: ['id', 'text'], key: 'id', on: 'q', fields: { text: 'query' } },
      { files: ['p.jsonl.gz'], key: 'doc.id', on: 'p', fields: { body: 'passage' }, ...more },
    ],
    extract: { type: 'query-passage', groupBy: 'q' },
  })

  it('thousands of records through the index, ids of another type, a list of texts', async () => {
    place.write('q.tsv', Array.from({ length: 3000 }, (_, i) => `${i}\t问题${i}号`).join('\n'))
    const passages = Array.from({ length: 5000 }, (_, i) => JSON.stringify({ doc: { id: i }, body: [`第${i}段的内容`, `第${i}段的补充`] }))
    place.write('p.jsonl.gz', gzipSync(passages.join('\n')))
    const { rows, tally } = await run('a.tsv', Array.from({ length: 3000 }, (_, i) => `${i}\t${4999 - i}`).join('\n'), source())
    expect(tally).toMatchObject({ read: 3000, kept: 3000, dropped: {} })
    for (const i of [0, 1, 777, 2999])
      expect(rows[i]).toMatchObject({ query: `问题${i}号`, pos: [`第${4999 - i}段的内容`, `第${4999 - i}段的补充`] })
  })

  it('of two records with one id the first stays and the other is counted; a missing key is an error', async () => {
    place.write('q.tsv', '1\t一个问题\n')
    place.write('p.jsonl.gz', gzipSync('{"doc":{"id":"a"},"body":"第一份内容"}\n{"doc":{"id":"a"},"body":"第二份内容"}\n'))
    const { rows, tally } = await run('a.tsv', '1\ta\n', source())
    expect(rows).toMatchObject([{ pos: ['第一份内容'] }])
    expect(tally.dropped['duplicate-id']).toMatchObject({ count: 1, samples: [{ text: 'a' }] })
    await expect(run('a.tsv', '1\ta\n', source({ key: 'doc.key' }))).rejects.toMatchObject(
      wrong(/p\.jsonl\.gz:1: field doc\.key expected an id, but was missing/),
    )
  })
})

describe('cleanSource', () => {
  const recipe = {
    name: 'r',
    sources: [
      {
        name: 's',
        files: ['s.tsv'],
        columns: ['q', 'p'],
        join: [{ files: ['s-texts.tsv'], columns: ['id', 'text'], key: 'id', on: 'p', fields: { text: 'passage' } }],
        extract: { type: 'query-passage', fields: { query: 'q' } },
        licence: 'test',
      },
    ],
  }
  const open = async () => {
    place.write('s.tsv', Array.from({ length: 100 }, (_, i) => `问题${i}号\t${i}`).join('\n'))
    place.write('s-texts.tsv', Array.from({ length: 100 }, (_, i) => `${i}\t第${i}个回答`).join('\n'))
    const { sources, root } = await readRecipe(place.write('s.json', JSON.stringify(recipe)))
    const tempDir = join(place.folder, 'temp')
    mkdirSync(tempDir, { recursive: true })
    return {
      source: sources[0]!,
      file: place.write('s.tsv', Array.from({ length: 100 }, (_, i) => `问题${i}号\t${i}`).join('\n')),
      root,
      tempDir,
    }
  }

  it('waits for the sink, row by row, and removes the files of its joins', async () => {
    const { source, file, root, tempDir } = await open()
    const seen: string[] = []
    let busy = 0
    await cleanSource(
      source,
      file,
      source.clean,
      async ({ query }) => {
        expect(++busy).toBe(1)
        expect(readdirSync(tempDir)).toHaveLength(1)
        await new Promise((done) => setImmediate(done))
        seen.push(query)
        busy--
      },
      emptyTally(),
      { root, tempDir },
    )
    expect(seen).toEqual(Array.from({ length: 100 }, (_, i) => `问题${i}号`))
    expect(readdirSync(tempDir)).toEqual([])
  })

  it('stops at the signal and at an error of the sink', async () => {
    const { source, file, root, tempDir } = await open()
    const run = (sink: () => void, signal?: AbortSignal): Promise<void> =>
      cleanSource(source, file, source.clean, sink, emptyTally(), { root, tempDir, ...(signal && { signal }) })
    await expect(run(() => {}, AbortSignal.abort())).rejects.toMatchObject({ name: 'AbortError' })
    const full = new Error('the disk is full')
    await expect(
      run(() => {
        throw full
      }),
    ).rejects.toBe(full)
    expect(readdirSync(tempDir)).toEqual([])
  })

  it('names rows by their file below the root, wherever the root is', async () => {
    const { source, file, root, tempDir } = await open()
    const names: string[] = []
    await cleanSource(source, file, source.clean, ({ at }) => void names.push(at), emptyTally(), { root, tempDir })
    expect(names[0]).toBe('s.tsv:1')
  })
})
