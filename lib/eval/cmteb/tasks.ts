import { BgeError } from '../../errors.js'
import { MINI_TASKS } from './mini.js'

/** The two dialects of C-MTEB scores: what mteb 2 computes, and what C_MTEB with mteb 1.1 computed for the paper. Never mixed in one average. */
export const DIALECTS = ['mteb2', 'cmteb2023'] as const
/** Whose main scores; docs/cmteb.md has the differences. */
export type Dialect = (typeof DIALECTS)[number]

export type CmtebTaskType = 'retrieval' | 'reranking' | 'pairClassification' | 'clustering' | 'sts' | 'classification'

/** A dataset repository of the hub at a revision. */
export interface HubDataset {
  readonly path: string
  /** a commit, 40 hex digits; or a branch where no commit is published */
  readonly revision: string
}

/** What all tasks of a type share. */
export interface CmtebTypeFacts {
  readonly displayName: string
  readonly mainMetric: Readonly<Record<Dialect, string>>
  /** whether the query instruction goes before the queries; documents and every other text never get one */
  readonly instruction: 'query' | 'none'
  /** columns of the repository */
  readonly columns: readonly string[]
}

export const CMTEB_TYPES: Readonly<Record<CmtebTaskType, CmtebTypeFacts>> = {
  retrieval: {
    displayName: 'Retrieval',
    mainMetric: { mteb2: 'ndcg_at_10', cmteb2023: 'ndcg_at_10' },
    instruction: 'query',
    columns: ['id', 'text', 'query-id', 'corpus-id', 'score'],
  },
  reranking: {
    displayName: 'Reranking',
    mainMetric: { mteb2: 'map_at_1000', cmteb2023: 'map' },
    instruction: 'query',
    columns: ['query', 'positive', 'negative'],
  },
  pairClassification: {
    displayName: 'PairClassification',
    mainMetric: { mteb2: 'max_accuracy', cmteb2023: 'cosine_ap' },
    instruction: 'none',
    columns: ['sent1', 'sent2', 'labels'],
  },
  clustering: {
    displayName: 'Clustering',
    mainMetric: { mteb2: 'v_measure', cmteb2023: 'v_measure' },
    instruction: 'none',
    columns: ['sentences', 'labels'],
  },
  sts: {
    displayName: 'STS',
    mainMetric: { mteb2: 'cosine_spearman', cmteb2023: 'cosine_spearman' },
    instruction: 'none',
    columns: ['sentence1', 'sentence2', 'score'],
  },
  classification: {
    displayName: 'Classification',
    mainMetric: { mteb2: 'accuracy', cmteb2023: 'accuracy' },
    instruction: 'none',
    columns: ['text', 'label'],
  },
}

/** One task of C-MTEB. Numbers and revisions: mteb 2.20.0 and C_MTEB; what a type fixes is in CMTEB_TYPES. */
export interface CmtebTask {
  readonly name: string
  readonly type: CmtebTaskType
  /** where mteb 2 reads the data */
  readonly current: HubDataset
  /** where C_MTEB and mteb 1 read it; equal to `current` where nothing moved */
  readonly old: HubDataset
  /** retrieval: the second repository of the old layout, which holds the judgments */
  readonly oldQrels?: HubDataset
  /** evaluated splits, averaged */
  readonly splits: Readonly<Record<Dialect, readonly string[]>>
  /** the language subset of a multilingual repository, else 'default' */
  readonly subset: string
  /** the language code in result files */
  readonly language: string
  /** English task prompt in mteb's metadata (the type's default for STS) */
  readonly prompt: string
  /** rows that the published scores stand on: documents and queries, pairs, texts, candidates, rows of each evaluated split */
  readonly counts: Readonly<Record<string, number>>
  /** retrieval: a document whose id equals the query's is taken out after the top-k */
  readonly ignoreIdenticalIds?: boolean
  /** classification: draws of the training set, and how many texts of each label one draws */
  readonly experiments?: number
  readonly samplesPerLabel?: number
}

const SEARCH = 'Given a Chinese search query, retrieve web passages that answer the question'
const MEDICAL = 'Given a Chinese community medical question, retrieve replies that best answer the question'
const SIMILAR = 'Retrieve semantically similar text.'

const both = (...splits: string[]): CmtebTask['splits'] => ({ mteb2: splits, cmteb2023: splits })
const dataset = (at: string): HubDataset => {
  const [path, revision] = at.split('@') as [string, string]
  return { path, revision }
}
const chinese = { subset: 'default', language: 'cmn-Hans' }

