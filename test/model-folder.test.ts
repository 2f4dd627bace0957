import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openCheckpoint } from '../lib/model/checkpoint.js'
import { parseConfig, presetConfig } from '../lib/model/config.js'
import { readDescription } from '../lib/model/folder.js'
import { BgeModel, initialiseParameters, loadMlmHead, readParameters, writeParameters } from '../lib/model/model.js'
import { openSafetensors, type TensorToWrite, writeSafetensors } from '../lib/model/safetensors.js'
import { type Device, type MlmHead, openDevice } from '../lib/native.js'
import { editJson, smallConfig, smallModel, snapshot } from './support/model_folder.js'

let root = ''
let device: Device
let model: BgeModel
let saved = ''
let count = 0

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-folder-'))
  device = await openDevice({ device: 'cpu', threads: 1 })
  model = await smallModel(root, device)
  saved = join(root, 'saved')
  model.instruction = '为这个句子生成表示以用于检索相关文章：'
  await model.save(saved)
})
afterAll(async () => {
  device?.dispose()
  await rm(root, { recursive: true, force: true })
})

/** A copy of the saved folder to spoil. */
async function copy(): Promise<string> {
  const path = join(root, `copy-${count++}`)
  await cp(saved, path, { recursive: true })
  return path
}

async function load(folder: string, options: Parameters<typeof BgeModel.load>[1] = {}): Promise<BgeModel> {
  return BgeModel.load(folder, { device, ...options })
}

/** Rewrites the weights of a folder. */
async function editWeights(
  folder: string,
  edit: (tensors: Map<string, { shape: readonly number[]; values: Float32Array }>) => void,
): Promise<void> {
  const file = join(folder, 'model.safetensors')
  const source = await openSafetensors(file)
  const tensors = new Map<string, { shape: readonly number[]; values: Float32Array }>()
  for (const [name, { shape }] of source.tensors) tensors.set(name, { shape, values: await source.read(name) })
  await source.close()
  edit(tensors)
  await writeSafetensors(file, entries(tensors))
}

function entries(tensors: Map<string, { shape: readonly number[]; values: Float32Array }>): TensorToWrite[] {
  return [...tensors].map(([name, { shape, values }]) => ({ name, shape, read: () => values }))
}

async function sameParameters(a: BgeModel, b: BgeModel): Promise<void> {
  const [x, y] = [await readParameters(a.encoder), await readParameters(b.encoder)]
  for (const [name, values] of x) expect(Buffer.from(y.get(name)!.buffer).equals(Buffer.from(values.buffer)), name).toBe(true)
}

describe('a new model', () => {
  test('depends on its seed alone, and is BERT-initialised', async () => {
    const again = await smallModel(root, device)
    await sameParameters(model, again)
    const other = await smallModel(root, device, 2)
    const name = 'encoder.layer.0.attention.self.query.weight'
    expect(await other.encoder.parameters.read(name)).not.toEqual(await model.encoder.parameters.read(name))
    const words = await model.encoder.parameters.read('embeddings.word_embeddings.weight')
    expect(words.subarray(0, 64).every((x) => x === 0)).toBe(true) // [PAD]
    const rest = words.subarray(64)
    const mean = rest.reduce((sum, x) => sum + x, 0) / rest.length
    const deviation = Math.sqrt(rest.reduce((sum, x) => sum + (x - mean) ** 2, 0) / rest.length)
    expect(Math.abs(mean)).toBeLessThan(5 * (0.02 / Math.sqrt(rest.length))) // five standard errors
    expect(Math.abs(deviation - 0.02)).toBeLessThan(5 * (0.02 / Math.sqrt(2 * rest.length)))
    expect((await model.encoder.parameters.read('embeddings.LayerNorm.weight')).every((x) => x === 1)).toBe(true)
    expect((await model.encoder.parameters.read('encoder.layer.0.output.dense.bias')).every((x) => x === 0)).toBe(true)
    for (const each of [again, other]) each.dispose()
  })

  test('the sizes are those of the released models', () => {
    const small = presetConfig('small', 21128)
    expect(small).toMatchObject({ layers: 4, hidden: 512, heads: 8, intermediate: 2048, vocab: 21128, maxPositions: 512, typeVocab: 2 })
    expect(() => presetConfig('huge' as 'large', 1)).toThrow('size must be tiny, small, base or large, but was "huge"')
  })
})

