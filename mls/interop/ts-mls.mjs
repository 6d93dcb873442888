// ts-mls (npm, MIT) as a peer for the MLS tests: one request a line on standard input, one
// answer a line, as docs/MLS.md describes under "Driving a peer".
//
//   node ts-mls.mjs [--npm <folder>]            speaks the protocol
//   node ts-mls.mjs bench <n> [--npm <folder>]  prints how long it takes in a group of n
//
// The state has two fields more than the protocol asks for: `own`, this client's leaf, and
// `reinit`, the id and suite of the group to follow, once a ReInit has ended this one.
import crypto from 'node:crypto'
import { b64, Bench, bin, identity as named, list, load, same, serve, text } from './lines.mjs'
import { mend, unmergedLeaves } from './mended.mjs'

mend({ 'clientState.js': unmergedLeaves })

const dist = (name) => load('ts-mls', 'dist', 'src', name)
const m = await dist('index.js')
const { decryptSenderData } = await dist('privateMessage.js')
const { makeKeyPackageRef } = await dist('keyPackage.js')
const { signLeafNodeKeyPackage: signLeafNode } = await dist('leafNode.js')
const { decryptGroupSecrets } = await dist('welcome.js')
const { decodeRatchetTree, encodeRatchetTree } = await dist('ratchetTree.js')
const { createGroupInfo } = await dist('createCommit.js')

// The post-quantum suites carry this package's own numbers, 77 to 88.
const numbers = m.ciphersuites
const names = new Map(Object.entries(numbers).map(([name, number]) => [number, name]))
const lastResort = 0x000a // extension type last_resort, RFC 9420's registry

const config = {
  keyRetentionConfig: { retainKeysForGenerations: 1000, retainKeysForEpochs: 4, maximumForwardRatchetSteps: 2000 },
  lifetimeConfig: { maximumTotalLifetime: 10_000_000n, validateLifetimeOnReceive: false },
  keyPackageEqualityConfig: m.defaultKeyPackageEqualityConfig,
  paddingConfig: m.defaultPaddingConfig,
  authService: m.defaultAuthenticationService,
}

// The library's ECDSA takes ten times as long as Node's, and makes compressed keys where RFC
// 9420 §5.1.1 wants uncompressed ones. So Node signs; its signatures have the same form.
const curves = { P256: ['P-256', 32, 'sha256'], P384: ['P-384', 48, 'sha384'], P521: ['P-521', 66, 'sha512'] }
const signKeys = new Map()
function ecdsa(params, cs) {
  if (!curves[params.signature]) return cs
  const [crv, size, hash] = curves[params.signature]
  const url = (bytes) => Buffer.from(bytes).toString('base64url')
  const raw = (text) => Buffer.from(text, 'base64url')
  const signature = {
    async keygen() {
      const { privateKey } = crypto.generateKeyPairSync('ec', { namedCurve: crv })
      const { d, x, y } = privateKey.export({ format: 'jwk' })
      signKeys.set(d, privateKey)
      return { signKey: Uint8Array.from(raw(d)), publicKey: Uint8Array.from([4, ...raw(x), ...raw(y)]) }
    },
    async sign(signKey, message) {
      return new Uint8Array(crypto.sign(hash, message, signKeys.get(url(signKey))))
    },
    async verify(key, message, signature) {
      if (key.length !== 1 + 2 * size || key[0] !== 4) return false
      const jwk = { kty: 'EC', crv, x: url(key.subarray(1, 1 + size)), y: url(key.subarray(1 + size)) }
      return crypto.verify(hash, message, crypto.createPublicKey({ key: jwk, format: 'jwk' }), signature)
    },
  }
  return { ...cs, signature }
}

const impls = new Map()
async function suite(number) {
  const name = names.get(number)
  if (!name) throw new Error(`suite ${number} is not known`)
  if (!impls.has(number)) {
    // The noble provider has every suite; WebCrypto lacks some and is no faster here.
    const params = m.getCiphersuiteFromName(name)
    impls.set(number, ecdsa(params, await m.getCiphersuiteImpl(params, m.nobleCryptoProvider)))
  }
  return impls.get(number)
}

