package group

import (
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

// The kinds of change records.
const (
	changeSent     = 1 // generations of an own ratchet, up to one that is not covered
	changeOpened   = 2 // a key of another member's that was used
	changeProposal = 3
	changeUpdate   = 4 // the private key of an own Update
	changePending  = 5 // an own commit that waits
	changeDiscard  = 6
	changeExport   = 7 // a component's secret that was taken
)

// maxChanges bounds the octets of records between two calls of Changes: who
// does not take them is asked for a snapshot instead.
const maxChanges = 1 << 20

// reserved is how many generations of the own ratchet a change record takes
// in advance: sending writes once in so many messages, and a crash skips at
// most as many generations, far fewer than any receiver's Skip.
const reserved = 32

// Changes returns the records of what changed since the last call, or nil if
// nothing did, to be kept after the last Snapshot in order. It returns false
// if there is no snapshot that they could follow, in a new epoch for instance:
// then a Snapshot is to be kept. A caller asks before it sends what the group
// made, and before it acknowledges what the group took.
func (g *Group) Changes() (records []byte, ok bool) {
	if !g.journal {
		return nil, false
	}
	records = g.changes
	g.changes = nil
	return records, true
}

// endJournal erases the records that nobody took: they hold private keys, and
// a Snapshot is asked for instead.
func (g *Group) endJournal() {
	secret.Wipe(g.changes)
	g.changes, g.journal = nil, false
}

// record appends one change record.
func (g *Group) record(kind uint8, body func(dst []byte) []byte) {
	if !g.journal {
		return
	}
	b, mark := codec.Begin(append(g.changes, kind))
	b = codec.End(body(b), mark)
	if cap(b) != cap(g.changes) { // it grew, and left a copy of private keys
		secret.Wipe(g.changes)
	}
	if g.changes = b; len(b) > maxChanges {
		g.endJournal()
	}
}

// recordSent covers a generation of an own ratchet. It takes a block at once,
// so that most messages need no record.
func (g *Group) recordSent(kind secret.Content, generation uint32) {
	if generation < g.ahead[kind] {
		return
	}
	g.ahead[kind] = generation + reserved
	if g.ahead[kind] < generation { // the end of the ratchet, RFC 9420 §9.1
		g.ahead[kind] = 1<<32 - 1
	}
	g.record(changeSent, func(dst []byte) []byte {
		return codec.Uint32(append(dst, byte(kind)), g.ahead[kind])
	})
}

// recordOpened is written out: every received message passes here.
func (g *Group) recordOpened(epoch uint64, kind secret.Content, leaf, generation uint32) {
	if !g.journal {
		return
	}
	const size = 8 + 1 + 4 + 4
	b := append(g.changes, changeOpened, size)
	b = append(codec.Uint64(b, epoch), byte(kind))
	g.changes = codec.Uint32(codec.Uint32(b, leaf), generation)
	if len(g.changes) > maxChanges {
		g.endJournal()
	}
}

func (g *Group) recordProposal(a *mls.AuthenticatedContent) {
	g.record(changeProposal, func(dst []byte) []byte { return append(dst, a.Raw()...) })
}

func (g *Group) recordUpdate(ref string, private []byte) {
	g.record(changeUpdate, func(dst []byte) []byte { return append(codec.AppendVec(dst, ref), private...) })
}

func (g *Group) recordPending(t *Transition) {
	g.record(changePending, func(dst []byte) []byte { return append(dst, t.restored...) })
}

func (g *Group) recordDiscard() {
	g.record(changeDiscard, func(dst []byte) []byte { return dst })
}

func (g *Group) recordExport(component mls.ComponentID) {
	g.record(changeExport, func(dst []byte) []byte { return codec.Uint16(dst, uint16(component)) })
}

// replay repeats change records on a restored group.
func (g *Group) replay(records []byte, signers func([]byte) (mls.Signer, bool)) error {
	r := codec.NewReader(append([]byte(nil), records...))
	for r.Len() > 0 {
		kind := r.Uint8()
		body := r.Sub()
		if err := body.Err(); err != nil {
			return mls.WireError(err)
		}
		if err := g.replayOne(kind, &body, signers); err != nil {
			return err
		}
		r.Join(&body)
	}
	return mls.WireError(r.Finish())
}

func (g *Group) replayOne(kind uint8, r *codec.Reader, signers func([]byte) (mls.Signer, bool)) error {
	switch kind {
	case changeSent:
		if c := r.Uint8(); int(c) < len(g.ahead) {
			g.ahead[c] = max(g.ahead[c], r.Uint32())
		}
	case changeOpened:
		epoch, content, leaf, generation := r.Uint64(), r.Uint8(), r.Uint32(), r.Uint32()
		e, err := g.epochOf(g.ID(), epoch)
		if err == nil {
			err = e.ratchets.Replay(leaf, secret.Content(content), generation)
		}
		return err
	case changeProposal:
		a, err := mls.ParseAuthenticatedContent(r.Rest())
		if err == nil {
			_, err = g.public.Propose(a)
		}
		return err
	case changeUpdate:
		ref, private := r.Vec(), r.Rest()
		g.keepUpdate(string(ref), private, nil)
		return g.restoreSigners(signers)
	case changePending:
		return g.restorePending(r.Rest(), signers)
	case changeDiscard:
		g.pending = nil
	case changeExport:
		// The secret was taken: taking it again here deletes it.
		if out, err := g.exporter.Export(nil, r.Uint16()); err == nil {
			secret.Wipe(out)
		}
	default:
		return mls.Refuse(mls.RuleReservedValue, "a change record of kind %d", kind)
	}
	return nil
}
