import { invalidArgument } from '../errors.js'

/** The query instructions of the released BGE models: put before a query, never before a passage (FlagEmbedding README, C-Pack section 3). */
export const instructions: Readonly<Record<'zh' | 'en', string>> = {
  zh: '为这个句子生成表示以用于检索相关文章：',
  en: 'Represent this sentence for searching relevant passages: ',
}

/** 'zh' and 'en' name BGE's instructions; any other string is the instruction itself; undefined is none. */
export function resolveInstruction(value: string | undefined): string {
  if (value === undefined) return ''
  if (typeof value !== 'string') throw invalidArgument('instruction', "a string, 'zh' or 'en'", value)
  return value === 'zh' || value === 'en' ? instructions[value] : value
}
