// A device that is not ours: ts-mls (npm, MIT) for MLS, and everything else of PROTOCOL §2, §6
// and §9 written here from the documents alone. One request a line on standard input, one
// answer a line: {"op":"register"|"sync"|"send"|"commit"|"state", …}; and, because no device of ours
// would: "reuse"|"ahead"|"propose"|"repeat", which no honest member does.
import crypto from 'node:crypto'
import { b64, bin, load, same, serve, text } from '../../../mls/interop/lines.mjs'
import { mend, unmergedLeaves } from '../../../mls/interop/mended.mjs'

// draft-ietf-mls-extensions-10: proposals that the library does not know, with their bodies.
const appDataUpdate = 8
const selfRemove = 10
const dictionary = 6 // the extension app_data_dictionary
const lastResort = 10 // the extension last_resort
const authority = 0xf001 // the component with the homeservers that agree
const participants = 0x22

// The library takes every proposal that it does not know for a vector, and lets none of them
// change the group. extended has what these two do.
mend({
  'clientState.js': [
    ...unmergedLeaves,
    ['return [...acc, p];\n    }, []);', 'return [...acc, p];\n    }, []).map((p) => globalThis.extended.proposal(p));'],
    ['const newExtensions = flattenExtensions(grouped.group_context_extensions);', 'const newExtensions = globalThis.extended.extensions(state, allProposals);'],
    ['kind: "externalCommit",\n                externalInitSecret,', 'kind: "externalCommit",\n                extensions: globalThis.extended.extensions(state, allProposals),\n                externalInitSecret,'],
  ],
  'processMessages.js': [['result.additionalResult.kind === "memberCommit" && result.additionalResult.extensions.length > 0', 'result.additionalResult.extensions?.length > 0']],
  'createCommit.js': [
    [
      'createUpdatePath(res.tree, toLeafIndex(state.privatePath.leafIndex), state.groupContext,',
      'createUpdatePath(res.tree, toLeafIndex(state.privatePath.leafIndex), res.additionalResult.extensions?.length > 0 ? { ...state.groupContext, extensions: res.additionalResult.extensions } : state.groupContext,',
    ],
  ],
  'proposal.js': [
    ['[uint16Encoder, varLenDataEncoder], (p) => [p.proposalType, p.proposalData]', '[uint16Encoder, globalThis.extended.encoder(varLenDataEncoder)], (p) => [p.proposalType, p]'],
    ['mapDecoder(decodeVarLenData, (proposalData)', 'mapDecoder(globalThis.extended.decoder(proposalType, decodeVarLenData), (proposalData)'],
  ],
})

const u16 = (n) => [n >> 8, n & 255]
const u32 = (n) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255]
const octets = (s) => (typeof s === 'string' ? new TextEncoder().encode(s) : s)

// vec is a vector of RFC 9420 §2.1.2, unvec its inverse: the content, and where it ends.
function vec(...parts) {
  const body = parts.flatMap((p) => [...octets(p)])
  const n = body.length
  return [...(n < 64 ? [n] : n < 16384 ? [0x40 | (n >> 8), n & 255] : [0x80 | (n >>> 24), (n >>> 16) & 255, (n >>> 8) & 255, n & 255]), ...body]
}

function unvec(b, at) {
  const size = 1 << (b[at] >> 6)
  let n = b[at] & 63
  for (let i = 1; i < size; i++) n = n * 256 + b[at + i]
  const end = at + size + n
  if (end > b.length) throw new Error('a vector beyond the end')
  return [b.slice(at + size, end), end]
}

const number = (b, at) => new DataView(b.buffer, b.byteOffset).getUint32(at)

function* entries(b, read) {
  for (let at = 0; at < b.length; ) {
    const [value, end] = read(b, at)
    yield value
    at = end
  }
}

// The dictionary, and the two components that this member has to understand.
const readDictionary = (b) =>
  new Map(entries(unvec(b, 0)[0], (b, at) => {
    const [data, end] = unvec(b, at + 2)
    return [[(b[at] << 8) | b[at + 1], data], end]
  }))