// A Client is one device: its signature keys (one a suite and identity, so that a resync
// finds its former leaf), unused key packages, groups, and pre-shared keys.
class Client {
  keys = new Map()
  packages = []
  groups = new Map()
  psks = {}

  async signatureKey(number, identity) {
    const name = `${number} ${identity}`
    if (!this.keys.has(name)) this.keys.set(name, await (await suite(number)).signature.keygen())
    return this.keys.get(name)
  }

  async package(number, identity, isLastResort = false) {
    if (typeof identity !== 'string' || identity === '') throw new Error('identity: text expected')
    const cs = await suite(number)
    const now = BigInt(Math.floor(Date.now() / 1000))
    const { publicPackage, privatePackage } = await m.generateKeyPackageWithKey(
      { credentialType: 'basic', identity: new TextEncoder().encode(identity) },
      capabilities(isLastResort),
      { notBefore: now - 3600n, notAfter: now + 7_000_000n },
      isLastResort ? [{ extensionType: lastResort, extensionData: new Uint8Array() }] : [],
      await this.signatureKey(number, identity),
      cs,
    )
    const ref = await makeKeyPackageRef(publicPackage, cs.hash)
    return { cs, publicPackage, privatePackage, ref, isLastResort }
  }

  group(id) {
    const group = this.groups.get(b64(bin(id, 'group')))
    if (!group) throw new Error('unknown group')
    return group
  }

  // Keeps the group, and gives what every answer about a group says.
  keep(state, cs, updates = new Map()) {
    const group = { state, cs, updates }
    this.groups.set(b64(state.groupContext.groupId), group)
    return group
  }

  // The library looks only into the group at hand for resumption secrets; a reinit or a
  // branch names another one.
  pskIndex() {
    return {
      findPsk: (id) => {
        const from = id.psktype === 'resumption' ? this.groups.get(b64(id.pskGroupId))?.state : undefined
        return m.makePskIndex(from, this.psks).findPsk(id)
      },
    }
  }
}

// Capabilities with one GREASE value a list, always the same ones, so that runs repeat.
function capabilities(isLastResort) {
  return {
    versions: ['mls10'],
    ciphersuites: [...Object.keys(numbers), String(0x0a0a)],
    extensions: [0x1a1a, ...(isLastResort ? [lastResort] : [])],
    proposals: [0x2a2a],
    credentials: ['basic', 'x509', String(0x3a3a)],
  }
}

const clients = new Map()
function client(name, make = false) {
  if (typeof name !== 'string' || name === '') throw new Error('client: a name expected')
  if (!clients.has(name)) {
    if (!make) throw new Error('unknown client')
    clients.set(name, new Client())
  }
  return clients.get(name)
}

function locate(request) {
  const c = client(request.client)
  return { c, group: c.group(request.group) }
}

// encode and decode are for MLSMessage.
const encode = (wireformat, field, value) => b64(m.encodeMlsMessage({ version: 'mls10', wireformat, [field]: value }))

function decode(value, name, ...wanted) {
  const bytes = bin(value, name)
  const read = m.decodeMlsMessage(bytes, 0)
  if (!read) throw new Error(`${name}: not an MLSMessage`)
  if (read[1] !== bytes.length) throw new Error(`${name}: ${bytes.length - read[1]} octets too many`)
  if (!wanted.includes(read[0].wireformat)) throw new Error(`${name}: ${read[0].wireformat} is not expected`)
  return read[0]
}

const keyPackage = (value) => decode(value, 'key_package', 'mls_key_package').keyPackage

