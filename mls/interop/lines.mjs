// What the peers written for node share: where the npm packages are, JSON lines in and
// out, and the timing of the bench mode.
import path from 'node:path'
import readline from 'node:readline'
import { fileURLToPath, pathToFileURL } from 'node:url'

const here = path.dirname(fileURLToPath(import.meta.url))

// folder is the one that holds node_modules: --npm on the command line, else the
// environment's ISTHMUS_NPM, else the repository's own cache.
const folder = (() => {
  const at = process.argv.indexOf('--npm')
  if (at >= 0) return process.argv[at + 1]
  return process.env.ISTHMUS_NPM || path.join(here, '..', '..', '.cache', 'npm')
})()

// file is the URL of a file of an installed package.
export const file = (...parts) => pathToFileURL(path.resolve(folder, 'node_modules', ...parts))

// load imports a file of an installed package; the peers reach past the packages' front
// doors for what those do not export, so the versions are pinned in the lock file.
export const load = (...parts) => import(file(...parts).href)

export const b64 = (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
export const text = (bytes) => Buffer.from(bytes).toString('utf8')

// bin reads a binary field. The octets are copied out of Node's shared pool, because some
// libraries look at a view's whole buffer.
export function bin(value, name) {
  if (typeof value !== 'string') throw new Error(`${name}: base64 expected`)
  return new Uint8Array(Buffer.from(value, 'base64'))
}

// list reads a field that is a list with something in it.
export function list(request, name) {
  const value = request[name]
  if (!Array.isArray(value) || value.length === 0) throw new Error(`${name}: a list expected`)
  return value
}

export const same = (a, b) => Buffer.compare(a, b) === 0

// describe says what went wrong, also for thrown values that are not Errors.
export function describe(error) {
  const parts = []
  for (let e = error, depth = 0; e && depth < 4; e = e.cause ?? e.inner?.mlsError ?? e.inner?.error, depth++) {
    const said = [e.name, e.tag, e.message].filter((s) => typeof s === 'string' && s !== '')
    const inner = e.inner && JSON.stringify(e.inner, (_, v) => (typeof v === 'bigint' ? v.toString() : v))
    parts.push([...new Set(said)].join(' ') + (inner && inner !== '{}' ? ` ${inner}` : ''))
  }
  return parts.join(': ').slice(0, 600) || String(error)
}

// serve answers one line for each line, in order, until the input ends. A bigint (an
// epoch) is written as a number.
export async function serve(ops) {
  // A promise that a library lost must not end the process.
  process.on('unhandledRejection', (error) => process.stderr.write(`${describe(error)}\n`))
  process.stdout.on('error', () => process.exit(1))
  for await (const line of readline.createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    if (line.trim() === '') continue
    const answer = await one(ops, line)
    process.stdout.write(JSON.stringify(answer, (_, v) => (typeof v === 'bigint' ? Number(v) : v)) + '\n')
  }
}

async function one(ops, line) {
  let id = null
  try {
    const request = JSON.parse(line)
    id = request?.id ?? null
    if (typeof request?.op !== 'string') throw new Error('a request with an op expected')
    if (!Object.hasOwn(ops, request.op)) throw new Error(`unknown op ${request.op}`)
    return { id, ok: true, ...(await ops[request.op](request)) }
  } catch (error) {
    if (process.env.ISTHMUS_TRACE) process.stderr.write(`${error?.stack ?? error}\n`)
    return { id, ok: false, error: describe(error) }
  }
}

// Bench collects times by operation and prints the median of each.
export class Bench {
  constructor(n) {
    if (!Number.isInteger(n) || n < 2) throw new Error('bench needs a number of members, 2 or more')
    this.n = n
    this.times = new Map()
  }

  // time runs f once and keeps how long it took.
  async time(op, f) {
    const start = performance.now()
    const result = await f()
    const took = performance.now() - start
    if (!this.times.has(op)) this.times.set(op, [])
    this.times.get(op).push(took)
    return result
  }

  // repeat runs f at least `least` times and at most `most`, and stops in between when
  // the budget, in milliseconds, is used up.
  async repeat({ least = 3, most = 30, budget = 2000 }, f) {
    const start = performance.now()
    for (let i = 0; i < most && (i < least || performance.now() - start < budget); i++) await f(i)
  }

  print() {
    for (const [op, times] of this.times) {
      times.sort((a, b) => a - b)
      const ms = Number(times[times.length >> 1].toPrecision(4))
      process.stdout.write(JSON.stringify({ op, n: this.n, ms, samples: times.length }) + '\n')
    }
  }
}

// identity is the i-th name of the bench's members, in the shape every peer accepts.
export const identity = (i) => `6f1b2c3d-0000-4000-8000-${(i + 1).toString(16).padStart(12, '0')}:${(i + 1).toString(16)}@example.com`
