import { existsSync } from 'node:fs'
import { BgeError } from '../errors.js'
import { type HubOptions, hubFile, listHubFiles } from './hub.js'

const description =
  /^(config|modules|tokenizer|tokenizer_config|special_tokens_map|added_tokens|sentence_bert_config|config_sentence_transformers)\.json$|^vocab\.txt$|^[12]_(Pooling|Normalize)\/config\.json$|^bge_calibration\.json$/
/** The kinds of weights a folder may hold, the one to take first. */
const weights = [
  /^model\.safetensors$/,
  /^model(-\d+-of-\d+\.safetensors|\.safetensors\.index\.json)$/,
  /^pytorch_model\.bin$/,
  /^pytorch_model(-\d+-of-\d+\.bin|\.bin\.index\.json)$/,
]

/**
 * A local model folder: `model` itself where it is one, else the hub's model of that name ("BAAI/bge-small-zh-v1.5", with a revision
 * "BAAI/bge-small-zh-v1.5@COMMIT"), downloaded into the cache that Python's tools share. Only what is needed is fetched: configuration, tokenizer, and one
 * kind of weights. HF_ENDPOINT chooses a mirror, HF_HUB_OFFLINE forbids the network (see hubSettings).
 * Errors: ERR_BGE_FILE for what is neither a folder nor a name, ERR_BGE_HUB.
 */
export async function modelFolder(model: string, options: HubOptions = {}): Promise<string> {
  if (existsSync(model)) return model
  const match = /^([\w][\w.-]*\/[\w][\w.-]*)(?:@([\w][\w./-]*))?$/.exec(model)
  if (!match) {
    throw new BgeError(
      'ERR_BGE_FILE',
      `model must be a folder, or a name on the hub such as BAAI/bge-small-zh-v1.5, but there is no "${model}"`,
    )
  }
  const repo = { kind: 'model', name: match[1]!, revision: match[2] ?? 'main' } as const
  try {
    const paths = await listHubFiles(repo, options)
    const kind = weights.find((pattern) => paths.some((path) => pattern.test(path)))
    const wanted = paths.filter((path) => description.test(path) || kind?.test(path))
    if (kind === undefined || !wanted.includes('config.json')) {
      throw new BgeError(
        'ERR_BGE_HUB',
        `${repo.name}@${repo.revision} must hold config.json and model.safetensors or pytorch_model.bin, but holds ${paths.length} other files`,
      )
    }
    let folder = ''
    for (const path of wanted) folder = (await hubFile(repo, path, options)).slice(0, -path.length - 1)
    return folder
  } catch (cause) {
    if (!(cause instanceof BgeError && cause.code === 'ERR_BGE_HUB')) throw cause
    throw new BgeError('ERR_BGE_HUB', `there is no folder "${model}" here, and as a name on the hub: ${cause.message}`, {
      cause,
      details: cause.details,
    })
  }
}