function stateOf({ state }) {
  const members = []
  for (let i = 0; i < state.ratchetTree.length; i += 2) {
    const node = state.ratchetTree[i]
    if (node === undefined) continue
    const { credential } = node.leaf
    members.push({ index: i / 2, identity: credential.identity ? text(credential.identity) : '' })
  }
  const answer = {
    epoch: state.groupContext.epoch,
    members,
    own: state.privatePath.leafIndex,
    epoch_authenticator: b64(state.keySchedule.epochAuthenticator),
    tree_hash: b64(state.groupContext.treeHash),
  }
  const { kind, reinit } = state.groupActiveState
  if (kind === 'suspendedPendingReinit') {
    answer.reinit = { group: b64(reinit.groupId), suite: numbers[reinit.cipherSuite] }
  }
  return { state: answer }
}

// What is said of proposals: each of these gives one by value.
const proposal = {
  add: (kp) => ({ proposalType: 'add', add: { keyPackage: keyPackage(kp) } }),
  remove: (removed) => {
    if (!Number.isInteger(removed) || removed < 0) throw new Error('member: a leaf index expected')
    return { proposalType: 'remove', remove: { removed } }
  },
  psk: (id, cs) => ({
    proposalType: 'psk',
    psk: { preSharedKeyId: { psktype: 'external', pskId: bin(id, 'psk'), pskNonce: cs.rng.randomBytes(cs.kdf.size) } },
  }),
  resumption: (state, usage, cs) => ({
    proposalType: 'psk',
    psk: {
      preSharedKeyId: {
        psktype: 'resumption',
        usage,
        pskGroupId: state.groupContext.groupId,
        pskEpoch: state.groupContext.epoch,
        pskNonce: cs.rng.randomBytes(cs.kdf.size),
      },
    },
  }),
  reinit: ({ new_group, suite: number }) => {
    if (!names.has(number)) throw new Error(`suite ${number} is not known`)
    return {
      proposalType: 'reinit',
      reinit: { groupId: bin(new_group, 'new_group'), version: 'mls10', cipherSuite: names.get(number), extensions: [] },
    }
  },
}

// The library commits every pending proposal; one's own Update cannot be among them, and
// an op that gives its proposals by value wants no other.
function pending(state, references) {
  if (!references) return {}
  const own = state.privatePath.leafIndex
  const kept = Object.entries(state.unappliedProposals).filter(
    ([, p]) => !(p.proposal.proposalType === 'update' && p.senderLeafIndex === own),
  )
  return Object.fromEntries(kept)
}

async function commit(request, extraProposals, references = false) {
  const { c, group } = locate(request)
  const state = { ...group.state, unappliedProposals: pending(group.state, references) }
  const made = await m.createCommit(
    { state, cipherSuite: group.cs, pskIndex: c.pskIndex() },
    {
      extraProposals,
      wireAsPublicMessage: !request.private,
      ratchetTreeExtension: request.tree !== false,
      authenticatedData: request.aad ? bin(request.aad, 'aad') : new Uint8Array(),
    },
  )
  const next = c.keep(made.newState, group.cs)
  return { commit: b64(m.encodeMlsMessage(made.commit)), ...welcomeOf(made, request), ...stateOf(next) }
}

function welcomeOf(made, request) {
  const answer = {}
  if (made.welcome) answer.welcome = encode('mls_welcome', 'welcome', made.welcome)
  if (request.tree === false) answer.ratchet_tree = b64(encodeRatchetTree(made.newState.ratchetTree))
  return answer
}

async function propose(request, given) {
  const { c, group } = locate(request)
  const made = await m.createProposal(group.state, !request.private, given, group.cs)
  const next = c.keep(made.newState, group.cs, group.updates)
  return { proposal: b64(m.encodeMlsMessage(made.message)), ...stateOf(next) }
}