describe('save and load', () => {
  test('every file of a Hugging Face + sentence-transformers folder is there', async () => {
    const files = [...(await snapshot(saved)).keys()].sort()
    expect(files).toEqual(
      [
        '/1_Pooling/config.json',
        '/2_Normalize/config.json',
        '/config.json',
        '/config_sentence_transformers.json',
        '/model.safetensors',
        '/modules.json',
        '/sentence_bert_config.json',
        '/special_tokens_map.json',
        '/tokenizer.json',
        '/tokenizer_config.json',
        '/vocab.txt',
      ].sort(),
    )
    expect((await readdir(root)).filter((name) => name.startsWith('.'))).toEqual([])
    const config = JSON.parse(await readFile(join(saved, 'config.json'), 'utf8'))
    expect(config).toMatchObject({
      architectures: ['BertModel'],
      directionality: 'bidi',
      id2label: { 0: 'LABEL_0' },
      dtype: 'float32',
      torch_dtype: 'float32',
    })
    const source = await openSafetensors(join(saved, 'model.safetensors'))
    expect(source.tensors.has('pooler.dense.weight')).toBe(true)
    await source.close()
  })

  test('a loaded model is the saved one', async () => {
    const loaded = await load(saved)
    await sameParameters(model, loaded)
    expect(loaded).toMatchObject({ pooling: 'cls', maxLength: 64, instruction: model.instruction, dims: 64, directory: saved })
    expect(await loaded.fingerprint()).toBe(await model.fingerprint())
    const texts = ['今天的天气真不错', '猫']
    expect((await loaded.encode(texts)).data).toEqual((await model.encode(texts)).data)
    // Saved over itself, and once more: nothing drifts.
    const before = await snapshot(saved)
    await loaded.save(saved)
    expect(await snapshot(saved)).toEqual(before)
    loaded.instruction = ''
    expect(await loaded.fingerprint()).not.toBe(await model.fingerprint())
    loaded.dispose()
  })

  test('a model on its own device frees it', async () => {
    const own = await BgeModel.load(saved, { device: 'cpu', threads: 1 })
    own.dispose()
    own.dispose()
    await expect(own.encode(['a'])).rejects.toMatchObject({ code: 'ERR_BGE_CLOSED' })
    await expect(own.save(join(root, 'closed'))).rejects.toMatchObject({ code: 'ERR_BGE_CLOSED' })
  })

  test('dropout can be replaced for training without changing what is saved', async () => {
    const loaded = await load(saved, { dropout: 0 })
    expect(loaded.encoder.config).toMatchObject({ hiddenDropout: 0, attentionDropout: 0 })
    const target = join(root, 'dropout')
    await loaded.save(target)
    expect(await readFile(join(target, 'config.json'), 'utf8')).toBe(await readFile(join(saved, 'config.json'), 'utf8'))
    loaded.dispose()
    await expect(load(saved, { dropout: 1 })).rejects.toThrow('dropout must be a number from 0 to below 1, but was 1')
  })

  test('parameters can be read, written and initialised as a whole', async () => {
    const other = await smallModel(root, device, 9)
    await writeParameters(other.encoder, await readParameters(model.encoder))
    await sameParameters(model, other)
    await initialiseParameters(other.encoder, 9)
    const values = await readParameters(other.encoder)
    values.delete('embeddings.LayerNorm.bias')
    await expect(writeParameters(other.encoder, values)).rejects.toThrow(
      'tensor "embeddings.LayerNorm.bias" must have shape [64], but is missing',
    )
    other.dispose()
  })
})