const writeDictionary = (map) =>
  Uint8Array.from(vec([...map].sort(([a], [b]) => a - b).flatMap(([id, data]) => [...u16(id), ...vec(data)])))

const users = (b) =>
  [...entries(unvec(b, 0)[0], (b, at) => {
    const [user, end] = unvec(b, at)
    return [{ user, role: number(b, end) }, end + 4]
  })]

// draft-ietf-mimi-protocol-06 §7.5: roles change, then participants go, then others come.
function patch(list, update) {
  const [changed, a] = unvec(update, 0)
  const [removed, b] = unvec(update, a)
  for (const [i, role] of entries(changed, (b, at) => [[number(b, at), number(b, at + 4)], at + 8])) list[i] = { ...list[i], role }
  const gone = new Set(entries(removed, (b, at) => [number(b, at), at + 4]))
  return [...list.filter((_, i) => !gone.has(i)), ...users(update.slice(b))]
}

globalThis.extended = {
  proposal: (p) =>
    p.proposal.proposalType === selfRemove ? { ...p, proposal: { proposalType: 'remove', remove: { removed: p.senderLeafIndex } } } : p,

  encoder: (vector) => (p) => {
    if (p.proposalType !== selfRemove && p.proposalType !== appDataUpdate) return vector(p.proposalData)
    return [p.proposalData.length, (at, buffer) => new Uint8Array(buffer).set(p.proposalData, at)]
  },

  decoder: (type, vector) => (b, at) => {
    if (type === selfRemove) return [new Uint8Array(), 0]
    if (type !== appDataUpdate) return vector(b, at)
    const end = b[at + 2] === 1 ? unvec(b, at + 3)[1] : at + 3
    return [b.slice(at, end), end - at]
  },

  // The extensions after a commit; none if they stay as they are.
  extensions(state, proposals) {
    const all = state.groupContext.extensions
    const replaced = proposals.flatMap((p) => (p.proposal.proposalType === 'group_context_extensions' ? p.proposal.groupContextExtensions.extensions : []))
    const updates = proposals.filter((p) => p.proposal.proposalType === appDataUpdate).map((p) => p.proposal.proposalData)
    if (updates.length === 0) return replaced
    const map = readDictionary(all.find((e) => e.extensionType === dictionary).extensionData)
    for (const u of updates) {
      const id = (u[0] << 8) | u[1]
      if (u[2] === 2) map.delete(id)
      else if (id !== participants) map.set(id, unvec(u, 3)[0])
      else map.set(id, Uint8Array.from(vec(patch(users(map.get(id)), unvec(u, 3)[0]).flatMap((p) => [...vec(p.user), ...u32(p.role)]))))
    }
    return all.map((e) => (e.extensionType === dictionary ? { ...e, extensionData: writeDictionary(map) } : e))
  },
}

const dist = (name) => load('ts-mls', 'dist', 'src', name)
const m = await dist('index.js')
const { makeKeyPackageRef } = await dist('keyPackage.js')
const { decodeRatchetTree } = await dist('ratchetTree.js')
const { createGroupInfo } = await dist('createCommit.js')
const { encodeExtension } = await dist('extension.js')
const { signLeafNodeCommit } = await dist('leafNode.js')

const suiteName = 'MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519'
const cs = await m.getCiphersuiteImpl(m.getCiphersuiteFromName(suiteName), m.nobleCryptoProvider)
const config = {
  keyRetentionConfig: { retainKeysForGenerations: 1000, retainKeysForEpochs: 6, maximumForwardRatchetSteps: 2000 },
  lifetimeConfig: { maximumTotalLifetime: 10_000_000n, validateLifetimeOnReceive: false },
  keyPackageEqualityConfig: m.defaultKeyPackageEqualityConfig,
  paddingConfig: m.defaultPaddingConfig,
  authService: m.defaultAuthenticationService,
}