// The library has no call that makes an Update: this signs the leaf with a new key, and
// `apply` gives that key to the state when the commit that takes it arrives.
async function proposeUpdate(request) {
  const { group } = locate(request)
  const { state, cs } = group
  const { leafIndex } = state.privatePath
  const { hpkePublicKey: _, leafNodeSource: _s, lifetime: _l, parentHash: _p, signature: _g, ...old } = state.ratchetTree[2 * leafIndex].leaf
  const pair = await cs.hpke.generateKeyPair()
  const hpkePublicKey = await cs.hpke.exportPublicKey(pair.publicKey)
  const tbs = { ...old, hpkePublicKey, leafNodeSource: 'update', groupId: state.groupContext.groupId, leafIndex }
  const leafNode = await signLeafNode(tbs, state.signaturePrivateKey, cs.signature)
  const answer = await propose(request, { proposalType: 'update', update: { leafNode } })
  locate(request).group.updates.set(b64(hpkePublicKey), await cs.hpke.exportPrivateKey(pair.privateKey))
  return answer
}

// apply gives a proposal or a commit to the state. The library's callback is asked after
// the proposals were checked and before the path is opened: there, one's own new leaf key
// takes its place (in a copy, for the commit may yet be refused).
//
// That this client is removed the library sees from its leaf being blank, which it is not
// if the same commit adds somebody there; then it fails to open the path. So the callback
// looks for the Remove as well.
async function apply(c, group, message) {
  const { privatePath } = group.state
  const own = privatePath.leafIndex
  const state = { ...group.state, privatePath: { ...privatePath, privateKeys: { ...privatePath.privateKeys } } }
  let removed = false
  const take = ({ proposal: p, senderLeafIndex }) => {
    if (p.proposalType === 'remove' && p.remove.removed === own) removed = true
    if (p.proposalType !== 'update' || senderLeafIndex !== own) return
    const key = group.updates.get(b64(p.update.leafNode.hpkePublicKey))
    if (!key) throw new Error('an Update of this client that it did not make')
    state.privatePath.privateKeys[2 * own] = key
  }
  const callback = (incoming) => {
    if (incoming.kind === 'commit') incoming.proposals.forEach(take)
    return 'accept'
  }
  try {
    // Not processMessage: it looks up no pre-shared key for a PrivateMessage.
    const { newState } = message.publicMessage
      ? await m.processPublicMessage(state, message.publicMessage, c.pskIndex(), group.cs, callback)
      : await m.processPrivateMessage(state, message.privateMessage, c.pskIndex(), group.cs, callback)
    return { newState, removed }
  } catch (error) {
    if (removed && error.message.includes('No overlap')) return { removed }
    throw error
  }
}

async function process_(request) {
  const { c, group } = locate(request)
  const message = decode(request.message, 'message', 'mls_public_message', 'mls_private_message')
  const content = message.privateMessage?.contentType ?? message.publicMessage.content.contentType
  if (content === 'application') throw new Error('message: a proposal or a commit expected')
  const { newState, removed } = await apply(c, group, message)
  if (removed) {
    c.groups.delete(b64(group.state.groupContext.groupId))
    return { removed }
  }
  const sameEpoch = newState.groupContext.epoch === group.state.groupContext.epoch
  return stateOf(c.keep(newState, group.cs, sameEpoch ? group.updates : new Map()))
}

async function seal(request) {
  const { c, group } = locate(request)
  const aad = request.aad ? bin(request.aad, 'aad') : new Uint8Array()
  const made = await m.createApplicationMessage(group.state, bin(request.data, 'data'), group.cs, aad)
  const next = c.keep(made.newState, group.cs, group.updates)
  return { message: encode('mls_private_message', 'privateMessage', made.privateMessage), ...stateOf(next) }
}

async function open(request) {
  const { c, group } = locate(request)
  const { state, cs } = group
  const { privateMessage } = decode(request.message, 'message', 'mls_private_message')
  if (privateMessage.contentType !== 'application') throw new Error('message: application data expected')
  const result = await m.processPrivateMessage(state, privateMessage, c.pskIndex(), cs)
  // The sender is not in the result, so the sender data is opened a second time.
  const past = state.historicalReceiverData.get(privateMessage.epoch)
  const secret = (privateMessage.epoch === state.groupContext.epoch ? state.keySchedule : past).senderDataSecret
  const sender = await decryptSenderData(privateMessage, secret, cs)
  const next = c.keep(result.newState, cs, group.updates)
  return {
    data: b64(result.message),
    aad: b64(privateMessage.authenticatedData),
    sender: sender.leafIndex,
    ...stateOf(next),
  }
}

