import { afterAll, describe, expect, it } from 'vitest'
import { random } from '../lib/data/random.js'
import { blockedFinder } from '../lib/curate/clean/blocked.js'
import { boilerplateRemover } from '../lib/curate/clean/boilerplate.js'
import { isResidentId, maskPersonal } from '../lib/curate/clean/personal.js'
import { countCharacters, NGRAM, repeatedLineShare, repeatedNgramShare } from '../lib/curate/clean/shares.js'
import { textCleaner } from '../lib/curate/clean/text.js'
import { type CleanSettings, readRecipe } from '../lib/curate/recipe.js'
import { addTally, countLength, emptyTally, LENGTH_BOUNDS } from '../lib/curate/tally.js'
import { runFile, scratch } from './support/curate.js'

const place = scratch()
afterAll(() => place.remove())

async function settings(clean: Record<string, unknown> = {}): Promise<CleanSettings> {
  const source = { name: 'a', files: ['a.jsonl'], extract: { type: 'title-body' }, licence: 'test' }
  return (await readRecipe(place.write('settings.json', JSON.stringify({ name: 'r', clean, sources: [source] })))).clean
}
const cleaned = async (text: string, clean: Record<string, unknown> = {}, role: 'query' | 'passage' = 'passage'): Promise<string> =>
  (await textCleaner(await settings(clean)))(text, role).text

/** Rows of one record, and the rule that dropped it. */
async function judged(query: string, passage: string, clean: Record<string, unknown> = {}): Promise<string> {
  const { rows, tally } = await runFile(
    place,
    'a.jsonl',
    JSON.stringify({ title: query, body: passage }),
    { extract: { type: 'title-body' } },
    clean,
  )
  return rows.length === 1 ? 'kept' : Object.keys(tally.dropped).join()
}

const BODY = '春天来了，公园里的桃花都开了，孩子们在草地上放风筝。'

// Resident ids made for this test: area, date, serial, and the check digit of GB 11643.
const withCheck = (digits: string): string => {
  const weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
  return digits + '10X98765432'[weights.reduce((sum, weight, i) => sum + weight * Number(digits[i]), 0) % 11]
}
const ID = withCheck('11010119900307123')

describe('rules that change a text', () => {
  it.each([
    ['html', '<p>第一段&nbsp;文字</p><p>第二段<br/>换行</p>', '第一段 文字\n第二段\n换行'],
    ['html: entities twice escaped', 'AT&amp;amp;T &#20013;&#x6587; &hellip;', 'AT&T 中文 …'],
    ['html: comments, scripts, styles', '前<!-- 注释 --><script>var a = "<b>"</script><STYLE>p{}</STYLE>后', '前后'],
    ['html: escaped tags', '&lt;b&gt;粗体&lt;/b&gt;文字', '粗体文字'],
    ['html: attributes', '<a href="https://example.org" target=_blank>链接</a>和<img src="x.png"/>图', '链接和图'],
    [
      'no html: comparisons',
      '如果 a<b 且 c>d，那么 x < y && y > z，if a<b and c>d',
      '如果 a<b 且 c>d，那么 x < y && y > z，if a<b and c>d',
    ],
    ['no html: generics, unknown names', 'List<String> 和 <未知>，R&D，&foo; 不变', 'List<String> 和 <未知>，R&D，&foo; 不变'],
    ['unicode: combined', 'cafe\u0301 ぱ', 'café ぱ'],
    ['unicode: width stays', 'ＡＢＣ１２３，①', 'ＡＢＣ１２３，①'],
    ['controls', '零\u200b宽\u00ad字\ufeff符\u0007\u202e\ufffd\ue000', '零宽字符'],
    ['controls: lone surrogates go, emoji stay', '表\ud83d情😀👍🏽\udc00', '表情😀👍🏽'],
    ['space', '  一\u3000\u00a0二\t三 \r\n\r\n  \u2028四  ', '一 二 三\n四'],
  ])('%s', async (_, text, expected) => {
    expect(await cleaned(text)).toBe(expected)
  })

  it.each([
    ['nfkc', { unicode: 'nfkc' }, 'ＡＢＣ，①㈠', 'ABC,1(一)'],
    ['full-width letters and digits, not punctuation', { fullWidth: 'fold' }, 'ＢＧＥ　２０２４，（一）', 'BGE 2024，（一）'],
    ['traditional to simplified, by phrases', { script: 'simplified' }, '頭髮發現後，乾隆皇帝乾杯', '头发发现后，乾隆皇帝干杯'],
    ['html kept', { html: 'keep' }, '<b>粗</b>&amp;', '<b>粗</b>&amp;'],
    ['controls kept', { controls: 'keep' }, '零\u200b宽', '零\u200b宽'],
    ['unicode kept', { unicode: 'keep' }, 'cafe\u0301', 'cafe\u0301'],
    ['full-width mark of an entity', { unicode: 'nfkc' }, '＆ｌｔ；ｂ＆ｇｔ；粗体', '粗体'],
  ])('%s', async (_, clean, text, expected) => {
    expect(await cleaned(text, clean)).toBe(expected)
  })

  it('a query is one line', async () => {
    expect(await cleaned(' 第一行\n\n第二行 <br> 第三行', {}, 'query')).toBe('第一行 第二行 第三行')
  })

  it.each([
    ['at the end of a sentence', '第一句话说完了。第二句话也说完了。第三句很长很长很长', 20, '第一句话说完了。第二句话也说完了。'],
    ['where no sentence ends in the second half', '短。一直不停地说下去说下去说下去说下去', 12, '短。一直不停地说下去说下'],
    ['with the closing quote', '他说：“走吧。”然后大家就一起出发去了很远的地方', 10, '他说：“走吧。”'],
    ['not inside of a pair', '一二三四五六七八九😀十', 10, '一二三四五六七八九'],
  ])('a passage is cut %s', async (_, text, max, expected) => {
    expect(await cleaned(text, { passageLength: { max } })).toBe(expected)
  })
})

