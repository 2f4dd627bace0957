import { Parser } from 'htmlparser2'

// Known names only, and attributes with a value after names of one letter: `a<b and c>d` in a text is no tag.
const BLOCK =
  'address|article|aside|blockquote|body|br|center|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|head|header|hr|html|li|main|nav|ol|option|pre|section|select|table|tbody|td|tfoot|th|thead|title|tr|ul'
const INLINE =
  'abbr|acronym|audio|big|button|canvas|cite|code|del|dfn|embed|em|font|iframe|img|input|ins|kbd|label|link|mark|meta|object|param|rp|rt|ruby|samp|small|source|span|strike|strong|sub|sup|textarea|tt|var|video|wbr'
const tag = (names: string): RegExp => new RegExp(`</?(?:${names})(?:[\\s/][^<>]{0,2000})?>`, 'gi')
const BLOCK_TAG = tag(BLOCK)
const INLINE_TAG = tag(INLINE)
const SHORT = (name: string): RegExp => new RegExp(`</?${name}(?:\\s[^<>=]{0,200}=[^<>]{0,2000})?\\s*/?>`, 'gi')
const PARAGRAPH_TAG = SHORT('p')
const LETTER_TAG = SHORT('[abiqsu]')
const HIDDEN =
  /<!--[\s\S]*?-->|<(script|style|noscript|template)\b[^<>]*>[\s\S]*?<\/\1\s*>|<\/?(?:script|style|noscript|template)\b[^<>]*>|<!doctype[^<>]*>|<!\[CDATA\[|\]\]>/gi
const ENTITY = /&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[a-zA-Z][a-zA-Z\d]{1,31});/g

/** A text without tags, comments, scripts and styles (a block element ends the line) and with its entities decoded, also doubly escaped ones. */
export function stripMarkup(text: string): string {
  let now = text
  for (;;) {
    const before = now
    if (now.includes('<')) now = withoutTags(now)
    if (now.includes('&')) now = now.replace(ENTITY, decoded)
    // Every change makes the text shorter, or a tag into a line break, so this ends.
    if (now === before) return now
  }
}

function withoutTags(text: string): string {
  return text.replace(HIDDEN, '').replace(BLOCK_TAG, '\n').replace(PARAGRAPH_TAG, '\n').replace(INLINE_TAG, '').replace(LETTER_TAG, '')
}

const known = new Map<string, string>()

/** The characters of an entity by the HTML standard's table; what is no entity of it stays. */
function decoded(entity: string): string {
  const found = known.get(entity)
  if (found !== undefined) return found
  let text = ''
  const parser = new Parser({ ontext: (part) => (text += part) }, { decodeEntities: true })
  parser.end(entity)
  if (known.size < 10_000) known.set(entity, text)
  return text
}
