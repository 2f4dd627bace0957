import { type Random, random } from '../../lib/data/random.js'
import { editCharacters, respell, swapSentences } from '../../test/support/corpus.js'

export interface Pair {
  readonly query: string
  readonly pos: readonly [string]
  readonly source: string
}

/** What was done to a row. `exact` and `near` are added rows; the others are rows of the originals that were changed in place. */
export type Kind = 'intact' | 'exact' | 'near' | 'mismatched' | 'lines' | 'glued' | 'markup' | 'dead' | 'personal'

export interface DirtyRow {
  readonly pair: Pair
  readonly kind: Kind
  /** index of the original row; a copy has the index of what it is a copy of */
  readonly origin: number
  /** lines, glued, personal: what must not be in the text any more */
  readonly added?: readonly string[]
}

/** Shares of the number of original rows. Copies: four of each row that is copied. */
export const SHARES: Readonly<Record<Exclude<Kind, 'intact'>, number>> = {
  exact: 0.1,
  near: 0.1,
  mismatched: 0.15,
  lines: 0.05,
  glued: 0.03,
  markup: 0.05,
  dead: 0.02,
  personal: 0.03,
}
const COPIES = 4

/** The dirtied set: a function of the rows and the seed. A row has one fault at most; copied rows have none. */
export function dirty(originals: readonly Pair[], seed: number): DirtyRow[] {
  const draw = random(seed, 'dirt')
  const order = draw.shuffle([...originals.keys()])
  let next = 0
  const take = (share: number): number[] => order.slice(next, (next += Math.round(share * originals.length)))
  const rows: DirtyRow[] = []
  const change = (kind: Kind, origin: number, passage: string, added?: readonly string[]): void => {
    rows.push({ pair: { ...originals[origin]!, pos: [passage] }, kind, origin, ...(added && { added }) })
  }
  const passageOf = (origin: number): string => originals[origin]!.pos[0]

  for (const kind of ['exact', 'near'] as const) {
    for (const origin of take(SHARES[kind] / COPIES)) {
      change('intact', origin, passageOf(origin))
      for (let i = 0; i < COPIES; i++) {
        const edited =
          kind === 'exact' ? (draw.chance(0.5) ? passageOf(origin) : respell(passageOf(origin), draw)) : retold(passageOf(origin), draw)
        change(kind, origin, edited)
      }
    }
  }
  const bySource = new Map<string, number[]>()
  for (const origin of take(SHARES.mismatched)) {
    const { source } = originals[origin]!
    bySource.set(source, [...(bySource.get(source) ?? []), origin])
  }
  for (const group of bySource.values()) {
    // Every query gets the passage of the next row of its source, as when two columns have slipped.
    for (const [i, origin] of group.entries()) {
      const other = passageOf(group[(i + 1) % group.length]!)
      change(other === passageOf(origin) ? 'intact' : 'mismatched', origin, other)
    }
  }
  for (const kind of ['lines', 'glued'] as const) {
    for (const origin of take(SHARES[kind])) {
      const [head, tail] = [draw.sample(HEAD, 3 + draw.int(2)), draw.sample(TAIL, 2 + draw.int(2))]
      const passage = [...head, passageOf(origin), ...tail].join(kind === 'lines' ? '\n' : ' ')
      change(kind, origin, passage, [...head, ...tail])
    }
  }
  for (const origin of take(SHARES.markup)) change('markup', origin, marked(passageOf(origin), draw))
  for (const origin of take(SHARES.dead)) change('dead', origin, one(DEAD, draw))
  for (const origin of take(SHARES.personal)) {
    const data = personalData(draw)
    change('personal', origin, `${passageOf(origin)}\n${one(['联系人：王先生 ', '详情请咨询 ', '本人联系方式：'], draw)}${data}`, [data])
  }
  for (const origin of order.slice(next)) change('intact', origin, passageOf(origin))
  return draw.shuffle(rows)
}