// CBOR (RFC 8949 §4.2.1) of what is needed here: numbers, octets, text, lists, maps with
// numbers as keys, null and booleans.
function head(major, n) {
  if (n < 24) return [(major << 5) | n]
  const size = n < 256 ? 1 : n < 65536 ? 2 : n < 2 ** 32 ? 4 : 8
  const out = [(major << 5) | (23 + [1, 2, 4, 8].indexOf(size) + 1)]
  for (let i = size - 1; i >= 0; i--) out.push(Number((BigInt(n) >> BigInt(8 * i)) & 255n))
  return out
}

function cbor(v) {
  if (v === null) return [0xf6]
  if (typeof v === 'boolean') return [v ? 0xf5 : 0xf4]
  if (typeof v === 'number') return head(0, v)
  if (typeof v === 'string') return [...head(3, octets(v).length), ...octets(v)]
  if (v instanceof Uint8Array) return [...head(2, v.length), ...v]
  if (Array.isArray(v)) return [...head(4, v.length), ...v.flatMap(cbor)]
  const keys = Object.keys(v).map(Number).sort((a, b) => a - b)
  return [...head(5, keys.length), ...keys.flatMap((k) => [...cbor(k), ...cbor(v[k])])]
}

function uncbor(b) {
  let at = 0
  const item = () => {
    const major = b[at] >> 5
    let n = b[at++] & 31
    if (major === 7) return n === 22 ? null : n === 21
    if (n > 27) throw new Error('CBOR of indefinite length')
    if (n > 23) {
      const size = 1 << (n - 24)
      n = 0
      for (let i = 0; i < size; i++) n = n * 256 + b[at++]
    }
    if (major === 0) return n
    if (major === 2 || major === 3) {
      at += n
      return major === 2 ? b.slice(at - n, at) : text(b.slice(at - n, at))
    }
    if (major === 4) return Array.from({ length: n }, item)
    if (major === 5) return Object.fromEntries(Array.from({ length: n }, () => [item(), item()]))
    throw new Error('CBOR that is not ours')
  }
  return item()
}

const sha256 = (...parts) => new Uint8Array(parts.reduce((h, p) => h.update(p), crypto.createHash('sha256')).digest())

// Every signature is over label || 0x00 || SHA-256(part)… (PROTOCOL §2).
const labelled = (label, ...parts) => Uint8Array.from([...octets(label), 0, ...parts.flatMap((p) => [...sha256(p)])])
const sign = (label, ...parts) => cs.signature.sign(me.keys.signKey, labelled(label, ...parts))

function deviceID(key) {
  const digits = 'abcdefghijklmnopqrstuvwxyz234567'
  let bits = ''
  for (const o of sha256(key)) bits += o.toString(2).padStart(8, '0')
  return bits.match(/.{5}/g).slice(0, 26).map((b) => digits[parseInt(b, 2)]).join('')
}

// The label by which a message that is said again is known (PROTOCOL, Said again): its only
// component is messageID, with whether it was said before, and its id.
const messageID = 0xf002
const label = (id, again) => Uint8Array.from(vec([...u16(messageID), ...vec([again ? 1 : 0, ...id])]))

function readLabel(data) {
  const item = data.length > 0 ? readDictionary(data).get(messageID) : undefined
  return item?.length === 17 ? { again: item[0] === 1, id: b64(item.slice(1)) } : {}
}

const tolerance = 5 // epochs, of a room that says nothing else

const me = { packages: [], groups: new Map(), early: new Map(), unheard: [], since: '', chains: new Map() }

// call is one request of the device API, in JSON.
async function call(method, path, body) {
  const headers = { 'content-type': 'application/json' }
  if (me.token) headers.authorization = `Bearer ${me.token}`
  const answer = await fetch(me.base + path, { method, headers, body: body && JSON.stringify(body) })
  const got = await answer.text()
  const value = got === '' ? {} : JSON.parse(got)
  if (!answer.ok) throw Object.assign(new Error(`${method} ${path.split('/')[2]}: ${value.code}: ${value.text}`), { refusal: value })
  return value
}