async function join(request) {
  const c = client(request.client)
  const { welcome } = decode(request.welcome, 'welcome', 'mls_welcome')
  const own = c.packages.find((p) => welcome.secrets.some((s) => same(s.newMember, p.ref)))
  if (!own) throw new Error('welcome: for no key package of this client')
  const tree = request.ratchet_tree && decodeRatchetTree(bin(request.ratchet_tree, 'ratchet_tree'), 0)?.[0]
  const { cs } = own
  // A Welcome after a reinit or a branch needs the former group, which only its secrets name.
  const key = await cs.hpke.importPrivateKey(own.privatePackage.initPrivateKey)
  const secrets = await decryptGroupSecrets(key, own.ref, welcome, cs.hpke)
  const former = secrets?.psks.find((p) => p.psktype === 'resumption' && p.usage !== 'application')
  const from = former && c.groups.get(b64(former.pskGroupId))?.state
  const state = await m.joinGroup(welcome, own.publicPackage, own.privatePackage, c.pskIndex(), cs, tree, from, config)
  if (!own.isLastResort) c.packages.splice(c.packages.indexOf(own), 1)
  return { group: b64(state.groupContext.groupId), ...stateOf(c.keep(state, cs)) }
}

// The library reads and writes external_pub as the bare key, where RFC 9420 §12.4.3.2 has a
// struct, so a length goes before it. vector and unvector stand between.
function vector(key) {
  const length = key.length < 64 ? [key.length] : key.length < 16384 ? [0x40 | (key.length >> 8), key.length & 255] : null
  if (!length) throw new Error('a key too long')
  return Uint8Array.from([...length, ...key])
}

function unvector(data) {
  const size = data[0] >> 6 === 0 ? 1 : 2
  const length = size === 1 ? data[0] : ((data[0] & 63) << 8) | data[1]
  if (data[0] >> 6 > 1 || data.length !== size + length) throw new Error('external_pub: not a vector')
  return data.slice(size)
}

// groupInfo is a signed GroupInfo with external_pub and, unless told not, the tree.
async function groupInfo({ state, cs }, tree = true) {
  const pair = await cs.hpke.deriveKeyPair(state.keySchedule.externalSecret)
  const extensions = [{ extensionType: 'external_pub', extensionData: vector(await cs.hpke.exportPublicKey(pair.publicKey)) }]
  if (tree) extensions.push({ extensionType: 'ratchet_tree', extensionData: encodeRatchetTree(state.ratchetTree) })
  return createGroupInfo(state.groupContext, state.confirmationTag, state, extensions, cs)
}

async function externalJoin(request) {
  const { groupInfo: info } = decode(request.group_info, 'group_info', 'mls_group_info')
  const number = numbers[info.groupContext.cipherSuite]
  if (number !== request.suite) throw new Error(`suite: the group's is ${number}`)
  const c = client(request.client, true)
  const own = await c.package(number, request.identity)
  const wrapped = info.extensions.find((e) => e.extensionType === 'external_pub')?.extensionData
  // The signature covers the extension, so the key is freed of its length only where used.
  const { hpke } = own.cs
  const cs = { ...own.cs, hpke: { ...hpke, importPublicKey: (k) => hpke.importPublicKey(k === wrapped ? unvector(k) : k) } }
  const tree = request.ratchet_tree && decodeRatchetTree(bin(request.ratchet_tree, 'ratchet_tree'), 0)?.[0]
  const made = await m.joinGroupExternal(info, own.publicPackage, own.privatePackage, !!request.resync, cs, tree, config)
  return {
    group: b64(info.groupContext.groupId),
    commit: encode('mls_public_message', 'publicMessage', made.publicMessage),
    ...stateOf(c.keep(made.newState, own.cs)),
  }
}

