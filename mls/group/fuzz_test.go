package group

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// stage is a group that fuzzed messages are given to, as it is stored.
type stage struct {
	w      *world
	by, to *member
	state  []byte   // of to
	real   [][]byte // messages that it would take
}

// newStages makes a few groups: young, with paths and blanks, with proposals
// and an own commit waiting, and one that was closed.
func newStages(t testing.TB) []stage {
	t.Helper()
	var out []stage
	add := func(prepare func(w *world)) {
		w := newWorld(t, testSuite, uint64(100+len(out)))
		w.add(w.members[0], 5, CommitOptions{})
		prepare(w)
		s := stage{w: w, by: w.members[0], to: w.members[2]}
		s.state = s.to.Snapshot()
		s.real = s.messages()
		out = append(out, s)
	}
	add(func(*world) {})
	add(func(w *world) {
		w.commit(w.members[2], CommitOptions{})
		w.commit(w.members[4], CommitOptions{Proposals: removes(1)})
		w.add(w.members[0], 2, CommitOptions{})
	})
	add(func(w *world) {
		w.deliver(w.members[2], must(w.members[2].ProposeUpdate(nil, nil))(t))
		w.deliver(w.members[0], must(w.members[0].Propose(w.external1(w.members[0], "key"), nil))(t))
		must(w.members[2].Commit(CommitOptions{Proposals: w.ghosts(1)}))(t)
	})
	add(func(w *world) {
		next := mls.ReInit{GroupID: []byte("next"), Version: mls.Version10, Suite: testSuite}
		w.commit(w.members[0], CommitOptions{Proposals: []*mls.Proposal{{Type: mls.ProposalReInit, ReInit: next}}})
	})
	return out
}

// messages are of all kinds.
func (s *stage) messages() [][]byte {
	w, by := s.w, s.by
	w.Helper()
	list := [][]byte{
		w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{}).Raw(),
		w.public(by, w.proposal(by, mls.WirePublic, Remove(3)), nil).Raw(),
		w.seal(by, w.proposal(by, mls.WirePrivate, w.external1(by, "key")), sealing{}).Raw(),
	}
	if by.Status() != Active {
		return list
	}
	for _, private := range []bool{false, true} {
		by.config.PrivateHandshakes = private
		list = append(list, w.forge(by, CommitOptions{Path: true, Proposals: w.ghosts(1)}, forgery{}).commit,
			w.forge(by, CommitOptions{Proposals: removes(3)}, forgery{}).commit)
	}
	by.config.PrivateHandshakes = false
	return append(list, w.outside(ExternalOptions{}, nil, nil).Raw())
}

// mutate changes octets, cuts, and puts octets in, as the data says.
func mutate(b, data []byte) []byte {
	b = bytes.Clone(b)
	for ; len(data) >= 3 && len(b) > 0; data = data[3:] {
		at := (int(data[0])<<8 | int(data[1])) % len(b)
		switch data[2] % 5 {
		case 0:
			b[at] ^= 1 << (data[2] / 5 % 8)
		case 1:
			b[at] = data[2]
		case 2:
			b = b[:at]
		case 3:
			b = append(b[:at], append([]byte{data[2]}, b[at:]...)...)
		default:
			b = append(b[:at], b[at+1:]...)
		}
	}
	return b
}

// again makes what follows draw the same as every time: a failure repeats.
func (w *world) again() { w.rand.Seed([32]byte{0xff}) }

// unchanged gives a message to a fresh copy of a member: an error changes
// nothing, and what is taken can be merged. RFC 9420 §14.
func (s *stage) unchanged(t *testing.T, message []byte) {
	t.Helper()
	m, err := mls.Parse(bytes.Clone(message))
	if err != nil {
		return
	}
	g := must(Restore(s.to.config, s.state, nil, s.to.find))(t)
	before := g.Snapshot()
	event, err := g.Process(m)
	if err != nil {
		if !bytes.Equal(before, g.Snapshot()) {
			t.Fatalf("%v changed the group", err)
		}
		return
	}
	if event.Transition != nil {
		if !bytes.Equal(before, g.Snapshot()) {
			t.Fatal("a commit changed the group before it was merged")
		}
		if err := g.Merge(event.Transition); err != nil {
			t.Fatal(err)
		}
	}
	exercise(g, message)
}