const roomPath = (room, rest) => `/v1/rooms/${encodeURIComponent(room)}${rest}`

// register makes the device, its record, a session and key packages.
async function register({ base, user }) {
  me.base = base
  me.user = user
  me.keys = await cs.signature.keygen()
  me.device = `mimi://${new URL(user.replace('mimi:', 'http:')).host}/d/${deviceID(me.keys.publicKey)}`
  const inbox = await cs.hpke.generateKeyPair()
  const now = Math.floor(Date.now() / 1000)
  const record = Uint8Array.from(
    cbor({ 1: 1, 2: me.keys.publicKey, 3: { 1: 0x20, 2: await cs.hpke.exportPublicKey(inbox.publicKey) }, 5: user, 6: 'ts-mls', 8: now - 3600, 9: now + 86400 * 365 }),
  )
  const envelope = Uint8Array.from(cbor([record, await sign('isthmus device record 1', record)]))
  await call('POST', '/v1/devices', { record: b64(envelope) })
  const { challenge } = await call('POST', '/v1/sessions', { device: me.device })
  const signature = b64(await sign('isthmus session', bin(challenge, 'challenge')))
  me.token = (await call('POST', '/v1/sessions', { device: me.device, challenge, signature })).token
  const packages = []
  for (let i = 0; i < 5; i++) packages.push(await keyPackage(i === 4))
  await call('PUT', '/v1/key-packages', { packages })
  return { device: me.device }
}

// keyPackage makes one whose leaf says who the user is and what the member understands.
async function keyPackage(last) {
  const now = BigInt(Math.floor(Date.now() / 1000))
  const components = [1, 3, ...Array.from({ length: 15 }, (_, i) => participants + i), authority]
  const leaf = [
    { extensionType: 'application_id', extensionData: Uint8Array.from(vec(me.user)) },
    { extensionType: dictionary, extensionData: writeDictionary(new Map([[1, vec(components.flatMap(u16))], [3, vec(vec('application/mimi-content'), vec())]])) },
  ]
  const { publicPackage, privatePackage } = await m.generateKeyPackageWithKey(
    { credentialType: 'basic', identity: octets(me.device) },
    { versions: ['mls10'], ciphersuites: [suiteName], extensions: [dictionary, lastResort], proposals: [appDataUpdate, selfRemove], credentials: ['basic'] },
    { notBefore: now - 3600n, notAfter: now + 7_000_000n },
    last ? [{ extensionType: lastResort, extensionData: new Uint8Array() }] : [],
    me.keys,
    cs,
    leaf,
  )
  me.packages.push({ publicPackage, privatePackage, last, ref: await makeKeyPackageRef(publicPackage, cs.hash) })
  return b64(m.encodeMlsMessage({ version: 'mls10', wireformat: 'mls_key_package', keyPackage: publicPackage }))
}

// sync takes what is new, once; said lists the messages that could be read.
async function sync({ wait }) {
  const news = await call('POST', '/v1/sync', { since: me.since || undefined, wait_ms: wait ?? 0 })
  const said = []
  for (const l of news.letters ?? []) {
    if (l.kind === 'welcome') await welcomed(l, said)
    if (l.kind === 'again') me.unheard.push(...(l.unheard ?? []).map((u) => ({ room: l.room, ...u })))
  }
  for (const e of news.events ?? []) {
    if (!me.groups.has(e.room)) me.early.set(e.room, [...(me.early.get(e.room) ?? []), e])
    else await take(me.groups.get(e.room), e, said)
  }
  for (const room of news.left ?? []) if (me.groups.has(room)) me.groups.get(room).removed = true
  me.since = news.next
  const waiting = me.unheard.splice(0)
  for (const u of waiting) if (!(await sayAgain(u))) me.unheard.push(u)
  return { said, more: !!news.more }
}