// found starts a group whose first commit adds members and names the former group's
// resumption secret.
async function found(request, groupId, number, usage) {
  const { c, group: former } = locate(request)
  const { leaf } = former.state.ratchetTree[2 * former.state.privatePath.leafIndex]
  const own = await c.package(number, request.identity ?? text(leaf.credential.identity))
  const extensions = usage === 'branch' ? former.state.groupContext.extensions : former.state.groupActiveState.reinit.extensions
  const state = await m.createGroup(groupId, own.publicPackage, own.privatePackage, extensions, own.cs, config)
  const adds = (request.key_packages ?? []).map(proposal.add)
  const made = await m.createCommit(
    { state, cipherSuite: own.cs, pskIndex: c.pskIndex() },
    {
      extraProposals: [...adds, proposal.resumption(former.state, usage, own.cs)],
      wireAsPublicMessage: !request.private,
      ratchetTreeExtension: request.tree !== false,
    },
  )
  return { group: b64(groupId), ...welcomeOf(made, request), ...stateOf(c.keep(made.newState, own.cs)) }
}

const ops = {
  hello: () => ({
    name: 'ts-mls',
    version: '1.6.4',
    suites: [...names.keys()].sort((a, b) => a - b),
    can: [
      ...Object.keys(ops).filter((op) => op !== 'hello'),
      ...['private', 'propose', 'resync', 'tree', 'last_resort', 'aad', 'past_epochs'],
      ...['tree_hash', 'epoch_authenticator'],
    ],
  }),
  key_package: async (r) => {
    const c = client(r.client, true)
    const own = await c.package(r.suite, r.identity, !!r.last_resort)
    c.packages.push(own)
    return { key_package: encode('mls_key_package', 'keyPackage', own.publicPackage) }
  },
  create: async (r) => {
    const c = client(r.client, true)
    const own = await c.package(r.suite, r.identity)
    const state = await m.createGroup(bin(r.group, 'group'), own.publicPackage, own.privatePackage, [], own.cs, config)
    return stateOf(c.keep(state, own.cs))
  },
  add: (r) => commit(r, list(r, 'key_packages').map(proposal.add)),
  remove: (r) => commit(r, list(r, 'members').map(proposal.remove)),
  update: (r) => commit(r, []),
  commit: (r) => {
    const { cs } = locate(r).group
    const given = [
      ...(r.key_packages ?? []).map(proposal.add),
      ...(r.members ?? []).map(proposal.remove),
      ...(r.psks ?? []).map((id) => proposal.psk(id, cs)),
    ]
    return commit(r, given, true)
  },
  propose_add: (r) => propose(r, proposal.add(r.key_package)),
  propose_remove: (r) => propose(r, proposal.remove(r.member)),
  propose_update: proposeUpdate,
  propose_psk: (r) => propose(r, proposal.psk(r.psk, locate(r).group.cs)),
  propose_reinit: (r) => propose(r, proposal.reinit(r)),
  join,
  external_join: externalJoin,
  group_info: async (r) => {
    const { group } = locate(r)
    const answer = { group_info: encode('mls_group_info', 'groupInfo', await groupInfo(group, r.tree !== false)) }
    if (r.tree === false) answer.ratchet_tree = b64(encodeRatchetTree(group.state.ratchetTree))
    return { ...answer, ...stateOf(group) }
  },
  process: process_,
  seal,
  open,
  export: async (r) => {
    const { group } = locate(r)
    const context = r.context ? bin(r.context, 'context') : new Uint8Array()
    const secret = await m.mlsExporter(group.state.keySchedule.exporterSecret, r.label, context, r.length, group.cs)
    return { secret: b64(secret), ...stateOf(group) }
  },
  psk: (r) => {
    client(r.client, true).psks[b64(bin(r.psk, 'psk'))] = bin(r.secret, 'secret')
    return {}
  },
  reinit: (r) => commit(r, [proposal.reinit(r)]),
  reinit_group: (r) => {
    const { kind, reinit } = locate(r).group.state.groupActiveState
    if (kind !== 'suspendedPendingReinit') throw new Error('the group was not ended by a ReInit')
    return found(r, reinit.groupId, numbers[reinit.cipherSuite], 'reinit')
  },
  branch: (r) => found(r, bin(r.new_group, 'new_group'), numbers[locate(r).group.state.groupContext.cipherSuite], 'branch'),
  state: (r) => stateOf(locate(r).group),
}

