package group

import (
	"bytes"
	"maps"
	"slices"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

// snapshotVersion is the first octet of a snapshot.
const snapshotVersion = 1

// Snapshot is the whole state: secrets included, so it is stored as one would
// store a private key. Restore continues from it. It has the size of the
// ratchet tree and some; between two snapshots Changes is enough, except after
// Merge, Create and Join, which begin an epoch.
func (g *Group) Snapshot() []byte {
	g.changes, g.journal = nil, true
	b := append([]byte(nil), snapshotVersion, byte(g.status))
	b = codec.AppendOptional(b, g.reinit != nil)
	if g.reinit != nil {
		p := mls.Proposal{Type: mls.ProposalReInit, ReInit: *g.reinit}
		b = codec.AppendVec(b, p.AppendTo(nil))
	}
	b = codec.AppendVec(b, g.public.AppendTo(nil))
	b = codec.AppendVec(codec.Uint32(b, g.self), g.signer.PublicKey())
	b, mark := codec.Begin(b)
	for _, node := range g.keys.nodes() {
		b = codec.AppendVec(codec.Uint32(b, node), g.keys[node].private)
	}
	b = codec.End(b, mark)
	for _, field := range secretFields(g.secrets) {
		b = codec.AppendVec(b, *field)
	}
	b = codec.AppendVec(b, g.ratchets.AppendTo(nil))
	b = codec.AppendVec(b, g.exporter.AppendTo(nil))
	b = codec.Uint32(codec.Uint32(b, g.ahead[secret.Handshake]), g.ahead[secret.Application])
	b = g.appendPast(b)
	b, mark = codec.Begin(b)
	for _, ref := range slices.Sorted(maps.Keys(g.updates)) {
		b = codec.AppendVec(codec.AppendVec(b, ref), g.updates[ref])
	}
	b = codec.End(b, mark)
	b = codec.AppendOptional(b, g.pending != nil)
	if g.pending != nil {
		b = codec.AppendVec(b, g.pending.restored)
	}
	return b
}

// secretFields are the secrets of an epoch that last as long as it.
func secretFields(e *secret.Epoch) []*[]byte {
	return []*[]byte{&e.SenderData, &e.Exporter, &e.External, &e.Confirmation, &e.Membership, &e.Resumption, &e.Authenticator, &e.Init}
}

// appendPast appends past epochs and resumption keys. Of a past epoch's tree
// only those leaves are kept which are others now.
func (g *Group) appendPast(b []byte) []byte {
	b, mark := codec.Begin(b)
	for _, e := range g.past {
		b = codec.Uint32(codec.Uint64(b, e.number), e.self)
		b = codec.AppendVec(codec.AppendVec(b, e.context), e.secrets.SenderData)
		b = codec.AppendVec(b, e.ratchets.AppendTo(nil))
		var list int
		b, list = codec.Begin(b)
		for leaf := range max(e.ratchets.Leaves(), g.tree.Leaves()) {
			if key := e.signatureKey(leaf); !bytes.Equal(key, g.signatureKey(leaf)) {
				b = codec.AppendVec(codec.Uint32(b, leaf), key)
			}
		}
		b = codec.End(b, list)
	}
	b = codec.End(b, mark)
	b, mark = codec.Begin(b)
	for _, r := range g.resumptions {
		b = codec.AppendVec(codec.Uint64(b, r.epoch), r.psk)
	}
	return codec.End(b, mark)
}

// Restore continues from a snapshot and the change records that followed it,
// in order. signers finds a signer by its public key.
func Restore(c *Config, snapshot []byte, changes [][]byte, signers func(public []byte) (mls.Signer, bool)) (*Group, error) {
	r := codec.NewReader(bytes.Clone(snapshot))
	if r.Uint8() != snapshotVersion {
		return nil, mls.Refuse(mls.RuleMessage, "not a snapshot of this version")
	}
	g := &Group{config: c, limits: c.Limits.withDefaults(), status: Status(r.Uint8())}
	if err := g.restorePublic(&r); err != nil {
		return nil, err
	}
	key := r.Vec()
	if err := g.restoreKeys(&r); err != nil {
		return nil, err
	}
	if err := g.restoreRatchets(&r); err != nil {
		return nil, err
	}
	if leaf := g.tree.Leaf(g.self); leaf == nil || !bytes.Equal(leaf.SignatureKey, key) {
		return nil, mls.Refuse(mls.RuleSenderLeaf, "the own leaf %d is another", g.self)
	}
	if err := g.restorePast(&r); err != nil {
		return nil, err
	}
	restored, err := g.restoreUpdates(&r)
	if err != nil {
		return nil, err
	}
	var ok bool
	if g.signer, ok = signers(key); !ok {
		return nil, mls.Refuse(mls.RuleLeafKeys, "the signer of the own leaf is not there")
	}
	if err := g.restoreSigners(signers); err != nil {
		return nil, err
	}
	if restored != nil {
		if err := g.restorePending(restored, signers); err != nil {
			return nil, err
		}
	}
	for _, records := range changes {
		if err := g.replay(records, signers); err != nil {
			return nil, err
		}
	}
	g.journal = true
	g.public.SetPolicy(c.policy())
	return g, g.skipReserved()
}

// restored is a policy for what was judged when it came: times and credentials
// may have changed since.
func (c *Config) restored() *mls.Policy {
	p := *c.policy()
	p.Now, p.ForbidExternalCommit, p.ForbidResync, p.RequireExternalPSK = nil, false, false, false
	p.Authenticate = func(mls.LeafChange) error { return nil }
	return &p
}

// restorePublic reads what everybody knows, and which leaf is the own.
func (g *Group) restorePublic(r *codec.Reader) error {
	if r.Optional() {
		p, err := mls.ParseProposal(r.Vec())
		if err != nil {
			return err
		}
		g.reinit = &p.ReInit
	}
	public := r.Vec()
	g.self = r.Uint32()
	switch {
	case r.Err() != nil:
		return mls.WireError(r.Err())
	case g.status > Reinitialized || (g.status == Reinitialized) != (g.reinit != nil):
		return mls.Refuse(mls.RuleReservedValue, "status %d of a snapshot", g.status)
	}
	restored, err := mls.ParsePublicGroup(public, g.config.restored())
	if err != nil {
		return err
	}
	g.params = restored.Params()
	g.describe(restored)
	return nil
}

func (g *Group) restoreKeys(r *codec.Reader) error {
	g.keys = privateKeys{}
	in := r.Sub()
	for in.Len() > 0 {
		node, private := in.Uint32(), in.Vec()
		pair := keyPair{private, g.tree.PublicKey(node)}
		if pair.public == nil {
			return mls.Refuse(mls.RuleTreeLeaf, "a key of a snapshot is for node %d, which is blank", node)
		}
		g.keys[node] = pair
	}
	r.Join(&in)
	return mls.WireError(r.Err())
}

func (g *Group) restoreRatchets(r *codec.Reader) (err error) {
	g.secrets = &secret.Epoch{}
	for _, field := range secretFields(g.secrets) {
		*field = r.Vec()
	}
	ratchets, exporter := r.Vec(), r.Vec()
	g.ahead[secret.Handshake], g.ahead[secret.Application] = r.Uint32(), r.Uint32()
	if r.Err() != nil {
		return mls.WireError(r.Err())
	}
	for _, field := range secretFields(g.secrets) {
		if len(*field) != g.params.HashSize() {
			return mls.Refuse(mls.RuleLength, "a secret of %d octets in a snapshot", len(*field))
		}
	}
	if g.ratchets, err = secret.ParseRatchets(g.params, ratchets); err != nil {
		return err
	}
	if g.exporter, err = secret.ParseExporterTree(g.params, exporter); err != nil {
		return err
	}
	// What was parsed are copies, and the tree keeps these octets in memory.
	secret.Wipe(ratchets, exporter)
	return g.readFraming()
}

func (g *Group) restorePast(r *codec.Reader) (err error) {
	in := r.Sub()
	for in.Len() > 0 {
		e := &epoch{number: in.Uint64(), self: in.Uint32(), context: in.Vec(), secrets: &secret.Epoch{SenderData: in.Vec()}, tree: g.tree}
		ratchets := in.Vec()
		e.others = map[uint32][]byte{}
		list := in.Sub()
		for list.Len() > 0 {
			leaf := list.Uint32()
			e.others[leaf] = list.Vec()
		}
		in.Join(&list)
		if in.Err() != nil {
			break
		}
		if e.ratchets, err = secret.ParseRatchets(g.params, ratchets); err != nil {
			return err
		}
		secret.Wipe(ratchets)
		if err := e.readFraming(); err != nil {
			return err
		}
		g.past = append(g.past, e)
	}
	r.Join(&in)
	in = r.Sub()
	for in.Len() > 0 {
		g.resumptions = append(g.resumptions, resumption{in.Uint64(), in.Vec()})
	}
	r.Join(&in)
	return mls.WireError(r.Err())
}

// restoreUpdates reads the private keys of own Updates, and returns what the
// pending commit is rebuilt from, or nil.
func (g *Group) restoreUpdates(r *codec.Reader) (pending []byte, err error) {
	in := r.Sub()
	for in.Len() > 0 {
		ref, private := in.Vec(), in.Vec()
		g.keepUpdate(string(ref), private, nil)
	}
	r.Join(&in)
	if r.Optional() {
		pending = r.Vec()
	}
	return pending, mls.WireError(r.Finish())
}

// restoreSigners finds the signers of own Updates that bring a new signature key.
func (g *Group) restoreSigners(signers func([]byte) (mls.Signer, bool)) error {
	for _, p := range g.public.Pending() {
		_, own := g.updates[string(p.Ref)]
		if !own || p.Proposal.Type != mls.ProposalUpdate || bytes.Equal(p.Proposal.Update.SignatureKey, g.signer.PublicKey()) {
			continue
		}
		signer, ok := signers(p.Proposal.Update.SignatureKey)
		if !ok {
			return mls.Refuse(mls.RuleLeafKeys, "the signer of an own Update is not there")
		}
		g.keepUpdate(string(p.Ref), g.updates[string(p.Ref)], signer)
	}
	return nil
}

// keepUpdate remembers the private key, and the signer if it is a new one, of
// an own Update.
func (g *Group) keepUpdate(ref string, private []byte, signer mls.Signer) {
	if g.updates == nil {
		g.updates, g.signers = map[string][]byte{}, map[string]mls.Signer{}
	}
	g.updates[ref] = private
	if signer != nil {
		g.signers[ref] = signer
	}
}

// restore fixes what rebuilds an own commit after a restart: its path's first
// secret and leaf key, and its messages.
func (t *Transition) restore(a *mls.AuthenticatedContent, fresh *path, psk []byte) {
	b := codec.AppendVec(nil, a.Raw())
	b = codec.AppendOptional(b, t.Staged.Path != nil)
	if t.Staged.Path != nil {
		var first []byte
		if len(fresh.secrets) > 0 {
			first = fresh.secrets[0]
		} else {
			first = fresh.commit
		}
		b = codec.AppendVec(b, first)
		b = codec.AppendVec(b, t.next.keys[2*t.Staged.Committer].private)
	}
	b = codec.AppendVec(codec.AppendVec(b, t.Welcome), t.RatchetTree)
	b = codec.AppendVec(codec.AppendVec(b, t.Commit), psk)
	t.restored = b
}

// restorePending rebuilds an own commit.
func (g *Group) restorePending(b []byte, signers func([]byte) (mls.Signer, bool)) error {
	r := codec.NewReader(b)
	raw := r.Vec()
	var first, private []byte
	path := r.Optional()
	if path {
		first, private = r.Vec(), r.Vec()
	}
	// The transition erases what it is rebuilt from: the rest outlives it.
	t := &Transition{from: g.number, signer: g.signer, restored: b,
		Welcome: append([]byte(nil), r.Vec()...), RatchetTree: append([]byte(nil), r.Vec()...), Commit: append([]byte(nil), r.Vec()...)}
	psk := r.Vec() // kept because the keys that it is made of may be gone by then
	if err := r.Finish(); err != nil {
		return mls.WireError(err)
	}
	a, err := mls.ParseAuthenticatedContent(raw)
	if err != nil {
		return err
	}
	if own := (mls.Sender{Type: mls.SenderMember, Index: g.self}); a.Content.Sender != own {
		return mls.Refuse(mls.RuleSenderLeaf, "the own commit is of another")
	}
	if t.Staged, err = g.public.Stage(a); err != nil {
		return err
	}
	t.tag = a.ConfirmationTag
	keys, commitSecret := g.keys.retain(t.Staged.Tree), g.zeroSecret()
	if path != (t.Staged.Path != nil) {
		return mls.Refuse(mls.RulePathRequired, "the own commit and its path do not fit")
	}
	if path {
		leaf := t.Staged.Tree.Leaf(g.self)
		keys[2*g.self] = keyPair{bytes.Clone(private), leaf.EncryptionKey}
		if commitSecret, err = g.config.learnPath(g.params, t.Staged.Steps, bytes.Clone(first), t.Staged.Tree, keys); err != nil {
			return err
		}
		signer, ok := signers(leaf.SignatureKey)
		if !ok {
			return mls.Refuse(mls.RuleLeafKeys, "the signer of the own commit is not there")
		}
		t.signer = signer
	}
	secrets, joiner := g.schedule(t.Staged, g.secrets.Init, commitSecret, psk)
	secret.Wipe(joiner, commitSecret)
	if !g.confirms(t.Staged, secrets, t.tag) {
		return mls.Refuse(mls.RuleConfirmationTag, "the own commit does not confirm")
	}
	t.next = epoch{self: g.self, signer: t.signer, keys: keys, secrets: secrets}
	g.pending = t
	return nil
}

// skipReserved moves the own ratchets beyond all generations that may have
// been used before the restart, RFC 9420 §6.3.1: no key is used twice.
func (g *Group) skipReserved() error {
	if g.status != Active {
		return nil
	}
	for kind, to := range g.ahead {
		if err := g.ratchets.Skip(g.self, secret.Content(kind), to); err != nil {
			return ratchetError(err)
		}
	}
	g.sent = g.ratchets.Generation(g.self, secret.Application)
	return nil
}