describe('boilerplate', () => {
  const remove = boilerplateRemover([])
  it.each([
    '首页 > 新闻 > 国内新闻 > 正文',
    '您现在的位置：首页 > 教育频道',
    '新闻 | 体育 | 财经 | 娱乐 | 科技',
    '返回顶部',
    '阅读全文',
    '上一篇：春天的故事',
    '责任编辑：李某某',
    '来源：某某日报 2020-01-02 10:00',
    '分享到：微信 微博 QQ空间',
    '扫一扫关注我们的微信公众号',
    '版权所有 © 2020 某某网 未经授权禁止转载',
    '京ICP备12345678号-1',
    '关于我们 | 联系我们 | 隐私政策',
    '共 12 页',
    '**********',
    'Copyright 2020 Example Inc.',
    '字号：大 中 小',
    '点击上方蓝字关注我们',
    '以上就是小编为大家整理的全部内容，希望对你有帮助',
    '阅读(1234) 评论(56)',
    '觉得不错就点个在看吧',
  ])('the line %j goes', (line) => {
    expect(remove(`${BODY}\n${line}\n${BODY}`)).toBe(`${BODY}\n${BODY}`)
  })

  it.each([
    '作者在首页上写了很长的一段话，介绍他怎样走进编辑部。',
    '怎么关注微信公众号',
    '大于号 > 的用法',
    '1. 经营许可证：由港口管理局颁发，是经营外贸货物的必备证书。',
    '我来说两句话：第一句是谢谢，第二句是再见。',
    '登录以后点击右上角的头像，再点击退出。',
    '苹果|香蕉',
  ])('the text %j stays', (text) => {
    expect(remove(text)).toBe(text)
  })

  it.each(['4. 如果想用微信扫码付款，可以先下载微信客户端', '2、拨打举报电话：12345', '（3）您是怎样扫描到那个二维码的？'])(
    'the item %j stays',
    (line) => {
      expect(remove(`${BODY}\n${line}\n${BODY}`)).toBe(`${BODY}\n${line}\n${BODY}`)
    },
  )

  it('lines that the user names, as a whole', async () => {
    expect(boilerplateRemover(['本文共\\d+字', '——.*'])('一段话\n本文共800字\n——完\n本文共800字，很长')).toBe('一段话\n本文共800字，很长')
    expect(await judged('一个标题', '责任编辑：张三\n返回首页')).toBe('passageLength')
  })
})