describe('weights', () => {
  test('a bert. prefix, gamma and beta, position_ids, shards', async () => {
    const folder = await copy()
    await editWeights(folder, (tensors) => {
      for (const [name, tensor] of [...tensors]) {
        tensors.delete(name)
        tensors.set(`bert.${name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')}`, tensor)
      }
      tensors.set('bert.embeddings.position_ids', { shape: [1, 2], values: Float32Array.of(0, 1) })
    })
    const loaded = await load(folder)
    await sameParameters(model, loaded)
    expect(await loaded.fingerprint()).toBe(await model.fingerprint())
    loaded.dispose()

    const source = await openSafetensors(join(folder, 'model.safetensors'))
    const weight_map: Record<string, string> = {}
    const parts: TensorToWrite[][] = [[], []]
    for (const [i, [name, { shape }]] of [...source.tensors].entries()) {
      weight_map[name] = `model-0000${(i % 2) + 1}-of-00002.safetensors`
      parts[i % 2]!.push({ name, shape, read: () => source.read(name) })
    }
    for (const [i, part] of parts.entries()) await writeSafetensors(join(folder, `model-0000${i + 1}-of-00002.safetensors`), part)
    await source.close()
    await rm(join(folder, 'model.safetensors'))
    await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map }))
    const sharded = await load(folder)
    await sameParameters(model, sharded)
    await sharded.save(folder) // replaces the shards
    sharded.dispose()
    expect((await readdir(folder)).filter((name) => name.includes('of-00002') || name.includes('index'))).toEqual([])
    await rm(join(folder, 'model.safetensors'))
    await writeFile(join(folder, 'model.safetensors.index.json'), '{"weight_map": {"a": "../a.safetensors"}}')
    await expect(load(folder)).rejects.toThrow('a shard must be a file name, but was "../a.safetensors"')
  })

  test('pytorch_model.bin', async () => {
    const folder = join(root, 'bin')
    await mkdir(folder)
    await cp(new URL('./fixtures/pickle/state.bin', import.meta.url), join(folder, 'pytorch_model.bin'))
    const checkpoint = await openCheckpoint(folder)
    expect([...checkpoint.tensors.keys()]).toContain('transposed')
    expect(await checkpoint.tensors.get('view')!.read()).toHaveLength(6)
    await checkpoint.close()
  })

  test('tensors of no use here survive', async () => {
    const folder = await copy()
    await editWeights(folder, (tensors) => {
      tensors.set('classifier.weight', { shape: [1, 2], values: Float32Array.of(3, 4) })
    })
    const loaded = await load(folder)
    const target = join(root, 'others')
    await loaded.save(target)
    loaded.dispose()
    const checkpoint = await openCheckpoint(target)
    expect([...(await checkpoint.tensors.get('classifier.weight')!.read())]).toEqual([3, 4])
    await checkpoint.close()
  })

  const bad: [
    what: string,
    edit: (tensors: Map<string, { shape: readonly number[]; values: Float32Array }>) => void,
    code: string,
    message: RegExp,
  ][] = [
    [
      'a missing tensor',
      (tensors) => tensors.delete('encoder.layer.0.output.dense.weight'),
      'ERR_BGE_MODEL_FORMAT',
      /copy-\d+: tensor "encoder.layer.0.output.dense.weight" of shape \[64, 128\] is missing from the weights$/,
    ],
    [
      'a wrong shape',
      (tensors) => tensors.set('embeddings.LayerNorm.bias', { shape: [2], values: new Float32Array(2) }),
      'ERR_BGE_MODEL_FORMAT',
      /model.safetensors: tensor "embeddings.LayerNorm.bias" must have shape \[64\], but has \[2\]$/,
    ],
    [
      'NaN',
      (tensors) => (tensors.get('embeddings.position_embeddings.weight')!.values[77] = Number.NaN),
      'ERR_BGE_NON_FINITE',
      /model.safetensors: tensor "embeddings.position_embeddings.weight" must be finite, but element 77 is NaN$/,
    ],
    [
      'one tensor under two names',
      (tensors) => tensors.set('bert.pooler.dense.bias', tensors.get('pooler.dense.bias')!),
      'ERR_BGE_MODEL_FORMAT',
      /tensor "pooler.dense.bias" is stored twice/,
    ],
  ]
  for (const [what, edit, code, message] of bad) {
    test(`${what} is refused`, async () => {
      const folder = await copy()
      await editWeights(folder, edit)
      await expect(load(folder)).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
    })
  }

  test('missing files are named', async () => {
    const folder = await copy()
    await rm(join(folder, 'model.safetensors'))
    await expect(load(folder)).rejects.toMatchObject({
      code: 'ERR_BGE_FILE',
      message: `${folder} must hold model.safetensors or pytorch_model.bin, but holds neither`,
    })
    await rm(join(folder, 'config.json'))
    await expect(load(folder)).rejects.toMatchObject({ code: 'ERR_BGE_FILE', message: `${folder} must hold config.json, but does not` })
  })
})

