import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { random } from '../../lib/data/random.js'
import { BgeModel } from '../../lib/model/model.js'
import type { MetricsRow } from '../../lib/train/run_folder.js'

export const letters = '天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏'

const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']

/** A model folder of 2 layers x 64 whose vocabulary is the special tokens and the letters above. */
export async function newTinyModel(directory: string, seed = 1, specialTokens: readonly string[] = special): Promise<string> {
  const tokenizerDir = `${directory}-tokenizer`
  await mkdir(tokenizerDir)
  await writeFile(join(tokenizerDir, 'vocab.txt'), [...specialTokens, ...letters].join('\n'))
  const shape = { layers: 2, hidden: 64, heads: 2, intermediate: 128, maxPositions: 64, typeVocab: 2, layerNormEps: 1e-12 }
  const config = { ...shape, vocab: letters.length + 5, hiddenDropout: 0.1, attentionDropout: 0.1, source: {} }
  await using created = await BgeModel.createNew({ config, tokenizerDir, seed, device: 'cpu', threads: 1 })
  await created.save(directory)
  return directory
}

/** `count` rows for each kind of training: texts.jsonl and pairs.jsonl (two positives, three negatives, teacher scores). */
export async function tinyData(folder: string, count = 22): Promise<{ texts: string; pairs: string }> {
  const draw = random(1, 'texts')
  const sentence = (n: number): string => Array.from({ length: n }, () => letters[draw.int(letters.length)]!).join('')
  const texts = join(folder, 'texts.jsonl')
  await writeFile(texts, Array.from({ length: count }, () => JSON.stringify({ text: sentence(4 + draw.int(20)) })).join('\n'))
  const pairs = join(folder, 'pairs.jsonl')
  const row = (): unknown => {
    const query = sentence(5)
    return {
      query,
      pos: [query + sentence(3), sentence(2) + query],
      neg: [sentence(8), sentence(6), sentence(9)],
      pos_scores: [2, 1],
      neg_scores: [0, 0, -1],
    }
  }
  await writeFile(pairs, Array.from({ length: count }, () => JSON.stringify(row())).join('\n'))
  return { texts, pairs }
}

/** The rows of a run's metrics.jsonl. */
export async function metrics(run: string): Promise<MetricsRow[]> {
  const text = await readFile(join(run, 'metrics.jsonl'), 'utf8')
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as MetricsRow)
}