describe('personal data', () => {
  it.each([
    ['电话13812345678，请联系', '电话[电话]，请联系'],
    ['+86 138-1234-5678 或 0086 13912345678', '[电话] 或 [电话]'],
    ['手机１３８１２３４５６７８。', '手机[电话]。'],
    ['座机010-12345678、(0571) 8765432', '座机[电话]、[电话]'],
    [`身份证${ID}号`, '身份证[证件号]号'],
    [`小写${withCheck('11010119900307109').replace('X', 'x')}。`, '小写[证件号]。'],
    ['写信给 zhang.san+a@mail.example.com.cn。', '写信给 [邮箱]。'],
    ['a@b.cn,c@d.com', '[邮箱],[邮箱]'],
  ])('%s', (text, expected) => {
    expect(maskPersonal(text)).toBe(expected)
    expect(maskPersonal(expected)).toBe(expected)
  })

  it.each([
    '订单号138123456789012345',
    '圆周率3.13812345678',
    `差一位${ID.slice(0, 17)}${ID[17] === '1' ? '2' : '1'}`,
    '没有这一天：110101199002301234',
    '2020-12345678号文件',
    '公司的年产值是12345678900元',
    '请@小明来看，邮箱写作 name at example.com',
    '版本 1.2.3@beta',
  ])('%s stays', (text) => {
    expect(maskPersonal(text)).toBe(text)
  })

  it('a resident id needs a date that exists and the right check digit', () => {
    expect(isResidentId(ID)).toBe(true)
    expect(isResidentId(withCheck('11010119900230123'))).toBe(false)
    const wrong = [...'0123456789X'].filter((digit) => digit !== ID[17]).map((digit) => ID.slice(0, 17) + digit)
    expect(wrong.some(isResidentId)).toBe(false)
  })

  it('is masked, dropped or kept', async () => {
    expect(await cleaned(`${BODY}请打13812345678`)).toBe(`${BODY}请打[电话]`)
    expect(await cleaned(`${BODY}请打13812345678`, { personal: 'keep' })).toBe(`${BODY}请打13812345678`)
    expect(await judged('怎么联系', `${BODY}请打13812345678`, { personal: 'drop' })).toBe('personal')
    expect(await judged('怎么联系', BODY, { personal: 'drop' })).toBe('kept')
  })
})

