import type { StageName } from './config.js'
import { contrastive, finetune } from './contrastive.js'
import { pretrain } from './pretrain.js'
import type { Stage } from './stage.js'

/** The three stages by name, in order. */
export const stages: Readonly<Record<StageName, Stage>> = { pretrain, contrastive, finetune }
