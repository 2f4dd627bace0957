// The model of a trial on our device, from the package's own build (dist/): what a user loads, and no loader's memory next to it.
import { openSafetensors } from '../../dist/model/safetensors.js'
import { openDevice } from '../../dist/native.js'
import { skip } from './measure.mjs'

export const options = JSON.parse(process.argv.at(-1))

/** The device of the trial; ends the process with its refusal where it does not compute in options.dtype. */
export async function open() {
  try {
    return await openDevice({ device: 'cpu', threads: options.threads, dtype: options.dtype })
  } catch (error) {
    skip(error.message)
  }
}

export async function loadEncoder(device) {
  const encoder = device.encoder(options.config)
  const source = await openSafetensors(options.weights)
  for (const { name } of encoder.parameters.list) await encoder.parameters.write(name, await source.read(name))
  await source.close()
  return encoder
}
