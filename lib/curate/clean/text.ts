import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { BgeError } from '../../errors.js'
import type { CleanSettings } from '../recipe.js'
import { boilerplateRemover } from './boilerplate.js'
import { stripMarkup } from './markup.js'
import { maskPersonal } from './personal.js'

/** Rules that change a text; the names are keys of CleanSettings, but for `space` and `passageLength` (cut). */
export type ChangeRule = 'html' | 'unicode' | 'fullWidth' | 'script' | 'controls' | 'space' | 'boilerplate' | 'personal' | 'passageLength'

export interface Change {
  readonly rule: ChangeRule
  readonly before: string
  readonly after: string
}

export interface CleanText {
  readonly text: string
  /** what each rule that changed it did first, in order */
  readonly changes: readonly Change[]
}

/** Cleans one text. Twice is the same as once. A query is one line. */
export type TextCleaner = (text: string, role: 'query' | 'passage') => CleanText

interface Step {
  readonly rule: ChangeRule
  readonly apply: (text: string, role: 'query' | 'passage') => string
  /** its result may be what an earlier step looks for: the steps run again after a change */
  readonly again?: true
}

const NONE: readonly Change[] = []

/** Passes after which a text counts as settled; none needs more than 3 (property test in curate-clean.test.ts). */
const PASSES = 8

/** Compiles the rules of a recipe that change texts. */
export async function textCleaner(clean: CleanSettings): Promise<TextCleaner> {
  const steps: Step[] = []
  if (clean.html === 'strip') steps.push({ rule: 'html', apply: stripMarkup, again: true })
  if (clean.unicode !== 'keep') {
    const form = clean.unicode === 'nfc' ? 'NFC' : 'NFKC'
    steps.push({ rule: 'unicode', apply: (text) => text.normalize(form), again: true })
  }
  if (clean.fullWidth === 'fold') steps.push({ rule: 'fullWidth', apply: foldFullWidth, again: true })
  if (clean.script === 'simplified') steps.push({ rule: 'script', apply: await simplifier(), again: true })
  if (clean.controls === 'remove') steps.push({ rule: 'controls', apply: removeControls, again: true })
  steps.push({ rule: 'space', apply: foldSpace })
  if (clean.boilerplate === 'remove') {
    const remove = boilerplateRemover(clean.boilerplateLines)
    steps.push({ rule: 'boilerplate', apply: remove, again: true })
  }
  if (clean.personal === 'mask') steps.push({ rule: 'personal', apply: maskPersonal, again: true })
  if (clean.tooLong === 'cut') {
    const { max } = clean.passageLength
    steps.push({ rule: 'passageLength', apply: (text, role) => (role === 'passage' ? cut(text, max) : text), again: true })
  }
  return (given, role) => {
    let text = given
    let changes = NONE
    for (let pass = 0; pass < PASSES; pass++) {
      let again = false
      for (const { rule, apply, again: repeats } of steps) {
        const after = apply(text, role)
        if (after === text) continue
        if (!changes.some((one) => one.rule === rule)) changes = [...changes, { rule, before: text, after }]
        text = after
        if (repeats) again = true
      }
      if (!again) break
    }
    return { text, changes }
  }
}

/** Full-width letters, digits and the full-width space to ASCII; punctuation stays, it is Chinese writing. */
function foldFullWidth(text: string): string {
  return text.replace(/[０-９Ａ-Ｚａ-ｚ]/g, (letter) => String.fromCharCode(letter.charCodeAt(0) - 0xfee0))
}

let converter: Promise<(text: string) => string> | undefined

/** Traditional to simplified Chinese by the dictionaries of OpenCC (t2s). */
function simplifier(): Promise<(text: string) => string> {
  converter ??= import('opencc-js/t2cn').then(({ Converter }) => Converter({ from: 't', to: 'cn' }))
  return converter
}

/** Tab, LF, CR and what else ends a line (VT, FF, NEL, LS, PS) are not among them: foldSpace turns those into spaces and LF. */
const INVISIBLE: string = [
  String.raw`\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f`, // C0 and C1
  String.raw`\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0`, // soft hyphen, joiners, fillers
  String.raw`\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb`, // zero width, direction, invisible operators, byte-order mark
  String.raw`\ufe00-\ufe0f`, // variation selectors
  String.raw`\ue000-\uf8ff\ufdd0-\ufdef\ufffc-\uffff`, // private use, non-characters, U+FFFD of a broken decoding
].join('')
const CONTROLS = new RegExp(String.raw`[${INVISIBLE}\u{e0000}-\u{e0fff}\u{f0000}-\u{10ffff}]|\p{Cs}`, 'gu')
/** Those and any surrogate, without the u flag: several times as fast, and true of few texts. */
const TRACE = new RegExp(String.raw`[${INVISIBLE}\ud800-\udfff]`)

function removeControls(text: string): string {
  return TRACE.test(text) ? text.replace(CONTROLS, '') : text
}

// Most lines need nothing: no space but single ones between two other characters.
const UNTIDY = /[\t\r\v\f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]| {2}| \n|\n[ \n]|^[ \n]|[ \n]$/

const BREAK = /[\n\r\v\f\x85\u2028\u2029]/

/** One kind of space and of line break, no space at the ends of lines, no blank lines; a query is one line. */
function foldSpace(text: string, role: 'query' | 'passage'): string {
  if (role === 'query' && BREAK.test(text)) return text.replaceAll(/[\s\x85]+/g, ' ').trim()
  if (!UNTIDY.test(text)) return text
  return text
    .replaceAll(/\r\n?|[\v\f\x85\u2028\u2029]/g, '\n')
    .replaceAll(/[^\S\n]+/g, ' ')
    .replaceAll(/ ?\n[ \n]*/g, '\n')
    .trim()
}

/** At most `max` characters, at the end of a sentence where one is in the second half, never inside a surrogate pair. */
function cut(text: string, max: number): string {
  if (text.length <= max) return text
  const head = text.slice(0, max).replace(/[\ud800-\udbff]$/, '')
  const end = /^[\s\S]*[。！？；!?;\n]["”’」』）)]*/.exec(head)?.[0].length ?? 0
  return (end > max / 2 ? head.slice(0, end) : head).trimEnd()
}

/** The blocked words of a recipe: those in it and those in its files, one a line. Throws ERR_BGE_FILE. */
export async function blockedWords(clean: CleanSettings, root: string): Promise<string[]> {
  const words = [...clean.blockedWords]
  for (const name of clean.blockedFiles) {
    const file = resolve(root, name)
    const text = await readFile(file, 'utf8').catch((cause: unknown) => {
      throw new BgeError('ERR_BGE_FILE', `${file} (clean.blockedFiles) cannot be read: ${(cause as Error).message}`, { cause })
    })
    words.push(...text.replace(/^\uFEFF/, '').split(/\r?\n/))
  }
  return words.map((word) => word.trim()).filter((word) => word !== '')
}