function retrieval(
  name: string,
  revision: string,
  old: string,
  qrels: string,
  ignoreIdenticalIds: boolean,
  counts: Record<string, number>,
  prompt: string,
): CmtebTask {
  const path = `C-MTEB/${name}`
  return {
    name, type: 'retrieval', current: { path: `mteb/${name}`, revision }, old: { path, revision: old }, oldQrels: { path: `${path}-qrels`, revision: qrels },
    splits: both('dev'), ...chinese, prompt, counts, ignoreIdenticalIds,
  } // biome-ignore format: a row
}

function reranking(name: string, revision: string, old: string, split: string, counts: Record<string, number>, prompt: string): CmtebTask {
  return {
    name,
    type: 'reranking',
    current: { path: `mteb/${name}`, revision },
    old: dataset(old),
    splits: both(split),
    ...chinese,
    prompt,
    counts,
  }
}

function sts(name: string, current: string, old: string, split: string, pairs: number): CmtebTask {
  return {
    name,
    type: 'sts',
    current: dataset(current),
    old: dataset(old),
    splits: both(split),
    ...chinese,
    prompt: SIMILAR,
    counts: { pairs },
  }
}

function pairs(name: string, at: string, count: number): CmtebTask {
  return {
    name,
    type: 'pairClassification',
    current: dataset(at),
    old: dataset(at),
    splits: both('validation'),
    ...chinese,
    prompt: SIMILAR,
    counts: { pairs: count },
  }
}

function clustering(name: string, revision: string, prompt: string): CmtebTask {
  const at = { path: `C-MTEB/${name}`, revision }
  return { name, type: 'clustering', current: at, old: at, splits: both('test'), ...chinese, prompt, counts: { sets: 10, texts: 100_000 } }
}

function classification(
  name: string,
  at: string,
  splits: CmtebTask['splits'],
  counts: Record<string, number>,
  prompt: string,
  experiments = 10,
): CmtebTask {
  return {
    name,
    type: 'classification',
    current: dataset(at),
    old: dataset(at),
    splits,
    ...chinese,
    prompt,
    counts,
    experiments,
    samplesPerLabel: 32,
  }
}

/** A multilingual task of mteb: its own subset, 8 texts per label, `validation` and `test` in mteb, `test` alone in the paper's table. */
function multilingual(name: string, current: string, old: string, subset: string, language: string, prompt: string): CmtebTask {
  const splits = { mteb2: ['validation', 'test'], cmteb2023: ['test'] }
  return {
    name,
    type: 'classification',
    current: dataset(current),
    old: dataset(old),
    splits,
    subset,
    language,
    prompt,
    counts: {},
    experiments: 10,
    samplesPerLabel: 8,
  }
}

const PAPER = 'Identify the main category of scholar papers based on the titles'
const NEWS = 'Identify the topic or theme of the given news articles based on the titles'