// Any message, and any change of one that is right, from somebody without
// secrets.
func FuzzProcess(f *testing.F) {
	list := newStages(f)
	for i := range list {
		for n := range list[i].real {
			f.Add(uint8(i), uint8(n), []byte(nil), []byte(nil))
			f.Add(uint8(i), uint8(n), []byte{0, 20, 5, 1, 7, 9}, []byte(nil))
		}
		f.Add(uint8(i), uint8(255), []byte(nil), list[i].real[0])
	}
	f.Fuzz(func(t *testing.T, at, n uint8, change, whole []byte) {
		s := &list[int(at)%len(list)]
		s.w.again()
		if len(whole) > 0 {
			s.unchanged(t, whole)
			return
		}
		s.unchanged(t, mutate(s.real[int(n)%len(s.real)], change))
	})
}

// The malicious member: what is inside is changed, and then signed, tagged and
// sealed again.
func FuzzProcessMember(f *testing.F) {
	list := newStages(f)[:3]
	kinds := uint8(4)
	for i := range list {
		for kind := range kinds {
			for _, change := range [][]byte{nil, {0, 1, 5}, {0, 60, 1, 0, 70, 3}, {0, 0, 2}, {1, 0, 4}} {
				f.Add(uint8(i), kind, change)
			}
		}
	}
	f.Fuzz(func(t *testing.T, at, kind uint8, change []byte) {
		s := list[int(at)%len(list)]
		w := s.w
		w.tb = t
		w.again()
		by := &member{Group: must(Restore(s.by.config, s.by.Snapshot(), nil, s.by.find))(t), config: s.by.config}
		body := func(b []byte) []byte { return mutate(b, change) }
		var m *mls.Message
		switch kind % kinds {
		case 0: // what is encrypted
			m = w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{body: body})
		case 1: // sender data
			m = w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sender: func(data []byte) { copy(data, body(data)) }})
		case 2: // a commit that is encrypted
			a, err := mls.ParseAuthenticatedContent(by.commitContent(w).Raw())
			if err != nil {
				t.Fatal(err)
			}
			m = w.seal(by, a, sealing{body: body})
		default: // a commit in the clear, signed and tagged again
			if m = w.resigned(by, by.commitContent(w), change); m == nil {
				return
			}
		}
		s.unchanged(t, m.Raw())
	})
}

// commitContent is a commit of a member's, as it is signed.
func (m *member) commitContent(w *world) *mls.AuthenticatedContent {
	w.Helper()
	c := w.parse(w.forge(m, CommitOptions{Path: true, Proposals: removes(3)}, forgery{}).commit)
	return &c.Public.AuthenticatedContent
}

// resigned changes the content of a commit and signs it again; nil if that is
// no content.
func (w *world) resigned(by *member, a *mls.AuthenticatedContent, change []byte) *mls.Message {
	w.Helper()
	raw := a.Raw()
	end := len(raw) - 2 - len(a.Signature) - 1 - len(a.ConfirmationTag) // both lengths
	raw = append(mutate(raw[:end], change), raw[end:]...)
	read, err := mls.ParseAuthenticatedContent(raw)
	if err != nil || read.WireFormat != mls.WirePublic {
		return nil
	}
	if err := read.Sign(by.signer, by.context); err != nil {
		return nil
	}
	m, err := mls.Parse(w.publicRaw(by, read))
	if err != nil {
		return nil
	}
	return m
}

// publicRaw frames a content as a PublicMessage with the right tag.
func (w *world) publicRaw(by *member, a *mls.AuthenticatedContent) []byte {
	tbm := a.TBM(by.context)
	p := &mls.PublicMessage{AuthenticatedContent: *a, MembershipTag: by.params.MAC(nil, by.secrets.Membership, tbm[:]...)}
	m := mls.Message{WireFormat: mls.WirePublic, Public: p}
	return m.AppendTo(nil)
}