describe('rules that drop a row', () => {
  it.each<[string, string, string, string, Record<string, unknown>?]>([
    ['kept', '春天的公园', BODY, 'an ordinary pair'],
    ['queryLength', '春', BODY, 'a query of one character'],
    ['queryLength', '问'.repeat(513), BODY, 'a query that is too long'],
    ['kept', '问题'.repeat(256), BODY, 'a query of 512'],
    ['passageLength', '春天的公园', '桃花。', 'a passage of 3 characters'],
    [
      'passageLength',
      '春天的公园',
      `${BODY}`,
      'a passage over the limit where it is not cut',
      { tooLong: 'drop', passageLength: { max: 20 } },
    ],
    ['textShare', '春天的公园', '……！！！———＝＝＝+++***春天', 'more marks than text'],
    ['textShare', '？？？！！', BODY, 'a query of marks'],
    ['kept', 'C++ 怎么学', '先看《C++ Primer》，再写程序；写错了，就改！', 'marks among text'],
    ['chineseShare', 'What is Python', 'Python is a programming language that lets you work quickly.', 'English'],
    ['chineseShare', '12345', '67890 12345', 'digits only'],
    ['kept', '什么是 Python', 'Python 是一种编程语言，可以写 web 应用。', 'Chinese with English words'],
    ['kept', 'What is Python', 'Python is a language.', 'English where asked', { chineseShare: 0 }],
    ['repeatedLines', '春天的公园', Array.from({ length: 5 }, () => '同样的一行').join('\n'), 'the same line 5 times'],
    ['repeatedNgrams', '春天的公园', '买房就到某某置业，价格优惠。'.repeat(8), 'one sentence 8 times'],
    ['kept', '春天的公园', '买房就到某某置业，价格优惠。'.repeat(8), 'one sentence 8 times where allowed', { repeatedNgrams: 1 }],
    ['html', '春天的公园', `<p>${BODY}</p>`, 'tags where they are not allowed', { html: 'drop' }],
    ['html', 'A&amp;B公司', BODY, 'entities where they are not allowed', { html: 'drop' }],
    ['kept', '春天的公园', BODY, 'no tags', { html: 'drop' }],
    ['blockedWords', '春天的公园', `${BODY}这里有Ｃａｓｉｎｏ广告`, 'a blocked word in another form', { blockedWords: ['casino'] }],
    ['kept', '春天的公园', BODY, 'no blocked word', { blockedWords: ['casino', '夏天'] }],
    ['kept', '春天的公园', '春天的公园', 'a passage that is the query'],
    ['queryInPassage', '春天的公园', ' 春天，的公园！', 'a passage that is the query, where asked', { queryInPassage: 'drop-equal' }],
    ['kept', '春天来了', BODY, 'a passage that holds the query', { queryInPassage: 'drop-equal' }],
    ['queryInPassage', '春天来了？', BODY, 'a passage that holds the query, where asked', { queryInPassage: 'drop-contained' }],
    ['kept', '夏天来了', BODY, 'a passage without the query', { queryInPassage: 'drop-contained' }],
  ])('%s: %s', async (outcome, query, passage, _, clean) => {
    expect(await judged(query, passage, clean)).toBe(outcome)
  })

  it('blocked words of files, one a line', async () => {
    place.write('words.txt', '\ufeff赌博\r\n\r\n 彩票 \n')
    expect(await judged('春天的公园', `${BODY}彩票`, { blockedFiles: ['words.txt'] })).toBe('blockedWords')
    await expect(judged('春天', BODY, { blockedFiles: ['none.txt'] })).rejects.toMatchObject({ code: 'ERR_BGE_FILE' })
  })

  it('a failing positive beside a good one is left out and counted, and so is a failing negative', async () => {
    const record = { query: '春天的公园', pos: [BODY, '。。'], neg: ['夏天的河边很凉快', '!!'] }
    const source = { extract: { type: 'query-passage', fields: { passage: 'pos', negative: 'neg' } } }
    const { rows, tally } = await runFile(place, 'a.jsonl', JSON.stringify(record), source)
    expect(rows).toMatchObject([{ pos: [BODY], neg: ['夏天的河边很凉快'] }])
    expect(tally.changed).toMatchObject({ positives: { count: 1 }, negatives: { count: 1 } })
    expect(tally.dropped).toEqual({})
  })

  it('every change is counted with the text before and after that rule', async () => {
    const { tally } = await runFile(
      place,
      'a.jsonl',
      JSON.stringify({ title: '联系&amp;方式', body: `${BODY}\u200b\n返回顶部\n电话13812345678` }),
      { extract: { type: 'title-body' } },
    )
    const of = (rule: string): unknown => tally.changed[rule]!.samples.map(({ text, after }) => [text, after])
    expect(Object.keys(tally.changed).sort()).toEqual(['boilerplate', 'controls', 'html', 'personal'])
    expect(of('html')).toEqual([['联系&amp;方式', '联系&方式']])
    expect(of('boilerplate')).toEqual([[`${BODY}\n返回顶部\n电话13812345678`, `${BODY}\n电话13812345678`]])
    expect(of('personal')).toEqual([[`${BODY}\n电话13812345678`, `${BODY}\n电话[电话]`]])
  })
})