/** All 35 tasks: the 31 of mteb's `MTEB(cmn, v1)` in its order of types, then the 4 that the paper's 35 add. */
// biome-ignore format: a table, a row per task
export const CMTEB_TASKS: readonly CmtebTask[] = [
  retrieval('T2Retrieval', 'cf778c0ea4168ec5174a34d888d6453e4cde9222', '8731a845f1bf500a4f111cf1070785c793d10e64', '1c83b8d1544e529875e3f6930f3a1fcf749a8e97', true, { documents: 118_605, queries: 22_812 }, SEARCH),
  retrieval('MMarcoRetrieval', '4940a7b26bf53463cfe3435bb8e201963e9c31ae', '539bbde593d947e2a124ba72651aafc09eb33fc2', 'bae08bb7bddbedb96c7e7db52018a55167b67f89', true, { documents: 106_813, queries: 6_980 }, 'Given a web search query, retrieve relevant passages that answer the query'),
  retrieval('DuRetrieval', '313c81b51311893c8fd09ca432f96b841ed0ebb3', 'a1a333e290fe30b10f3f56498e3a0d911a693ced', '497b7bd1bbb25cb3757ff34d95a8be50a3de2279', false, { documents: 100_001, queries: 2_000 }, SEARCH),
  retrieval('CovidRetrieval', '9c6dc4b276bb47c3ff725bbc5ffcafd56dded38b', '1271c7809071a13532e05f25fb53511ffce77117', 'a9f41b7cdf24785531d12417ce0d1157ed4b39ca', false, { documents: 100_001, queries: 949 }, 'Given a question on COVID-19, retrieve news articles that answer the question'),
  retrieval('CmedqaRetrieval', 'c476f85bf03d6642ec66bf54b9a551c88108bbb4', 'cd540c506dae1cf9e9a59c3e06f42030d54e7301', '279d737f36c731c8ff6e2b055f31fe02216fa23d', false, { documents: 100_001, queries: 3_999 }, MEDICAL),
  retrieval('EcomRetrieval', 'fa705ce5418e91636b1eaeaf43f34c15aa3f5a8a', '687de13dc7294d6fd9be10c6945f9e8fec8166b9', '39c90699b034ec22ac45b3abf5b0bbb5ffd421f9', true, { documents: 100_902, queries: 1_000 }, 'Given a user query from an e-commerce website, retrieve description sentences of relevant products'),
  retrieval('MedicalRetrieval', '023ae3b2c6b96f583c4ff9b3f9239c93f7885c20', '2039188fb5800a9803ba5048df7b76e6fb151fc6', '37b8efec53c54c3d9c6af212f6710b62ccdf895c', true, { documents: 100_999, queries: 1_000 }, 'Given a medical question, retrieve user replies that best answer the question'),
  retrieval('VideoRetrieval', '146a9d5e4fd7a9c182b6b92cccb6a3753994305c', '58c2597a5943a2ba48f4668c3b90d796283c5639', 'main', true, { documents: 100_930, queries: 1_000 }, 'Given a video search query, retrieve the titles of relevant videos'),

  reranking('T2Reranking', 'a34fe6bc0dff185af1228e49a0f6fb1de1565627', 'C-MTEB/T2Reranking@76631901a18387f85eaa53e5450019b87ad58ef9', 'dev', { queries: 5_908, candidates: 97_422 }, SEARCH),
  reranking('MMarcoReranking', '91c0f9d5cbd4cdc7ecd7039c5c2e57740cb62b00', 'C-MTEB/Mmarco-reranking@8e0c766dbe9e16e1d221116a3f36795fbade07f6', 'dev', { queries: 100, candidates: 100_026 }, SEARCH),
  reranking('CMedQAv1-reranking', 'f77f0345c9b6ac0a2447a3a71483d5b27393cb35', 'C-MTEB/CMedQAv1-reranking@8d7f1e942507dac42dc58017c1a001c3717da7df', 'test', { queries: 1_000, candidates: 100_000 }, MEDICAL),
  reranking('CMedQAv2-reranking', '01399b6956a4c6bf9edc5b6b90e176aeeb399686', 'C-MTEB/CMedQAv2-reranking@23d186750531a14a0357ca22cd92d712fd512ea0', 'test', { queries: 1_000, candidates: 100_000 }, MEDICAL),

  pairs('Ocnli', 'C-MTEB/OCNLI@66e76a618a34d6d565d5538088562851e6daa7ec', 1_847),
  pairs('Cmnli', 'C-MTEB/CMNLI@41bc36f332156f7adc9e38f53777c959b2ae9766', 8_315),

  clustering('CLSClusteringS2S', 'e458b3f5414b62b7f9f83499ac1f5497ae2e869f', PAPER),
  clustering('CLSClusteringP2P', '4b6227591c6c1a73bc76b1055f3b7f3588e72476', `${PAPER} and abstracts`),
  clustering('ThuNewsClusteringS2S', '8a8b2caeda43f39e13c4bc5bea0f8a667896e10d', NEWS),
  clustering('ThuNewsClusteringP2P', '5798586b105c0434e4f0fe5e767abe619442cf93', `${NEWS} and contents`),

  sts('LCQMC', 'C-MTEB/LCQMC@17f9b096f80380fce5ed12a9be8be7784b337daf', 'C-MTEB/LCQMC@17f9b096f80380fce5ed12a9be8be7784b337daf', 'test', 12_500),
  sts('PAWSX', 'mteb/PAWSX@bd129d4230ee0551b5469c566bced8da75abae0a', 'C-MTEB/PAWSX@9c6a90e430ac22b5779fb019a23e820b11a8b5e1', 'test', 2_000),
  sts('AFQMC', 'C-MTEB/AFQMC@b44c3b011063adb25877c13823db83bb193913c4', 'C-MTEB/AFQMC@b44c3b011063adb25877c13823db83bb193913c4', 'validation', 4_316),
  sts('QBQTC', 'C-MTEB/QBQTC@790b0510dc52b1553e8c49f3d2afb48c0e5c48b7', 'C-MTEB/QBQTC@790b0510dc52b1553e8c49f3d2afb48c0e5c48b7', 'test', 5_000),
  sts('ATEC', 'C-MTEB/ATEC@0f319b1142f28d00e055a6770f3f726ae9b7d865', 'C-MTEB/ATEC@0f319b1142f28d00e055a6770f3f726ae9b7d865', 'test', 20_000),
  sts('BQ', 'C-MTEB/BQ@e3dda5e115e487b39ec7e618c0c6a29137052a55', 'C-MTEB/BQ@e3dda5e115e487b39ec7e618c0c6a29137052a55', 'test', 10_000),
  sts('STSB', 'mteb/STSB@e036defee8f190911de6fc825a944b928c8cda53', 'C-MTEB/STSB@0cde68302b3541bb8b3c340dc0644b0b745b3dc0', 'test', 1_361),

  classification('TNews', 'C-MTEB/TNews-classification@317f262bf1e6126357bbe89e875451e4b0938fe4', both('validation'), { train: 53_360, validation: 10_000 }, 'Classify the fine-grained category of the given news title'),
  classification('IFlyTek', 'C-MTEB/IFlyTek-classification@421605374b29664c5fc098418fe20ada9bd55f8a', both('validation'), { train: 12_133, validation: 2_599 }, 'Given an App description text, find the appropriate fine-grained category', 5),
  classification('Waimai', 'C-MTEB/waimai-classification@339287def212450dcaa9df8c22bf93e9980c7023', both('test'), { train: 8_000, test: 1_000 }, 'Classify the customer review from a food takeaway platform into positive or negative'),
  classification('OnlineShopping', 'C-MTEB/OnlineShopping-classification@e610f2ebd179a8fda30ae534c3878750a96db120', both('test'), { train: 8_000, test: 1_000 }, 'Classify the customer review for online shopping into positive or negative'),
  classification('JDReview', 'C-MTEB/JDReview-classification@b7c64bd89eb87f8ded463478346f76731f07bf8b', both('test'), { train: 3_729, test: 533 }, 'Classify the customer review for iPhone on e-commerce platform into positive or negative'),
  classification('MultilingualSentiment', 'C-MTEB/MultilingualSentiment-classification@46958b007a63fdbf239b7672c25d0bea67b5ea1a', { mteb2: ['validation', 'test'], cmteb2023: ['validation'] }, { train: 120_000, validation: 3_000, test: 3_000 }, 'Classify sentiment of the customer review into positive, neutral, or negative'),

  { ...sts('STS22', 'mteb/sts22-crosslingual-sts@de9d86b3b84231dc21f76c7b7af1f28e2f57f6e3', 'mteb/sts22-crosslingual-sts@6d1ba47164174a496b7fa5d3569dae26a6813b80', 'test', 656), subset: 'zh' },
  multilingual('AmazonReviewsClassification', 'mteb/AmazonReviewsClassification@6b5d328eaae8ef408dd7d775040245cf86f92e9d', 'mteb/amazon_reviews_multi@1399c76144fd37290681b995c656ef9b2e06e26d', 'zh', 'cmn-Hans', 'Classify the given Amazon review into its appropriate rating category'),
  multilingual('MassiveIntentClassification', 'mteb/amazon_massive_intent@4672e20407010da34463acc759c162ca9734bca6', 'mteb/amazon_massive_intent@31efe3c427b0bae9c22cbb560b8f15491cc6bed7', 'zh-CN', 'cmo-Hans', 'Given a user utterance as query, find the user intents'),
  multilingual('MassiveScenarioClassification', 'mteb/amazon_massive_scenario@fad2c6e8459f9e1c45d9315f4953d921437d70f8', 'mteb/amazon_massive_scenario@7d571f92784cd94a019292a1f45445077d0ef634', 'zh-CN', 'cmo-Hans', 'Given a user utterance as query, find the user scenarios'),
]