// sayAgain seals once more what a homeserver passed over, once its epoch is long over here as
// well. It reports whether that is done with.
async function sayAgain({ room, seq, epoch }) {
  const g = me.groups.get(room)
  const mine = g?.mine?.get(seq)
  if (!mine || g.removed || mine.again) return true
  if (g.state.groupContext.epoch <= BigInt(epoch + tolerance) || Object.keys(g.state.unappliedProposals).length > 0) return false
  mine.again = true
  const made = await seal(g.state, mine.text, label(mine.id, true))
  g.state = made.newState
  g.mine.set((await post(g, made.privateMessage)).seq, { ...mine, again: false })
  return true
}

async function welcomed(letter, said) {
  if (me.groups.has(letter.room)) return
  const { welcome } = m.decodeMlsMessage(bin(letter.body, 'body'), 0)[0]
  const own = me.packages.find((p) => welcome.secrets.some((s) => same(s.newMember, p.ref)))
  if (!own) throw new Error('a Welcome for no key package of this device')
  const tree = await call('GET', roomPath(letter.room, `/tree?epoch=${letter.epoch}`))
  const state = await m.joinGroup(welcome, own.publicPackage, own.privatePackage, m.emptyPskIndex, cs, decodeRatchetTree(bin(tree.tree, 'tree'), 0)[0], undefined, config)
  if (!own.last) me.packages.splice(me.packages.indexOf(own), 1)
  const group = { room: letter.room, state }
  me.groups.set(letter.room, group)
  for (const e of me.early.get(letter.room) ?? []) await take(group, e, said)
  me.early.delete(letter.room)
}

// take follows one event of a room's log.
async function take(group, event, said) {
  if (!event.sealed || group.removed) return
  const sealed = bin(event.sealed, 'sealed')
  const message = m.decodeMlsMessage(sealed, 0)[0]
  if (message.wireformat === 'mls_private_message') return read(group, event, message.privateMessage, said)
  const { content } = message.publicMessage
  if (content.epoch < group.state.groupContext.epoch) return
  const ours = content.sender.senderType === 'member' && content.sender.leafIndex === group.state.privatePath.leafIndex
  if (content.contentType !== 'commit') {
    if (!ours) group.state = (await m.processPublicMessage(group.state, message.publicMessage, m.emptyPskIndex, cs)).newState
    return
  }
  const next = ours && group.pending && same(group.pending.commit, sealed) ? group.pending.state : (await m.processPublicMessage(group.state, message.publicMessage, m.emptyPskIndex, cs)).newState
  group.removed = next.groupActiveState.kind === 'removedFromGroup'
  if (!group.removed) await certified(group, event, sealed, next.groupContext)
  group.state = next
  group.pending = undefined
}

async function read(group, event, message, said) {
  if (message.contentType !== 'application' || group.sent?.has(event.sealed)) return
  if (message.epoch < group.first) return
  let opened
  try {
    opened = await m.processPrivateMessage(group.state, message, m.emptyPskIndex, cs)
  } catch (error) {
    if (error.message.includes('epoch too old')) return // from before this member came
    throw error
  }
  group.state = opened.newState
  const { again, id } = readLabel(message.authenticatedData)
  group.heard ??= new Set()
  if (again && group.heard.has(event.sender + id)) return
  if (id) group.heard.add(event.sender + id)
  const [, type] = unvec(opened.message, unvec(opened.message, 0)[1])
  const part = uncbor(unvec(opened.message, type)[0])[6]
  said.push({ room: event.room, seq: event.seq, sender: event.sender, text: part[3] === 'text/markdown' || part[3]?.startsWith('text/plain') ? text(part[4]) : '' })
}

