import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { readRecipe } from '../lib/curate/recipe.js'
import { normaliseForIdentity, textId } from '../lib/curate/row.js'
import { RECIPE_SCHEMA } from '../lib/curate/schema.js'
import { runSources, scratch } from './support/curate.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const layouts = join(root, 'test/fixtures/curate/cmtp')
const place = scratch()
afterAll(() => place.remove())

const SOURCE = { name: 'a', files: ['a.jsonl'], extract: { type: 'title-body' }, licence: 'MIT' }
const read = (recipe: unknown): ReturnType<typeof readRecipe> =>
  readRecipe(place.write('recipe.json', typeof recipe === 'string' ? recipe : JSON.stringify(recipe)))

describe('readRecipe', () => {
  it('fills in every default', async () => {
    const recipe = await read({ name: 'r', sources: [SOURCE] })
    expect(recipe).toMatchObject({
      root: place.folder,
      dedup: { exact: true, near: { threshold: 0.8, ngram: 5, hashes: 128 }, on: 'pair' },
    })
    expect(recipe.output).toEqual({ format: 'jsonl', shardRows: 1_000_000 })
    expect(recipe.sources[0]).toMatchObject({ format: 'jsonl', negatives: 'none', priority: 0, join: [], where: {}, malformed: 'stop' })
    expect(recipe.sources[0]!.extract).toEqual({ type: 'title-body', fields: {}, group: 'adjacent' })
    expect(recipe.sources[0]!.clean).toEqual(recipe.clean)
    expect(recipe.clean).toMatchObject({ unicode: 'nfc', queryLength: { min: 2, max: 512 }, chineseShare: 0.3 })
    expect(recipe).not.toHaveProperty('semantic')
  })

  it('reads JSON5, and says where it is none', async () => {
    expect((await read(`{ name: 'r', /* one */ sources: [${JSON.stringify(SOURCE)},], }`)).name).toBe('r')
    await expect(read('{ name: "r",\n  sources: [ }')).rejects.toMatchObject({
      code: 'ERR_BGE_RECIPE',
      message: expect.stringMatching(/recipe\.json:2:14: expected JSON, but invalid character '}'/),
    })
  })

  it.each([
    [{ name: 'r', sources: [{ ...SOURCE, licens: 'MIT' }] }, /"licens" is not a key of sources\[0\]; did you mean licence\?/],
    [
      { name: 'r', sources: [{ ...SOURCE, extract: { type: 'title-bodies' } }] },
      /extract\.type must be one of title-body, .*did you mean title-body\?/,
    ],
    [
      { name: 'r', sources: [{ ...SOURCE, extract: { type: 'title-body', fields: { tittle: 'a' } } }] },
      /"tittle" is not a key of sources\[0\]\.extract\.fields; did you mean title\?/,
    ],
    [{ name: 'r', sources: [{ ...SOURCE, extract: { type: 'nli' } }] }, /sources\[0\]\.extract\.label must be .*, but is missing/],
    [
      { name: 'r', sources: [{ ...SOURCE, extract: { type: 'title-body', label: 'x' } }] },
      /extract\.label also needs sources\[0\]\.extract\.positive/,
    ],
    [{ name: 'r', sources: [{ ...SOURCE, where: { a: { mim: 1 } } }] }, /"mim" is not a key of sources\[0\]\.where\.a; did you mean min\?/],
    [{ name: 'r', sources: [{ ...SOURCE, files: [] }] }, /files must be a list that is not empty \(globs/],
    [{ name: 'r', sources: [{ ...SOURCE, files: ['a.dat'] }] }, /sources\[0\]\.format must be given/],
    [{ name: 'r', sources: [SOURCE, SOURCE] }, /two sources are named "a"/],
    [{ name: 'r', sources: [] }, /sources must be a list that is not empty/],
    [{ sources: [SOURCE] }, /name must be a string that is not empty \(of the recipe\), but is missing/],
    [{ name: 'r', sources: [SOURCE], clean: { chineseShare: 2 } }, /clean\.chineseShare must be a number from 0 to 1 .*, but was 2/],
    [{ name: 'r', sources: [SOURCE], clean: { unicode: 'nfd' } }, /clean\.unicode must be one of "nfc", "nfkc", "keep"/],
    [{ name: 'r', sources: [SOURCE], clean: { queryLength: { min: 600 } } }, /clean\.queryLength\.min must be at most its max, but 600/],
    [{ name: 'r', sources: [SOURCE], clean: { boilerplateLines: ['('] } }, /boilerplateLines\[0\] must be a regular expression/],
    [{ name: 'r', sources: [SOURCE], dedup: { near: true } }, /dedup\.near must be settings of near-duplicates, or false, but was true/],
    [
      { name: 'r', sources: [SOURCE], semantic: { model: 'm', threshold: 0.4, keepRate: 0.5 } },
      /semantic must have one of threshold and keepRate, but has both/,
    ],
    [{ name: 'r', include: ['recipe.json'] }, /include must not lead back/],
    [
      { name: 'r', sources: [{ ...SOURCE, join: [{ files: ['b.tsv'], key: 'i', on: 'i', fields: { t: 'text' } }], where: { text: 'x' } }] },
      /text comes from a join/,
    ],
  ])('refuses %#', async (recipe, message) => {
    await expect(read(recipe)).rejects.toMatchObject({ code: 'ERR_BGE_RECIPE', message: expect.stringMatching(message) })
  })

  it('includes recipes: cleaning is merged from the outside in, files keep to the one root', async () => {
    place.write(
      'sub/inner.json',
      JSON.stringify({
        name: 'inner',
        sources: [{ ...SOURCE, clean: { tooLong: 'drop' } }],
        clean: { queryLength: { min: 5 }, script: 'keep' },
      }),
    )
    const recipe = await read({
      name: 'r',
      include: ['sub/inner.json', 'cmtp:ocnli'],
      clean: { script: 'simplified', queryLength: { max: 99 } },
    })
    expect(recipe.sources.map(({ name }) => name)).toEqual(['a', 'ocnli'])
    expect(recipe.sources[0]!.clean).toMatchObject({ queryLength: { min: 5, max: 99 }, script: 'keep', tooLong: 'drop' })
    expect(recipe.sources[1]!.clean).toMatchObject({ script: 'simplified', passageLength: { min: 2, max: 8192 } })
    expect(recipe.root).toBe(place.folder)
  })
})

it('the published schema is the one that recipes are checked by', () => {
  const published = readFileSync(join(root, 'schemas/curation-recipe.schema.json'), 'utf8')
  expect(JSON.parse(published)).toEqual(JSON.parse(JSON.stringify(RECIPE_SCHEMA)))
})

describe('the recipes of C-MTP on small files in the public layouts', () => {
  const recipes = readdirSync(join(root, 'recipes/cmtp'))
  const pairs = async (name: string): Promise<string[]> => {
    const { rows } = await runSources(await readRecipe(join(root, 'recipes/cmtp', name), { root: layouts }))
    return rows.map(({ source, query, pos, neg }) => [source, query, pos.join(' + '), ...(neg.length ? [neg.join(' + ')] : [])].join(' | '))
  }

  it.each(recipes)('%s reads and keeps every pair', async (name) => {
    const recipe = await readRecipe(join(root, 'recipes/cmtp', name), { root: layouts })
    const { rows, tallies } = await runSources(recipe)
    for (const source of recipe.sources) {
      expect(rows.filter((row) => row.source === source.name).length, source.name).toBeGreaterThan(0)
      const known = new Set(['where', 'label', 'missing-id', 'no-positive', 'unnest'])
      expect(
        Object.keys(tallies[source.name]!.dropped).filter((rule) => !known.has(rule)),
        source.name,
      ).toEqual([])
      expect(source.licence).not.toBe('')
    }
  })

  it('labelled sources follow the policy of the paper', async () => {
    const { sources } = await readRecipe(join(root, 'recipes/cmtp/labelled.json'), { root: layouts })
    expect(Object.fromEntries(sources.map(({ name, negatives }) => [name, negatives]))).toEqual({
      t2ranking: 'mined',
      'dureader-retrieval': 'mined',
      'dureader-robust': 'mined',
      'dureader-checklist': 'mined',
      'mmarco-zh': 'mined',
      'cmedqa-v2': 'random',
      'multi-cpr-ecom': 'random',
      'multi-cpr-video': 'random',
      'multi-cpr-medical': 'random',
      'nli-zh-atec': 'label0',
      'nli-zh-bq': 'label0',
      'nli-zh-lcqmc': 'label0',
      'nli-zh-pawsx': 'label0',
      cmnli: 'label0',
      ocnli: 'label0',
    })
  })

  it('T2-Ranking joins three files: quotes are text, judgments of one query meet, an unknown passage is counted', async () => {
    expect(await pairs('t2ranking.json')).toEqual([
      't2ranking | 绿萝怎么养 | 绿萝喜欢散射光，夏天要避开正午的太阳。 + "绿萝"每周浇一次水，冬天半个月一次。',
      't2ranking | 仙人掌多久浇一次水 | 仙人掌耐旱，一个月浇一次水就够了。',
    ])
    const { tallies } = await runSources(await readRecipe(join(root, 'recipes/cmtp/t2ranking.json'), { root: layouts }))
    expect(tallies['t2ranking']).toMatchObject({ read: 4, extracted: 2, kept: 2 })
    expect(tallies['t2ranking']!.dropped['missing-id']).toEqual({
      count: 1,
      samples: [{ at: 'T2Ranking/data/qrels.retrieval.train.tsv:3', text: 'pid 99' }],
    })
  })

  it('mMARCO keeps judgments of relevance 1', async () => {
    expect(await pairs('mmarco-zh.json')).toEqual([
      'mmarco-zh | )曼哈顿计划的成功有什么影响? | 科学家之间的交流对工程的成功同样重要。',
      'mmarco-zh | 什么是司法公正? | 司法公正是指法律程序与结果都公平。',
    ])
  })

  it('DuReader: positives of a query once, paragraphs of SQuAD files, no impossible questions', async () => {
    expect(await pairs('dureader.json')).toEqual([
      'dureader-retrieval | 太阳花怎么养 | 太阳花喜欢温暖和阳光，发芽温度二十一度。 + 剪下嫩枝插进土里，浇足水就能活。',
      'dureader-robust | 仙剑奇侠传3第几集上天界 | 第三十五集雪见缓缓张开眼睛，众人一起上了天界。',
      'dureader-robust | 燃气热水器哪个牌子好 | 选择燃气热水器时要看安全装置和售后服务。',
      'dureader-checklist | 螃蟹要蒸多长时间 | 螃蟹蒸十五分钟就熟了，蘸姜醋吃。',
    ])
  })

  it('cMedQA v2 joins quoted CSV', async () => {
    expect(await pairs('cmedqa-v2.json')).toEqual([
      'cmedqa-v2 | 头痛恶心肌肉痛，关节痛，怎么办？ 已经三天了。 | 建议先查血常规，多喝水，注意休息。 + 可能是流感，请到发热门诊就诊。',
      'cmedqa-v2 | 孩子发烧到三十八度要吃药吗？ | 三十八度五以下先物理降温。',
    ])
  })

  it('NLI-zh, CMNLI, OCNLI: label 1 is the positive, label 0 the negative, of one premise', async () => {
    expect((await pairs('nli-zh.json'))[0]).toBe('nli-zh-atec | 花呗怎么还款 | 花呗如何还款 | 花呗怎么开通')
    expect(await pairs('nli-zh.json')).toHaveLength(4)
    expect(await pairs('cmnli.json')).toEqual(['cmnli | 我们想让每个人都参加。 | 我们希望所有人都来。 | 我们不想让任何人来。'])
    expect(await pairs('ocnli.json')).toEqual(['ocnli | 身上裹一件厚大衣，手插在袖筒里。 | 身上至少有一件衣服。 | 身上什么也没有穿。'])
  })

  it('Wikipedia: articles and sections, in simplified Chinese', async () => {
    expect(await pairs('zhwiki.json')).toEqual([
      'zhwiki-article | 数学 | 数学是研究数量、结构以及空间等概念的一门学科。\n数学有著久远的历史。',
      'zhwiki-article | 哲学 | 哲学是研究普遍而根本的问题的学科。',
      'zhwiki-article | 文学 | 文学是以语言文字为工具的艺术。\n诗歌、小说、散文和戏剧。',
      'zhwiki-section | 历史 | 数学有著久远的历史。',
      'zhwiki-section | 体裁 | 诗歌、小说、散文和戏剧。',
    ])
  })

  it('the other unlabelled sources', async () => {
    expect(await pairs('unlabelled.json')).toEqual(
      expect.arrayContaining([
        'wudao | 幼儿急疹一定会出疹子吗 | 幼儿急疹是婴幼儿常见的病毒感染，高烧三天以后退热出疹。',
        'csl | 基于深度学习的图像分类研究 | 本文研究了卷积神经网络在图像分类中的应用，并在公开数据上做了实验。',
        'amazon-reviews-zh | 很好的耳机 | 音质很好，戴着也舒服，值得买。',
        'wiki-atomic-edits | 他是一位作家。 | 他是一位著名作家。',
        'xlsum-summary | 海平面上升的影响 | 科学家警告沿海城市要早做准备。',
        'webtext | AlphaGo只会下围棋吗？ | 它的结构里有和围棋有关的部分，不能直接用到别的问题上。',
      ]),
    )
  })
})

describe('identity of a text', () => {
  it.each([
    ['ＢＧＥ 模型，怎么用？', 'bge模型怎么用'],
    ['血压 3.5，正常吗', '血压3.5正常吗'],
    ['1-2、3。', '1-2、3'],
    ['a.b', 'ab'],
    ['\u200b零\u00ad宽\ufeff', '零宽'],
    ['。。！', '。。!'],
    ['①㈠', '1一'],
    ['😀 好', '😀好'],
  ])('%j is %j', (text, normal) => {
    expect(normaliseForIdentity(text)).toBe(normal)
    expect(normaliseForIdentity(normal)).toBe(normal)
  })

  it('is 16 hex digits of SHA-256, the same for two ways of writing, another for another number', () => {
    expect(textId('模型')).toMatch(/^[0-9a-f]{16}$/)
    expect(textId('BGE模型?')).toBe(textId('ｂｇｅ 模型？'))
    expect(textId('血压3.5')).not.toBe(textId('血压35'))
  })
})