/** The named sets: `cmn-31` is mteb's `MTEB(cmn, v1)`, `paper-35` the table of C-Pack, `mini` what a part of is scored between checkpoints. An average always says which. */
export const CMTEB_SETS: Readonly<Record<CmtebSet, readonly CmtebTask[]>> = {
  'cmn-31': CMTEB_TASKS.filter((task) => task.subset === 'default'),
  'paper-35': CMTEB_TASKS,
  mini: CMTEB_TASKS.filter((task) => MINI_TASKS.includes(task.name)),
}
/** Sets of C-MTEB: the 31 tasks of mteb's `MTEB(cmn, v1)`, the 35 of the paper, parts of twelve for a look between checkpoints. */
export type CmtebSet = 'cmn-31' | 'paper-35' | 'mini'

/** Tasks by name, by type or by set, each once, in the order of the table. Throws ERR_BGE_ARGUMENT naming what is unknown. */
export function cmtebTasks(words: readonly string[]): CmtebTask[] {
  const chosen = new Set<CmtebTask>()
  for (const word of words) {
    const found =
      CMTEB_SETS[word as CmtebSet] ?? CMTEB_TASKS.filter((task) => task.name === word || task.type.toLowerCase() === word.toLowerCase())
    if (found.length === 0) {
      const known = [...Object.keys(CMTEB_SETS), ...Object.keys(CMTEB_TYPES), ...CMTEB_TASKS.map((task) => task.name)]
      throw new BgeError('ERR_BGE_ARGUMENT', `"${word}" is no C-MTEB task, type or set; there are ${known.join(', ')}`)
    }
    for (const task of found) chosen.add(task)
  }
  return CMTEB_TASKS.filter((task) => chosen.has(task))
}
