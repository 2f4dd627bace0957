// Loads the package in a project of its own, three ways: node probe.mjs import|require|worker DEVICE. Prints what it found as JSON.
import { createRequire } from 'node:module'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

async function probe(load, name) {
  try {
    const { openDevice } = await load()
    const device = await openDevice(name === 'cpu' ? { device: name, threads: 1 } : { device: name })
    const sent = Float32Array.of(1, -2, 0.5)
    const values = Array.from(await device.tensor(sent, 1, 3).toArray())
    const { kind, description } = device
    device.dispose()
    return { kind, description, values }
  } catch (error) {
    return { code: error.code, message: error.message }
  }
}

if (!isMainThread) parentPort.postMessage(await probe(() => import('bge-forge'), workerData))
else {
  const [way, device] = process.argv.slice(2)
  let found
  if (way === 'import') found = await probe(() => import('bge-forge'), device)
  else if (way === 'require') found = await probe(() => createRequire(import.meta.url)('bge-forge'), device)
  else found = await new Promise((resolve) => new Worker(new URL(import.meta.url), { workerData: device }).once('message', resolve))
  console.log(JSON.stringify(found))
}