describe('the MLM head', () => {
  test('is new where the folder has none, and the stored one where it has', async () => {
    const head = await loadMlmHead(model, 5)
    const values = await readParameters(head)
    expect([...values.keys()].sort()).toEqual([
      'cls.predictions.bias',
      'cls.predictions.transform.LayerNorm.bias',
      'cls.predictions.transform.LayerNorm.weight',
      'cls.predictions.transform.dense.bias',
      'cls.predictions.transform.dense.weight',
    ])
    const folder = join(root, 'mlm')
    await model.save(folder, { mlmHead: head })
    const source = await openSafetensors(join(folder, 'model.safetensors'))
    expect([...source.tensors.keys()].every((name) => /^(bert|cls)\./.test(name))).toBe(true)
    await source.close()
    expect(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')).architectures).toEqual(['BertForMaskedLM'])
    const loaded = await load(folder)
    await sameParameters(model, loaded)
    const again = await loadMlmHead(loaded, 6)
    expect(await readParameters(again)).toEqual(values)
    for (const each of [head, again, loaded]) each.dispose()

    const words = 'bert.embeddings.word_embeddings.weight'
    await editWeights(folder, (tensors) => {
      tensors.set('cls.predictions.decoder.weight', tensors.get(words)!)
      tensors.set('cls.predictions.decoder.bias', tensors.get('cls.predictions.bias')!)
      tensors.delete('cls.predictions.bias')
    })
    const tied = await load(folder)
    expect([...tied.storedMlmHead!.keys()].sort()).toEqual([...values.keys()].sort())
    tied.dispose()
    await editWeights(folder, (tensors) => {
      const { shape, values } = tensors.get(words)!
      tensors.set('cls.predictions.decoder.weight', { shape, values: values.map((x) => x + 1) })
    })
    await expect(load(folder)).rejects.toThrow(
      'tensor "cls.predictions.decoder.weight" must equal embeddings.word_embeddings.weight (tied), but differs',
    )
    await editWeights(folder, (tensors) => {
      tensors.delete('cls.predictions.decoder.weight')
      tensors.delete('cls.predictions.transform.dense.weight')
    })
    const partial = await load(folder)
    await expect(loadMlmHead(partial, 1)).rejects.toThrow(
      'tensor "cls.predictions.transform.dense.weight" must have shape [64, 64], but is missing',
    )
    partial.dispose()
  })
})

describe('what a folder says', () => {
  test('pooling in the old and the new format, under any module path', async () => {
    const folder = await copy()
    const pooling = join(folder, '1_Pooling', 'config.json')
    const path = 'sentence_transformers.sentence_transformer.modules'
    const modules = ['transformer.Transformer', 'pooling.Pooling', 'normalize.Normalize'].map((name, idx) => ({
      idx,
      path: ['', '1_Pooling', '2_Normalize'][idx],
      type: `${path}.${name}`,
    }))
    await writeFile(join(folder, 'modules.json'), JSON.stringify(modules))
    for (const [config, expected] of [
      [{ pooling_mode_mean_tokens: true, pooling_mode_cls_token: false }, 'mean'],
      [{ embedding_dimension: 64, pooling_mode: 'cls', include_prompt: true }, 'cls'],
      [{ pooling_mode: ['mean'] }, 'mean'],
    ] as const) {
      await writeFile(pooling, JSON.stringify(config))
      expect(await readDescription(folder)).toMatchObject({ pooling: expected, normalize: true })
    }
    await writeFile(join(folder, 'modules.json'), JSON.stringify(modules.slice(0, 2)))
    expect(await readDescription(folder)).toMatchObject({ normalize: false })
    for (const [config, message] of [
      [{ pooling_mode: 'lasttoken' }, 'pooling must be cls or mean, but was lasttoken'],
      [{ pooling_mode_cls_token: true, pooling_mode_mean_tokens: true }, 'but was cls + mean'],
      [{}, 'but was none'],
      [{ pooling_mode: 'mean', include_prompt: false }, 'include_prompt must be true'],
    ] as const) {
      await writeFile(pooling, JSON.stringify(config))
      await expect(readDescription(folder)).rejects.toMatchObject({ code: 'ERR_BGE_POOLING', message: expect.stringContaining(message) })
    }
    await writeFile(join(folder, 'modules.json'), JSON.stringify([...modules, { type: 'sentence_transformers.models.Dense' }]))
    await writeFile(pooling, '{"pooling_mode": "cls"}')
    await expect(readDescription(folder)).rejects.toThrow(
      '[3].type must be a Transformer, Pooling or Normalize module, but was "sentence_transformers.models.Dense"',
    )
  })

  test('pooling is never guessed, and the message says what to do', async () => {
    const folder = await copy()
    await rm(join(folder, 'modules.json'))
    expect(await readDescription(folder)).toMatchObject({ pooling: 'cls', normalize: true }) // 1_Pooling still says it
    await rm(join(folder, '1_Pooling'), { recursive: true })
    const refused = expect(load(folder)).rejects
    await refused.toMatchObject({
      code: 'ERR_BGE_POOLING',
      message: expect.stringContaining("pass { pooling: 'cls' } or --pooling cls, or add modules.json"),
    })
    const loaded = await load(folder, { pooling: 'cls' })
    const texts = ['春天来了']
    expect((await loaded.encode(texts)).data).toEqual((await model.encode(texts)).data)
    loaded.dispose()
    await expect(load(folder, { pooling: 'max' as 'cls' })).rejects.toThrow('pooling must be "cls" or "mean", but was "max"')
  })

  test('longest sequence, lower-casing and instruction', async () => {
    const folder = await copy()
    await editJson(join(folder, 'sentence_bert_config.json'), { max_seq_length: 32, do_lower_case: true })
    await editJson(join(folder, 'config_sentence_transformers.json'), { prompts: { query: '查询：', title: '标题：' }, kept: 1 })
    const loaded = await load(folder)
    expect(loaded).toMatchObject({ maxLength: 32, instruction: '查询：' })
    const target = join(root, 'said')
    await loaded.save(target)
    loaded.dispose()
    expect(JSON.parse(await readFile(join(target, 'config_sentence_transformers.json'), 'utf8'))).toMatchObject({
      prompts: { query: '查询：', title: '标题：' },
      kept: 1,
    })
    expect(JSON.parse(await readFile(join(target, 'sentence_bert_config.json'), 'utf8'))).toEqual({
      max_seq_length: 32,
      do_lower_case: true,
    })
    await rm(join(folder, 'sentence_bert_config.json'))
    await editJson(join(folder, 'tokenizer_config.json'), { model_max_length: 1e30 })
    const unlimited = await load(folder)
    expect(unlimited.maxLength).toBe(64) // max_position_embeddings
    unlimited.dispose()
    await expect(load(folder, { maxLength: 65 })).rejects.toThrow(
      "maxLength must be an integer from 3 to 64 (the model's max_position_embeddings), but was 65",
    )
  })

  const base = {
    model_type: 'bert',
    architectures: ['BertModel'],
    hidden_size: 64,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    intermediate_size: 128,
    vocab_size: 571,
  }
  test('config.json: defaults and junk are tolerated', () => {
    const config = parseConfig(
      { ...base, pooler_type: 'first_token_transform', classifier_dropout: null, output_past: true },
      'config.json',
    )
    expect(config).toMatchObject({ maxPositions: 512, typeVocab: 2, layerNormEps: 1e-12, hiddenDropout: 0.1 })
    expect(parseConfig({ ...base, model_type: undefined, architectures: undefined }, 'config.json').layers).toBe(1)
  })
  const refused: [changes: object, message: string][] = [
    [{ model_type: 'xlm-roberta' }, 'config.json: model_type must be "bert", but was "xlm-roberta"'],
    [{ architectures: ['RobertaModel'] }, 'architectures must be a BERT architecture such as "BertModel", but was "RobertaModel"'],
    [{ hidden_act: 'gelu_new' }, 'hidden_act must be "gelu" (the exact erf form), but was "gelu_new"'],
    [{ hidden_act: 'gelu_pytorch_tanh' }, 'but was "gelu_pytorch_tanh"'],
    [{ hidden_act: 'relu' }, 'but was "relu"'],
    [{ position_embedding_type: 'relative_key' }, 'position_embedding_type must be "absolute", but was "relative_key"'],
    [{ is_decoder: true }, 'is_decoder must be false, but was true'],
    [{ hidden_size: '64' }, 'hidden_size must be a positive integer, but was "64"'],
    [{ num_hidden_layers: undefined }, 'num_hidden_layers must be a positive integer, but was undefined'],
    [{ num_attention_heads: 3 }, 'num_attention_heads must be a divisor of hidden_size 64, but was 3'],
    [{ num_hidden_layers: 251 }, 'num_hidden_layers must be at most 250, but was 251'],
    [{ hidden_size: 2 ** 20 }, 'hidden_size must be at most 65536, but was 1048576'],
    [{ hidden_dropout_prob: 1 }, 'hidden_dropout_prob must be a number from 0 to below 1, but was 1'],
  ]
  for (const [changes, message] of refused) {
    test(`config.json: ${JSON.stringify(changes)} is refused`, () => {
      expect(() => parseConfig({ ...base, ...changes }, 'config.json')).toThrow(
        expect.objectContaining({ code: 'ERR_BGE_MODEL_FORMAT', message: expect.stringContaining(message) }),
      )
    })
  }

  test('a vocabulary that is larger than the embedding table is refused', async () => {
    const folder = await copy()
    await editJson(join(folder, 'config.json'), { vocab_size: 570 })
    await expect(load(folder)).rejects.toThrow(`vocab_size must be at least ${smallConfig.vocab}, the tokenizer's, but was 570`)
    await writeFile(join(folder, 'config.json'), '{"a":\n\n}')
    await expect(load(folder)).rejects.toThrow(/config\.json is not valid JSON: [^\n]+$/) // V8 quotes the text, line breaks and all
  })
})

describe('a save that fails changes nothing', () => {
  /** A head whose last tensor cannot be read: the disk is full, or the device lost it, half-way through. */
  const failing = (error: Error): MlmHead => {
    const list = [{ name: 'cls.predictions.bias', shape: [571], decay: false }]
    return { parameters: { list, read: () => Promise.reject(error) } } as unknown as MlmHead
  }

  async function untouched(folder: string, work: () => Promise<void>, expected: object): Promise<void> {
    const [files, around] = [await snapshot(folder), await readdir(root)]
    await expect(work()).rejects.toMatchObject(expected)
    expect(await snapshot(folder)).toEqual(files)
    expect(await readdir(root)).toEqual(around)
  }

  test('while writing', async () => {
    const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
    const message = expect.stringContaining('could not be saved and is as it was before: ENOSPC: no space left on device')
    await untouched(saved, () => model.save(saved, { mlmHead: failing(full) }), { code: 'ERR_BGE_SAVE', message })
  })

  test('when the bytes do not read back', async () => {
    let reads = 0
    const head = {
      parameters: {
        list: [{ name: 'cls.predictions.bias', shape: [571], decay: false }],
        read: async () => new Float32Array(571).fill(reads++),
      },
    }
    const message = expect.stringContaining('tensor "cls.predictions.bias" does not read back as it was written')
    await untouched(saved, () => model.save(saved, { mlmHead: head as unknown as MlmHead }), { code: 'ERR_BGE_SAVE', message })
  })

  test('when weights are not finite', async () => {
    const broken = await load(saved)
    const name = 'embeddings.LayerNorm.bias'
    await broken.encoder.parameters.write(name, new Float32Array(64).fill(Number.POSITIVE_INFINITY))
    await untouched(saved, () => broken.save(saved), { code: 'ERR_BGE_NON_FINITE', message: expect.stringContaining(`tensor "${name}"`) })
    broken.dispose()
  })

  test('over a folder that holds anything else, or where no folder can be', async () => {
    const folder = await copy()
    await writeFile(join(folder, 'notes.txt'), 'mine')
    await untouched(folder, () => model.save(folder), {
      code: 'ERR_BGE_SAVE',
      message: expect.stringContaining('it also holds "notes.txt"'),
    })
    await untouched(folder, () => model.save(join(folder, 'notes.txt')), { code: 'ERR_BGE_SAVE' })
    await untouched(folder, () => model.save(join(folder, 'notes.txt', 'model')), { code: 'ERR_BGE_SAVE' })
  })
})