function one<T>(values: readonly T[], draw: Random): T {
  return values[draw.int(values.length)]!
}

/** The same text after another editor: 2 % of the characters, or the order of two sentences. */
function retold(passage: string, draw: Random): string {
  return draw.chance(0.7) ? editCharacters(passage, 0.02, draw) : swapSentences(passage, draw)
}

// What crawled pages look like. The rules of cleaning were there first, and were not changed for these lines.
/** Lines of a page before the text, and after it. `glued`: what is left of them where an extractor has lost the line breaks. */
const HEAD = [
  '首页 > 资讯 > 正文',
  '您现在的位置：网站首页 >> 新闻中心 >> 正文',
  '登录 | 注册 | 帮助中心 | 手机版',
  '新闻 体育 财经 娱乐 科技 汽车 房产 教育',
  '来源：网络整理 作者：佚名 发布时间：2021-03-05 10:22',
  '字号：大 中 小',
  '点击上方蓝字关注我们',
  '热搜：减肥 高考 房价 天气',
  '阅读(1234) 评论(56) 收藏 举报',
  '温馨提示：本文约2000字，阅读需要5分钟',
]
const TAIL = [
  '上一篇：没有了',
  '下一篇：这些事情你知道吗',
  '分享到：微信 微博 QQ空间',
  '版权所有 未经授权不得转载',
  '本站部分内容来源于网络，如有侵权请联系我们删除',
  '扫一扫关注官方公众号',
  'Copyright © 2008-2023 All Rights Reserved',
  '以上就是小编为大家整理的全部内容，希望对您有所帮助！',
  '更多精彩内容请下载客户端',
  '相关推荐',
  '责任编辑：小李',
  '觉得不错就点个在看吧',
]

/** Remains of HTML: elements, comments, scripts, entities, or tags that were escaped. */
function marked(passage: string, draw: Random): string {
  const spaced = passage.replaceAll('。', '。&nbsp;')
  return [
    `<div class="article-content"><p style="text-indent:2em">${spaced}</p><script>var _hmt = _hmt || [];</script></div>`,
    `<!-- content start --><span style="font-size:14px;line-height:1.8">${spaced}</span><br/><a href="https://example.com/?id=7">查看更多</a>`,
    `<table width="100%"><tr><td><img src="/upload/1.jpg" alt=""/>${spaced}</td></tr></table>`,
    `&lt;p class=&quot;content&quot;&gt;${passage}&lt;/p&gt;`,
  ][draw.int(4)]!
}

/** What a page says instead of its text. */
const DEAD = [
  '抱歉，您访问的页面不存在或已被删除，3秒后自动返回首页',
  '请先登录后再查看全文内容',
  '您的浏览器版本过低，请升级浏览器后访问本站',
  '加载中，请稍候……',
  '该内容暂时无法显示，请稍后重试',
]

function personalData(draw: Random): string {
  const digits = (count: number): string => Array.from({ length: count }, () => draw.int(10)).join('')
  const mobile = `1${3 + draw.int(7)}${digits(9)}`
  return [
    mobile,
    `${mobile.slice(0, 3)} ${mobile.slice(3, 7)} ${mobile.slice(7)}`,
    `0${1 + draw.int(9)}${digits(2)}-8${digits(6)}`,
    `user${digits(5)}@example.com`,
    residentId(draw),
    `QQ：8${digits(8)}`,
  ][draw.int(6)]!
}

/** GB 11643: region, date of birth, order, check digit of ISO 7064 MOD 11-2. */
function residentId(draw: Random): string {
  const two = (value: number): string => String(value).padStart(2, '0')
  const body = `110101${1950 + draw.int(50)}${two(1 + draw.int(12))}${two(1 + draw.int(28))}${draw.int(900) + 100}`
  let sum = 0
  for (let i = 0; i < 17; i++) sum += Number(body[i]) * (2 ** (17 - i) % 11)
  return body + '10X98765432'[sum % 11]
}
