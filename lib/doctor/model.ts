import { BgeError } from '../errors.js'
import { modelFolder } from '../hub/model.js'
import { modelInfo } from '../model/info.js'
import { BgeModel } from '../model/model.js'
import type { Tokenizer } from '../tokenizer/tokenizer.js'
import type { DoctorFinding } from './doctor.js'

type Say = (finding: DoctorFinding) => void

/** Texts on unlike subjects: a model that gives them nearly one vector has collapsed, or is untrained. */
const apart = ['今天的天气真不错，适合出门走走。', '高铁从上海到杭州只要一个小时。', '蛋白质由氨基酸组成。', '他每天早上六点起床跑步。']

/** Pooling, tokenizer flags, weights, fingerprint, and what the vectors look like. Returns its tokenizer where it has one. */
export async function checkModel(model: string, say: Say): Promise<Tokenizer | undefined> {
  let loaded: BgeModel
  try {
    const folder = await modelFolder(model)
    loaded = await BgeModel.load(folder, { device: 'cpu' })
    const info = await modelInfo(folder)
    const shape = `${info.layers} layers x ${info.hidden}, ${(info.parameters / 1e6).toFixed(1)} M parameters`
    const { pooling, normalize, maxLength, instruction } = info
    say({
      area: 'model',
      status: 'ok',
      found: `${folder}: ${shape}, ${pooling} pooling, ${normalize ? 'normalised' : 'not normalised'}, ${maxLength} tokens, instruction ${instruction === '' ? 'none' : `"${instruction}"`}`,
    })
  } catch (error) {
    if (!(error instanceof BgeError)) throw error
    const advice =
      error.code === 'ERR_BGE_POOLING' ? 'pass --pooling cls once with bge embed, or mend the folder as the sentence says' : undefined
    say({ area: 'model', status: 'problem', found: `[${error.code}] ${error.message}`, ...(advice && { advice }) })
    return undefined
  }
  try {
    if (!loaded.config.source.architectures) {
      say({ area: 'model', status: 'note', found: 'config.json names no architecture; it is taken for a BERT encoder' })
    }
    if (!('normalize' in loaded.encoder.config) || !loaded.encoder.config.normalize) {
      const advice = 'BGE vectors are normalised: add 2_Normalize to modules.json, or pass output: { normalize: true } to encode'
      say({ area: 'model', status: 'warning', found: 'the folder does not normalise: inner products are not cosines', advice })
    }
    checkTokenizer(loaded, say)
    say({ area: 'fingerprint', status: 'ok', found: await loaded.fingerprint() })
    const { data, dims } = await loaded.encode(apart, { output: { normalize: true } })
    const mean = meanCosine(data, dims[1])
    const found = `four texts on unlike subjects have a mean cosine of ${mean.toFixed(3)}`
    if (mean < 0.95) say({ area: 'vectors', status: 'ok', found })
    else {
      const advice =
        'all texts get nearly one vector: the model is untrained or has collapsed; see "reading your loss" in the report of its run'
      say({ area: 'vectors', status: 'warning', found, advice })
    }
    return loaded.tokenizer
  } finally {
    loaded.dispose()
  }
}

function checkTokenizer({ tokenizer, config }: BgeModel, say: Say): void {
  if (tokenizer.engine === 'library') {
    const found = 'tokenizer.json is not plain BERT WordPiece: texts go through @huggingface/tokenizers, about thirty times slower'
    say({ area: 'tokenizer', status: 'note', found })
  }
  const ids = [...tokenizer.encode('中文')]
  if (ids.slice(1, -1).every((id) => id === tokenizer.unkId)) {
    const advice = 'use the tokenizer files the model was trained with'
    say({ area: 'tokenizer', status: 'warning', found: 'Chinese characters are unknown to this vocabulary', advice })
  } else {
    const spare = config.vocab - tokenizer.vocabSize
    const found = `${tokenizer.vocabSize} tokens${spare > 0 ? `, ${spare} rows of the embedding table unused` : ''}, ${tokenizer.engine}`
    say({ area: 'tokenizer', status: 'ok', found })
  }
}

/** Mean inner product of different rows of (n, D) unit vectors. */
function meanCosine(data: Float32Array, width: number): number {
  const n = data.length / width
  let sum = 0
  for (let a = 0; a < n; a++) {
    for (let b = 0; b < a; b++) for (let i = 0; i < width; i++) sum += data[a * width + i]! * data[b * width + i]!
  }
  return sum / ((n * (n - 1)) / 2)
}