// certified checks that enough of the homeservers that agreed on epochs so far have signed what
// this member made of the commit (PROTOCOL §6).
async function certified(group, event, sealed, context) {
  const [voters, rule] = deciding(group.state.groupContext)
  const [after, ruleAfter] = deciding(context)
  const need = rule === 1 ? Math.floor((voters.length * 2) / 3) + 1 : Math.floor(voters.length / 2) + 1
  const given = new Set()
  for (const [signed, signature] of uncbor(bin(event.certificate ?? '', 'certificate'))) {
    const [room, epoch, commit, transcript, tree, , domains, by, domain] = uncbor(signed)
    const facts = room === group.room && BigInt(epoch) === context.epoch && same(commit, sha256(sealed)) && domains.join() === after.join() && by === ruleAfter
    if (!facts || !same(transcript, context.confirmedTranscriptHash) || !same(tree, context.treeHash)) throw new Error('a certificate of something else')
    if (!voters.includes(domain)) continue
    if (await cs.signature.verify(await homeserverKey(domain), labelled('isthmus approval', signed), signature)) given.add(domain)
  }
  if (given.size < need) throw new Error(`a certificate of ${given.size} of ${voters.length} homeservers`)
}

// deciding are the homeservers that a group names as its authority, and their rule.
function deciding(context) {
  const data = readDictionary(context.extensions.find((e) => e.extensionType === dictionary).extensionData).get(authority)
  const [domains, at] = unvec(data, 0)
  return [[...entries(domains, unvec)].map(text).sort(), data[at]]
}

// homeserverKey is the first key of a homeserver's newest record, the chain being checked.
async function homeserverKey(domain) {
  if (me.chains.has(domain)) return me.chains.get(domain)
  const { records } = await call('GET', `/v1/homeservers/${encodeURIComponent(domain)}`)
  let keys
  let last
  for (const envelope of records) {
    const [bytes, signature] = uncbor(bin(envelope, 'record'))
    const record = uncbor(bytes)
    const by = keys ?? record[3]
    if (record[2] !== domain || (last && !same(record[4], last))) throw new Error(`the chain of ${domain} is broken`)
    const good = await Promise.all(by.map((k) => cs.signature.verify(k[1], labelled('isthmus homeserver record 1', bytes), signature)))
    if (!good.includes(true)) throw new Error(`a record of ${domain} that nobody signed`)
    keys = record[3]
    last = sha256(bytes)
  }
  me.chains.set(domain, keys[0][1])
  return keys[0][1]
}

function group(room) {
  const g = me.groups.get(room)
  if (!g || g.removed) throw new Error('not in that room')
  return g
}

// seal makes a message that says a text, as MIMI content in an ApplicationFraming of the
// group's first media type.
async function seal(state, said, authenticated = new Uint8Array()) {
  const content = Uint8Array.from(cbor([crypto.randomBytes(16), null, new Uint8Array(), null, null, {}, [1, '', 1, 'text/plain;charset=utf-8', octets(said)]].map((v) => (Buffer.isBuffer(v) ? new Uint8Array(v) : v))))
  return m.createApplicationMessage(state, Uint8Array.from([...vec(), ...vec(), ...vec(content)]), cs, authenticated)
}

// post hands a sealed message to the homeserver.
async function post(g, privateMessage) {
  const sealed = b64(m.encodeMlsMessage({ version: 'mls10', wireformat: 'mls_private_message', privateMessage }))
  g.sent = (g.sent ?? new Set()).add(sealed)
  const { results } = await call('POST', roomPath(g.room, '/messages'), { messages: [{ id: b64(sha256(octets(sealed))).slice(0, 22), sealed }] })
  if (results[0].error) throw Object.assign(new Error(`${results[0].error.code}: ${results[0].error.text}`), { refusal: results[0].error })
  return { seq: results[0].seq }
}

async function send({ room, text: said }) {
  const g = group(room)
  if (Object.keys(g.state.unappliedProposals).length > 0) throw new Error('proposals wait to be committed')
  const id = crypto.randomBytes(16)
  const made = await seal(g.state, said, label(id, false))
  g.state = made.newState
  const sent = await post(g, made.privateMessage)
  g.mine = (g.mine ?? new Map()).set(sent.seq, { text: said, id })
  return sent
}