describe('shares', () => {
  it('counts Chinese characters, words and marks', () => {
    expect(countCharacters('用 Python3 写，好！𠀀😀')).toEqual({ characters: 16, text: 12, han: 4, words: 5 })
    expect(countCharacters('')).toEqual({ characters: 0, text: 0, han: 0, words: 0 })
    expect(countCharacters('don’t stop café')).toMatchObject({ han: 0, words: 4 })
  })

  it('lines that occurred before', () => {
    expect(repeatedLineShare('一行')).toBe(0)
    expect(repeatedLineShare('甲乙\n丙丁\n甲乙\n甲乙')).toBe(0.5)
  })

  it('runs that occurred before, exactly as a set of all runs says', () => {
    const draw = random(7, 'ngrams')
    for (let round = 0; round < 300; round++) {
      const length = draw.int(200)
      const letters = 2 + draw.int(4)
      const text = Array.from({ length }, () => '甲乙丙丁戊己'[draw.int(letters)]).join('') + '一二三四五六七八九十'.repeat(draw.int(4))
      const seen = new Set<string>()
      const covered = new Set<number>()
      for (let i = 0; i + NGRAM <= text.length; i++) {
        const run = text.slice(i, i + NGRAM)
        if (seen.has(run)) for (let j = 0; j < NGRAM; j++) covered.add(i + j)
        seen.add(run)
      }
      expect(repeatedNgramShare(text)).toBe(text.length < 4 * NGRAM ? 0 : covered.size / text.length)
    }
  })

  it('blocked words: of one character, with a common start, at the end', () => {
    const find = blockedFinder(['赌', '彩票网', '彩票', 'VIP会员', ''])
    expect(find('他去赌')).toBe('赌')
    expect(find('买彩票网')).toBe('彩票网')
    expect(find('买彩票')).toBe('彩票')
    expect(find('我是ｖｉｐ会员')).toBe('vip会员')
    expect(find('彩虹')).toBeUndefined()
    expect(blockedFinder([])('赌')).toBeUndefined()
  })
})

describe('clean(clean(x)) is clean(x)', () => {
  const pieces = [
    '春天来了',
    '，',
    '。',
    '\n',
    ' ',
    '\u3000',
    '&',
    'amp;',
    '&amp;',
    '&lt;',
    'b',
    '&gt;',
    '<b>',
    '</p>',
    '<',
    '>',
    '＜',
    '＆',
    '；',
    '\u200b',
    '\u0301',
    'e',
    'Ａ',
    '１',
    '138',
    '12345678',
    '0571-',
    '@',
    'a.com',
    ID,
    '首页',
    ' > ',
    ' | ',
    '新闻',
    '返回顶部',
    '责任编辑：',
    '發現',
    '薴',
    '后',
    '\r',
    '\ud83d',
    '\ude00',
    '😀',
    '\ufe0f',
    '#20013;',
    '\uf900',
    'ｱ',
    'ﾞ',
    '…',
    '①',
    '********',
    '“',
    '”',
    '版权所有',
    'script>',
    '<script>',
    '<!--',
    '-->',
    '\u00ad',
    '共12页',
    '\u2028',
    '℃',
    '­',
  ]
  it.each([
    ['defaults', {}],
    ['nfkc, folded, simplified', { unicode: 'nfkc', fullWidth: 'fold', script: 'simplified' }],
    ['short passages', { passageLength: { min: 1, max: 12 }, boilerplateLines: ['.*结束'] }],
  ])('%s', async (_, clean) => {
    const clean1 = await textCleaner(await settings(clean))
    const draw = random(11, 'pieces')
    let changed = 0
    for (let round = 0; round < 4000; round++) {
      const text = Array.from({ length: 1 + draw.int(14) }, () => pieces[draw.int(pieces.length)]).join('')
      const role = draw.chance(0.5) ? 'query' : 'passage'
      const once = clean1(text, role)
      const twice = clean1(once.text, role)
      expect({ text, role, result: twice.text, changes: twice.changes }).toEqual({ text, role, result: once.text, changes: [] })
      if (once.text !== text) changed++
    }
    expect(changed).toBeGreaterThan(3000)
  })
})

describe('tally', () => {
  it('adds up, keeps ten samples', () => {
    const [a, b] = [emptyTally(), emptyTally()]
    for (const tally of [a, b]) {
      tally.read = 2
      tally.dropped['where'] = { count: 7, samples: Array.from({ length: 7 }, (_, i) => ({ at: `f:${i}`, text: 't' })) }
      countLength(tally.lengths.query, 8)
      countLength(tally.lengths.query, 1_000_000)
    }
    addTally(a, b)
    expect(a.read).toBe(4)
    expect(a.dropped['where']).toMatchObject({ count: 14, samples: { length: 10 } })
    expect(a.lengths.query).toEqual([0, 2, ...new Array(LENGTH_BOUNDS.length - 2).fill(0), 2])
    expect(b.dropped['where']!.count).toBe(7)
  })
})