// Welcomes: changed outside, and changed inside by a member with secrets.
func FuzzJoin(f *testing.F) {
	w := newWorld(f, testSuite, 200)
	w.add(w.members[0], 4, CommitOptions{})
	by := w.members[0]
	m := w.client()
	k := m.keyPackage(w)
	honest := w.forge(by, CommitOptions{Path: true, Proposals: []*mls.Proposal{Add(k.Package)}}, forgery{}).welcome
	state := by.Snapshot()
	for kind := range uint8(3) {
		for _, change := range [][]byte{nil, {0, 30, 5}, {0, 1, 1}, {0, 40, 2}, {0, 50, 3, 0, 4, 4}} {
			f.Add(kind, change)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, change []byte) {
		w.tb = t
		w.again()
		welcome := mutate(honest, change)
		by := &member{Group: must(Restore(by.config, state, nil, by.find))(t), config: by.config}
		o := CommitOptions{Path: true, Proposals: []*mls.Proposal{Add(k.Package)}}
		switch kind % 3 {
		case 1: // the GroupInfo
			welcome = w.forge(by, o, forgery{opened: func(b []byte) []byte { return mutate(b, change) }}).welcome
		case 2: // the group secrets
			welcome = w.forge(by, o, forgery{secrets: func(_ int, s *groupSecrets) {
				if p, err := parseGroupSecrets(mutate(s.AppendTo(nil), change)); err == nil {
					*s = *p
				}
			}}).welcome
		}
		p, err := mls.Parse(welcome)
		if err != nil || p.Welcome == nil {
			return
		}
		g, err := Join(m.config, p.Welcome, k, JoinOptions{})
		if (g == nil) == (err == nil) {
			t.Fatalf("a group and an error, or neither: %v", err)
		}
		if err == nil {
			exercise(g, honest)
		}
	})
}

// A GroupInfo that a malicious member signs, and the tree beside it.
func FuzzJoinExternal(f *testing.F) {
	w := newWorld(f, testSuite, 300)
	w.add(w.members[0], 4, CommitOptions{})
	w.commit(w.members[3], CommitOptions{})
	by := w.members[0]
	info := must(by.GroupInfo(true, nil))(f)
	tree := by.tree.AppendTo(nil)
	for kind := range uint8(3) {
		for _, change := range [][]byte{nil, {0, 60, 5}, {0, 1, 1}, {1, 40, 2}, {2, 50, 3, 0, 4, 4}} {
			f.Add(kind, change)
		}
	}
	m := w.client()
	id := m.identity(w)
	f.Fuzz(func(t *testing.T, kind uint8, change []byte) {
		w.tb = t
		w.again()
		o := ExternalOptions{Resync: kind&4 != 0}
		changed := info
		if kind%3 == 2 {
			o.RatchetTree = mutate(tree, change)
		} else {
			changed = mutate(info, change)
		}
		p, err := mls.Parse(bytes.Clone(changed))
		if err != nil || p.GroupInfo == nil {
			return
		}
		if kind%3 == 1 {
			again := *p.GroupInfo
			if err := again.Sign(by.signer); err != nil {
				return
			}
			p.GroupInfo = &again
		}
		g, commit, err := JoinExternal(m.config, id, p.GroupInfo, o)
		if (commit == nil) == (err == nil) {
			t.Fatalf("a commit and an error, or neither: %v", err)
		}
		if err == nil {
			exercise(g, commit)
		}
	})
}

// What is stored, damaged.
func FuzzRestore(f *testing.F) {
	s := newStages(f)[2]
	snapshot := s.to.Snapshot()
	s.to.save()
	w := s.w
	w.say2(s.to)
	s.to.Discard()
	must(s.to.Commit(CommitOptions{Path: true}))(f)
	must(s.to.SafeExport(9))(f)
	records, ok := s.to.Changes()
	if !ok || len(records) == 0 {
		f.Fatal("no records")
	}
	message := s.real[3]
	for _, change := range [][]byte{nil, {0, 60, 5}, {0, 1, 1}, {1, 40, 2}, {2, 50, 3, 0, 4, 4}} {
		f.Add(false, change)
		f.Add(true, change)
	}
	f.Fuzz(func(t *testing.T, inRecords bool, change []byte) {
		w.again()
		a, b := snapshot, records
		if inRecords {
			b = mutate(b, change)
		} else {
			a = mutate(a, change)
		}
		g, err := Restore(s.to.config, a, [][]byte{b}, s.to.find)
		if err != nil {
			if len(change) == 0 {
				t.Fatal(err)
			}
			return
		}
		exercise(g, message)
	})
}

// A few thousand random changes, as a fuzzer would begin with.
func TestMutations(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for i, s := range newStages(t) {
		for n, real := range s.real {
			for range 25 {
				change := make([]byte, 3*(1+random.IntN(2)))
				for j := range change {
					change[j] = byte(random.Uint32())
				}
				func() {
					defer func() {
						if p := recover(); p != nil {
							t.Fatalf("group %d, message %d, change %x: %v", i, n, change, p)
						}
					}()
					s.unchanged(t, mutate(real, change))
				}()
			}
		}
	}
}