// code is what a request was refused with; '' if it was taken.
const code = (asked) => asked.then(() => '', (error) => error.refusal?.code ?? String(error))

// reuse says several texts with one key and nonce.
async function reuse({ room, texts }) {
  const g = group(room)
  const made = []
  for (const said of texts) made.push(await seal(g.state, said))
  g.state = made[0].newState
  const codes = []
  for (const one of made) codes.push(await code(post(g, one.privateMessage)))
  return { codes }
}

// ahead says something in an epoch that has not begun.
async function ahead({ room, by }) {
  const g = group(room)
  const { privateMessage } = await seal(g.state, 'from the future')
  return { codes: [await code(post(g, { ...privateMessage, epoch: privateMessage.epoch + BigInt(by) }))] }
}

// propose offers to renew this member's leaf, many times.
async function propose({ room, count }) {
  const g = group(room)
  const { leafIndex } = g.state.privatePath
  const { leaf } = g.state.ratchetTree[2 * leafIndex]
  const { extensions, capabilities, credential, signaturePublicKey } = leaf
  const codes = []
  for (let i = 0; i < count; i++) {
    const pair = await cs.hpke.generateKeyPair()
    const tbs = { leafNodeSource: 'update', hpkePublicKey: await cs.hpke.exportPublicKey(pair.publicKey), extensions, capabilities, credential, signaturePublicKey, groupId: g.state.groupContext.groupId, leafIndex }
    const leafNode = await signLeafNodeCommit(tbs, me.keys.signKey, cs.signature) // signs any kind of leaf
    const { message } = await m.createProposal(g.state, true, { proposalType: 'update', update: { leafNode } }, cs)
    codes.push(await code(call('POST', roomPath(room, '/handshakes'), { message: b64(m.encodeMlsMessage(message)) })))
  }
  return { codes }
}

// repeat makes one request many times. What a claim came to stands in its answer.
async function repeat({ method, path, body, count }) {
  const codes = []
  for (let i = 0; i < count; i++) {
    codes.push(await call(method, path, body).then((a) => a.claims?.map((c) => c.status).join() ?? '', (error) => error.refusal?.code ?? String(error)))
  }
  return { codes }
}

// commit renews this member's keys and takes in what others proposed. The group goes on when
// the commit comes back with its certificate.
async function commit({ room }) {
  const g = group(room)
  const made = await m.createCommit({ state: g.state, cipherSuite: cs }, { wireAsPublicMessage: true })
  const { state } = { state: made.newState }
  const pair = await cs.hpke.deriveKeyPair(state.keySchedule.externalSecret)
  const external = { extensionType: 'external_pub', extensionData: Uint8Array.from(vec(await cs.hpke.exportPublicKey(pair.publicKey))) }
  const info = await createGroupInfo(state.groupContext, state.confirmationTag, state, [external], cs)
  const partial = [2, 0, ...vec(encodeExtension(external)), ...vec(info.signature)] // without the tree, before and now
  const message = m.encodeMlsMessage(made.commit)
  g.pending = { commit: message, state }
  try {
    return await call('POST', roomPath(room, '/handshakes'), { message: b64(message), info: b64(Uint8Array.from(partial)) })
  } catch (error) {
    if (error.refusal?.code !== 'unavailable') g.pending = undefined
    throw error
  }
}

await serve({
  register,
  sync,
  send,
  commit,
  reuse,
  ahead,
  propose,
  repeat,
  state: ({ room }) => {
    const g = me.groups.get(room)
    if (!g) return { joined: false }
    return { joined: !g.removed, epoch: g.state.groupContext.epoch, pending: Object.keys(g.state.unappliedProposals).length, authenticator: b64(g.state.keySchedule.epochAuthenticator) }
  },
})
