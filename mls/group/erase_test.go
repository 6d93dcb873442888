package group

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

// memory is what held a secret: the name, the octets where they lie, and a
// copy of what they were.
type memory struct {
	name       string
	at, before []byte
}

func remember(list *[]memory, name string, b []byte) {
	if len(b) > 0 {
		*list = append(*list, memory{name, b, bytes.Clone(b)})
	}
}

// secretsOf are the secrets of a member's epoch that its end erases: all but
// the keys of the tree, which may live on.
func secretsOf(g *Group) (list []memory) {
	e := g.secrets
	for name, b := range map[string][]byte{
		"encryption": e.Encryption, "exporter": e.Exporter, "external": e.External, "confirmation": e.Confirmation,
		"membership": e.Membership, "resumption": e.Resumption, "init": e.Init, "application export": e.AppExport,
	} {
		remember(&list, name, b)
	}
	return list
}

// keysOf are the private keys of a member.
func keysOf(g *Group) (list []memory) {
	for _, node := range g.keys.nodes() {
		remember(&list, "private key", g.keys[node].private)
	}
	return list
}

// erased demands that nothing of a secret is left where it was, nor in what is
// stored.
func erased(t *testing.T, what string, g *Group, list []memory) {
	t.Helper()
	stored := g.Snapshot()
	for _, m := range list {
		if !zero(m.at) {
			t.Errorf("%s: %s secret is not erased", what, m.name)
		}
		if !zero(m.before) && bytes.Contains(stored, m.before) {
			t.Errorf("%s: %s secret is stored", what, m.name)
		}
	}
}

func zero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

// An epoch's secrets go with it: mls.RuleSecretErasure, RFC 9420 §9.2; and so
// do private keys that a path replaced: mls.RuleOldPrivateKeys, §7.5.
func TestEpochErased(t *testing.T) {
	w := newAttacked(t, 4)
	by, to := w.members[0], w.members[2]
	by.config.Limits.Resumptions, to.config.Limits.Resumptions = -1, -1
	for _, m := range []*member{by, to} {
		m.limits = m.config.Limits.withDefaults()
		for _, s := range secretsOf(m.Group) {
			if zero(s.at) != (s.name == "encryption" || s.name == "application export") {
				t.Errorf("%s secret: erased %t in its own epoch", s.name, zero(s.at))
			}
		}
	}
	w.commit(to, CommitOptions{}) // now each has keys of its path
	of := map[*member][]memory{by: append(secretsOf(by.Group), keysOf(by.Group)...), to: secretsOf(to.Group)}
	leaf := to.keys[2*to.self].private
	root := to.keys[3].private
	remember(ptr(of[to]), "root", root)
	w.commit(by, CommitOptions{})
	for m, list := range of {
		erased(t, m.name, m.Group, list)
	}
	if zero(leaf) || !zero(root) {
		t.Errorf("the own leaf's key is erased %t, that of the root %t", zero(leaf), zero(root))
	}
}

func ptr[T any](v T) *T { return &v }

