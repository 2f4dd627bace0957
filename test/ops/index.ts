import type { OpSpec } from '../support/spec.js'
import { sequenceSpecs } from './attention.js'
import { layerNormSpecs } from './layernorm.js'
import { linearSpecs } from './linear.js'
import { objectiveSpecs } from './objectives.js'
import { rowSpecs } from './rows.js'

export const specs: readonly OpSpec[] = [...linearSpecs, ...sequenceSpecs, ...layerNormSpecs, ...rowSpecs, ...objectiveSpecs]
