import { Parser } from 'htmlparser2'
import { BgeError } from '../../errors.js'
import { readWhole, withoutMark } from './lines.js'
import { outline } from './sections.js'
import type { SourceRecord } from './records.js'

/** Parts of a page that are not its text. */
const SKIPPED = new Set('script style noscript template nav aside form button select option iframe svg canvas video audio'.split(' '))

/** Elements that stand inside a line of text; every other one ends it. */
const INLINE = new Set(
  'a abbr b bdi bdo cite code del dfn em font i ins kbd label mark q rp rt ruby s samp small span strike strong sub sup time tt u var wbr'.split(
    ' ',
  ),
)

/**
 * An HTML page as one record: {title, pageTitle, description, text, sections: [{subtitle, passage, level}]}. The title is the first h1,
 * else the page's. Scripts, navigation, headers, footers, sidebars and forms are left out. Read as the encoding that the page declares,
 * UTF-8 where it declares none.
 */
export async function* readHtml(file: string): AsyncGenerator<SourceRecord[]> {
  const source = decodePage(file, await readWhole(file))
  const parts = outline()
  let skipping = 0
  let level = 0
  let inTitle = false
  let pageTitle = ''
  let description: string | undefined
  let line = ''
  // The header of an article holds its title; that of the page is navigation.
  let inArticle = 0
  const skips = (name: string): boolean => SKIPPED.has(name) || (inArticle === 0 && (name === 'header' || name === 'footer'))
  const flush = (): void => {
    const text = line.replaceAll(/\s+/g, ' ').trim()
    line = ''
    if (level > 0) parts.heading(level, text)
    else parts.block(text)
  }
  const parser = new Parser(
    {
      onopentag(name, attributes) {
        if (name === 'article' || name === 'main') inArticle++
        if (skips(name)) skipping++
        if (skipping > 0) return
        if (name === 'title' && pageTitle === '') inTitle = true
        if (name === 'meta' && attributes['name']?.toLowerCase() === 'description') description ??= attributes['content']
        if (INLINE.has(name)) return
        if (level === 0) flush()
        else line += ' '
        const heading = /^h([1-6])$/.exec(name)
        if (heading) level = Number(heading[1])
      },
      ontext(text) {
        if (inTitle) pageTitle += text
        else if (skipping === 0) line += text
      },
      onclosetag(name) {
        if (name === 'article' || name === 'main') inArticle--
        if (skips(name)) skipping--
        if (name === 'title') inTitle = false
        if (skipping > 0 || INLINE.has(name)) return
        if (level === 0 || /^h[1-6]$/.test(name)) {
          flush()
          level = 0
        }
      },
    },
    { decodeEntities: true },
  )
  parser.end(source)
  flush()
  const { title, text, sections } = parts.end()
  pageTitle = pageTitle.replaceAll(/\s+/g, ' ').trim()
  yield [{ line: 1, value: { title: title ?? pageTitle, pageTitle, description, text, sections } }]
}

function decodePage(file: string, bytes: Buffer): string {
  const declared = /<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]+)/i.exec(bytes.subarray(0, 4096).toString('latin1'))?.[1]
  const encoding = bytes[0] === 0xef && bytes[1] === 0xbb ? 'utf-8' : (declared ?? 'utf-8')
  let decoder: InstanceType<typeof TextDecoder>
  try {
    decoder = new TextDecoder(encoding, { fatal: true })
  } catch (cause) {
    throw new BgeError('ERR_BGE_DATA', `${file}:1: expected an encoding that is known, but the page declares ${encoding}`, { cause })
  }
  try {
    return decoder.decode(withoutMark(file, bytes))
  } catch (cause) {
    const said = declared === undefined ? 'it declares no encoding, and is not UTF-8' : `it is not the ${declared} that it declares`
    throw new BgeError('ERR_BGE_DATA', `${file}:1: expected a page in the encoding it declares, but ${said}`, { cause })
  }
}