// Who is removed holds no secrets any more: mls.RuleRemoved, RFC 9420
// §12.4.2.
func TestRemoved(t *testing.T) {
	w := newAttacked(t, 4)
	by, gone := w.members[0], w.members[2]
	late := must(by.Seal(nil, []byte("late"), nil))(t)
	by.save()
	if _, err := gone.ProposeUpdate(nil, nil); err != nil {
		t.Fatal(err)
	}
	list := append(secretsOf(gone.Group), keysOf(gone.Group)...)
	for _, private := range gone.updates {
		remember(&list, "update", private)
	}
	own, err := gone.Commit(CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range own.next.keys {
		remember(&list, "pending key", pair.private)
	}
	remember(&list, "pending init", own.next.secrets.Init)
	remember(&list, "pending path", own.restored)
	gone.save()
	w.commit(by, CommitOptions{Proposals: []*mls.Proposal{Remove(gone.Self())}})
	erased(t, gone.name, gone.Group, list)
	gone.restart(w) // what was stored says so too
	if gone.Status() != Removed {
		t.Fatal("the removal is forgotten")
	}
	message, err := by.Seal(nil, []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	inactive := map[string]error{
		"seal":        second(gone.Seal(nil, []byte("x"), nil)),
		"propose":     second(gone.Propose(Remove(0), nil)),
		"update":      second(gone.ProposeUpdate(nil, nil)),
		"commit":      second(gone.Commit(CommitOptions{})),
		"info":        second(gone.GroupInfo(true, nil)),
		"export":      second(gone.Export("label", nil, 32)),
		"safe export": second(gone.SafeExport(7)),
	}
	for what, err := range inactive {
		if !errors.Is(err, ErrInactive) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := w.process(gone, w.parse(message)); !errors.Is(err, ErrFutureEpoch) {
		t.Errorf("a message of the new epoch: %v", err)
	}
	app, err := gone.Open(w.parse(late))
	if err != nil || string(app.Data) != "late" {
		t.Errorf("a message from before: %v", err)
	}
	if err := gone.Merge(own); !errors.Is(err, ErrStale) {
		t.Errorf("its own commit: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// drawn notes what memory randomness went into.
type drawn struct {
	from  io.Reader
	slots [][]byte
}

func (d *drawn) Read(b []byte) (int, error) {
	d.slots = append(d.slots, b)
	return d.from.Read(b)
}

// What a committer drew for its path and for sealing is erased once used:
// mls.RuleSecretErasure, RFC 9420 §9.2.
func TestPathErased(t *testing.T) {
	w := newAttacked(t, 5)
	by := w.members[0]
	for _, o := range []CommitOptions{{}, {Path: true, Proposals: []*mls.Proposal{Add(w.client().keyPackage(w).Package)}}} {
		source := &drawn{from: w.rand}
		by.config.Rand = source
		c := must(by.Commit(o))(t)
		leaf := c.next.keys[2*by.self].private
		for _, b := range source.slots {
			if len(b) >= 32 && !zero(b) && !bytes.Equal(b, leaf) {
				t.Errorf("%d octets of randomness are left", len(b))
			}
		}
		kept := memory{"path", c.restored, bytes.Clone(c.restored)}
		fresh := slices.Collect(func(yield func([]byte) bool) {
			for _, pair := range c.next.keys {
				yield(pair.private)
			}
		})
		by.Discard()
		if !zero(kept.at) {
			t.Error("the discarded path is kept")
		}
		erasures := 0
		for _, private := range fresh {
			if zero(private) {
				erasures++
			}
		}
		if erasures < 3 || zero(by.keys[2*by.self].private) {
			t.Errorf("%d keys of the discarded path are erased; the own key: %t", erasures, zero(by.keys[2*by.self].private))
		}
		if err := by.Merge(c); !errors.Is(err, ErrStale) {
			t.Errorf("a discarded commit is merged: %v", err)
		}
		by.config.Rand = w.rand
		by.save()
		w.commit(w.members[1], CommitOptions{})
	}
}

// Own Updates that nobody committed are erased with their epoch:
// mls.RuleOldPrivateKeys, RFC 9420 §7.5.
func TestUpdateErased(t *testing.T) {
	w := newAttacked(t, 4)
	m := w.members[1]
	w.deliver(m, must(m.ProposeUpdate(nil, nil))(t))
	w.deliver(m, must(m.ProposeUpdate(nil, nil))(t))
	m.save()
	var list []memory
	for _, private := range m.updates {
		remember(&list, "update", private)
	}
	w.commit(w.members[0], CommitOptions{})
	now := m.keys[2*m.self].private
	for _, u := range list {
		if taken := bytes.Equal(u.before, now); taken == zero(u.at) {
			t.Errorf("an Update that was committed: %t, erased %t", taken, zero(u.at))
		}
	}
	w.commit(m, CommitOptions{})
}

// The state after a message does not open it again, whatever is stored:
// mls.RuleSecretTreeErasure and mls.RuleKeyReuse, RFC 9420 §9.2.
func TestMessageErased(t *testing.T) {
	w := newAttacked(t, 3)
	by, to := w.members[0], w.members[2]
	sent := must(by.Seal(nil, []byte("text"), nil))(t)
	by.save()
	k := must(to.ratchets.Take(by.self, secret.Application, 0))(t)
	key := bytes.Clone(k.Key)
	to.ratchets.Forget()
	if !zero(k.Key) {
		t.Error("a key that was derived is left")
	}
	if err := w.process(to, w.parse(sent)); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{by, to} {
		if bytes.Contains(m.Snapshot(), key) {
			t.Errorf("%s stores the key of a message", m.name)
		}
		g := must(Restore(m.config, m.Snapshot(), nil, m.find))(t)
		if _, err := g.ratchets.Take(by.self, secret.Application, 0); err != secret.ErrReplay {
			t.Errorf("%s has the key of a message: %v", m.name, err)
		}
	}
	seen := map[uint32]bool{}
	for range 3 * reserved {
		app := must(to.Open(w.parse(must(by.Seal(nil, []byte("x"), nil))(t))))(t)
		if seen[app.Generation] {
			t.Fatalf("generation %d is used twice", app.Generation)
		}
		seen[app.Generation] = true
	}
}
