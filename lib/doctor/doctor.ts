import { checkData } from './data.js'
import { checkHub, checkMachine } from './machine.js'
import { checkModel } from './model.js'

/** What was found, and what to do about it. */
export interface DoctorFinding {
  /** what was looked at: "addon", "cuda", "model", "data", ... */
  readonly area: string
  /** 'problem': something asked for does not work; 'warning': it works, but not as one would wish; 'note': worth knowing */
  readonly status: 'ok' | 'note' | 'warning' | 'problem'
  /** one sentence */
  readonly found: string
  /** what to do; absent where there is nothing to do */
  readonly advice?: string
}

/** Of `doctor`: what to look at beside the machine. */
export interface DoctorOptions {
  /** model folder, or a name on the hub */
  model?: string
  /** training files */
  data?: readonly string[]
  /** 'cuda': a GPU that cannot be used is a problem, not a note. Default 'auto' */
  device?: string
  /** 'ask': whether the hub or its mirror answers. Default 'leave' */
  network?: 'ask' | 'leave'
  onFinding?: (finding: DoctorFinding) => void
  signal?: AbortSignal
}

/**
 * Looks at everything that commonly goes wrong: the addon and its instruction set, memory, CUDA (library, driver, cuBLASLt), and where asked for a model
 * folder, training data, and the way to the hub. Nothing is changed and nothing is fetched unless `model` names one on the hub. Findings come in order;
 * what does not work is a finding, not an error.
 */
export async function doctor(options: DoctorOptions = {}): Promise<DoctorFinding[]> {
  const findings: DoctorFinding[] = []
  const say = (finding: DoctorFinding): void => {
    findings.push(finding)
    options.onFinding?.(finding)
  }
  await checkMachine(options.device ?? 'auto', say)
  if (options.network === 'ask') await checkHub(options.signal, say)
  const tokenizer = options.model === undefined ? undefined : await checkModel(options.model, say)
  if (options.data) await checkData(options.data, tokenizer, options.signal, say)
  return findings
}