// The bench: suite 1, PublicMessage handshakes, everything in and out serialised.
async function bench(n) {
  const cs = await suite(1)
  const b = new Bench(n)
  const make = async (i) => new Client().package(1, named(i))
  const read = (bytes) => m.decodeMlsMessage(bytes, 0)[0]
  const packet = (own) => m.encodeMlsMessage({ version: 'mls10', wireformat: 'mls_key_package', keyPackage: own.publicPackage })
  const change = async (state, extraProposals) => {
    const made = await m.createCommit({ state, cipherSuite: cs }, { extraProposals, wireAsPublicMessage: true, ratchetTreeExtension: true })
    const message = (wireformat, field) => m.encodeMlsMessage({ version: 'mls10', wireformat, [field]: made[field] })
    const welcome = made.welcome && message('mls_welcome', 'welcome')
    return { state: made.newState, commit: m.encodeMlsMessage(made.commit), welcome }
  }
  const adds = (packets) => packets.map((p) => ({ proposalType: 'add', add: { keyPackage: read(p).keyPackage } }))
  const process = async (state, bytes) => (await m.processMessage(read(bytes), state, m.makePskIndex(state, {}), m.acceptAll, cs)).newState

  const [founder, second] = [await make(0), await make(1)]
  const others = [second]
  for (let i = 2; i < n; i++) others.push(await make(i))
  const packets = others.map(packet)
  const empty = await m.createGroup(Uint8Array.from([1]), founder.publicPackage, founder.privatePackage, [], cs, config)
  let made
  await b.repeat({ budget: 8000 }, async () => (made = await b.time('create', () => change(empty, adds(packets)))))
  let a = made.state
  let s
  await b.repeat({ budget: 4000 }, async () => {
    s = await b.time('join', () => m.joinGroup(read(made.welcome).welcome, second.publicPackage, second.privatePackage, m.emptyPskIndex, cs, undefined, undefined, config))
  })
  await b.repeat({ budget: 8000 }, async () => {
    const u = await b.time('update_create_cold', () => change(a, []))
    a = u.state
    s = await b.time('update_process_cold', () => process(s, u.commit))
  })
  await b.repeat({ budget: 8000 }, async (i) => {
    const kp = packet(await make(n + i))
    const add = await b.time('add_create', () => change(a, adds([kp])))
    const added = await b.time('add_process', () => process(s, add.commit))
    const remove = await b.time('remove_create', () => change(add.state, [{ proposalType: 'remove', remove: { removed: n } }]))
    s = await b.time('remove_process', () => process(added, remove.commit))
    a = remove.state
  })
  const data = new Uint8Array(1024).fill(7)
  await b.repeat({ most: 100, budget: 2000 }, async () => {
    const message = await b.time('encrypt_1k', async () => {
      const e = await m.createApplicationMessage(a, data, cs)
      a = e.newState
      return m.encodeMlsMessage({ version: 'mls10', wireformat: 'mls_private_message', privateMessage: e.privateMessage })
    })
    s = await b.time('decrypt_1k', () => process(s, message))
  })
  b.print()
}

if (process.argv[2] === 'bench') await bench(Number(process.argv[3]))
else await serve(ops)
