package policy

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

const testSuite = mls.X25519AES128SHA256Ed25519

// A gadget is a device with its half of the group.
type gadget struct {
	*testing.T
	user string
	id   group.Identity
	cfg  *group.Config
	kp   *group.KeyPackage
	g    *group.Group
}

func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newGadget(t *testing.T, user string, n byte) *gadget {
	seed := sha256.Sum256(append([]byte(user), n))
	signer, err := group.NewSigner(testSuite, seed[:])
	must(t, signer, err)
	uri := identity.DeviceURI(identity.Domain(user), ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
	return &gadget{T: t, user: user, id: group.Identity{Credential: mls.BasicCredential([]byte(uri)), Signer: signer},
		cfg: &group.Config{Rand: rand.Reader, Policy: &mls.Policy{Components: Component}}}
}

func (d *gadget) leaf() mls.Extensions {
	return mls.Extensions{}.With(mls.ExtApplicationID, mls.AppendApplicationID(nil, []byte(d.user)))
}

func (d *gadget) pack() *group.KeyPackage {
	d.Helper()
	k, err := group.NewKeyPackage(d.cfg, testSuite, d.id, group.KeyPackageOptions{LeafExtensions: d.leaf(), Lifetime: mls.Lifetime{NotAfter: 1 << 40}})
	d.kp = must(d.T, k, err)
	return k
}

// message is what a device sends, as everybody reads it.
func (d *gadget) message(b []byte, err error) *mls.Message {
	d.Helper()
	m, perr := mls.Parse(must(d.T, b, err))
	return must(d.T, m, perr)
}

// commit takes in what others proposed, and these.
func (d *gadget) commit(others []*mls.Message, own ...*mls.Proposal) *mls.Message {
	d.Helper()
	for _, m := range others {
		_, err := d.g.Process(m)
		must(d.T, 0, err)
	}
	t, err := d.g.Commit(group.CommitOptions{Proposals: own, SeparateTree: true, Public: true})
	must(d.T, t, err)
	return d.message(t.Commit, nil)
}

// outside is an external commit.
func (d *gadget) outside(g *group.Group, resync bool, own ...*mls.Proposal) *mls.Message {
	d.Helper()
	b, err := g.GroupInfo(true, nil)
	_, commit, err := group.JoinExternal(d.cfg, d.id, d.message(b, err).GroupInfo, group.ExternalOptions{Resync: resync, Proposals: own, LeafExtensions: d.leaf()})
	return d.message(commit, err)
}

func componentUpdate(id mls.ComponentID, data []byte) *mls.Proposal {
	return &mls.Proposal{Type: mls.ProposalAppDataUpdate, Component: id, Operation: mls.AppDataSet, Data: data}
}

// inWords says a change as a person would.
func inWords(c *Change) (out []string) {
	names := func(list []Client) string {
		var s []string
		for _, d := range list {
			s = append(s, fmt.Sprint(d.User[strings.LastIndex(d.User, "/")+1:], d.Leaf))
		}
		return strings.Join(s, " ")
	}
	out = append(out, fmt.Sprintf("%s external=%t resync=%t in=%s out=%s", c.Actor, c.External, c.Resync, names(c.Added), names(c.Removed)))
	for _, p := range c.Proposals {
		s := fmt.Sprintf("%d by %s", p.Type, p.By+p.Domain)
		if len(p.Added)+len(p.Removed) > 0 {
			s += fmt.Sprintf(" in=%s out=%s", names(p.Added), names(p.Removed))
		}
		for _, u := range p.Components {
			s += fmt.Sprintf(" %#x", uint16(u.ID))
		}
		out = append(out, s)
	}
	return append(out, fmt.Sprint(c.ClientsAfter(owner), c.ClientsAfter(other), c.ClientsAfter(stranger), c.Members()))
}

// The author of a proposal is who made it, whoever commits it; and homeservers, which
// count leaves as they go, see what devices see, which count them now.
func TestChangeOf(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(a, b, s *gadget, before *State) (proposals []*mls.Message, commit *mls.Message)
		want []string
	}{
		{"by value", func(a, b, s *gadget, before *State) ([]*mls.Message, *mls.Message) {
			return nil, a.commit(nil, group.Add(s.pack().Package), componentUpdate(ComponentParticipants, Invite(before, []string{stranger}, RoleMember)))
		}, []string{owner + " external=false resync=false in=stranger2 out=", "1 by " + owner + " in=stranger2 out=", "8 by " + owner + " 0x22", "1 1 1 3"}},
		{"by another member", func(a, b, s *gadget, before *State) ([]*mls.Message, *mls.Message) {
			m := b.message(b.g.Propose(componentUpdate(ComponentMetadata, SetMetadata(Metadata{Name: "x"})), nil))
			return []*mls.Message{m}, a.commit([]*mls.Message{m})
		}, []string{owner + " external=false resync=false in= out=", "8 by " + other + " 0x23", "1 1 0 2"}},
		{"who leaves", func(a, b, s *gadget, before *State) ([]*mls.Message, *mls.Message) {
			m := b.message(b.g.Propose(&mls.Proposal{Type: mls.ProposalSelfRemove}, nil))
			return []*mls.Message{m}, a.commit([]*mls.Message{m})
		}, []string{owner + " external=false resync=false in= out=other1", "10 by " + other + " in= out=other1", "1 0 0 1"}},
		{"a newcomer that asks", func(a, b, s *gadget, before *State) ([]*mls.Message, *mls.Message) {
			m := s.message(group.ProposeAdd(s.pack(), a.g.ID(), a.g.Epoch()))
			return []*mls.Message{m}, a.commit([]*mls.Message{m})
		}, []string{owner + " external=false resync=false in=stranger2 out=", "1 by " + stranger + " in=stranger2 out=", "1 1 1 3"}},
		{"a homeserver", func(a, b, s *gadget, before *State) ([]*mls.Message, *mls.Message) {
			m := s.message(group.ProposeExternal(homeserver(t), 0, group.Remove(1), a.g.ID(), a.g.Epoch(), nil))
			return []*mls.Message{m}, a.commit([]*mls.Message{m})
		}, []string{owner + " external=false resync=false in= out=other1", "3 by b.example in= out=other1", "1 0 0 1"}},
		{"from outside", func(a, b, s *gadget, before *State) ([]*mls.Message, *mls.Message) {
			return nil, s.outside(a.g, false, componentUpdate(ComponentParticipants, Invite(before, []string{stranger}, RoleMember)))
		}, []string{stranger + " external=true resync=false in=stranger2 out=", "6 by " + stranger, "8 by " + stranger + " 0x22", "1 1 1 3"}},
		{"anew", func(a, b, s *gadget, before *State) ([]*mls.Message, *mls.Message) {
			return nil, b.outside(a.g, true)
		}, []string{other + " external=true resync=true in=other1 out=other1", "6 by " + other, "3 by " + other + " in= out=other1", "1 1 0 2"}},
	} {
		a, b, s := newGadget(t, owner, 0), newGadget(t, other, 0), newGadget(t, stranger, 0)
		seen := a.begin(b)
		dict, err := seen.Context().Extensions.AppData()
		before, serr := ParseState(must(t, dict, err))
		must(t, before, serr)
		proposals, commit := c.make(a, b, s, before)
		for _, m := range proposals {
			_, err := seen.Propose(&m.Public.AuthenticatedContent)
			must(t, 0, err)
		}
		st, err := seen.Stage(&commit.Public.AuthenticatedContent)
		must(t, st, err)
		for who, leaves := range map[string]func(string) int{"device": nil, "homeserver": func(u string) int { return map[string]int{owner: 1, other: 1}[u] }} {
			ch, err := ChangeOf(seen, before, st, leaves)
			if diff := cmp.Diff(c.want, inWords(must(t, ch, err))); diff != "" {
				t.Errorf("%s, a %s sees:\n%s", c.name, who, diff)
			}
		}
	}
}

// homeserver signs for b.example.
func homeserver(t *testing.T) mls.Signer {
	seed := sha256.Sum256([]byte("b.example"))
	s, err := group.NewSigner(testSuite, seed[:])
	return must(t, s, err)
}

// begin makes a room of a and b, and returns it as who is not in it sees it.
func (d *gadget) begin(b *gadget) *mls.PublicGroup {
	t := d.T
	dict := Default(owner, "a.example").With(ComponentParticipants, ParticipantList{{owner, RoleOwner}, {other, RoleMember}}.AppendTo(nil))
	outside := mls.AppendExternalSenders(nil, mls.ExternalSender{SignatureKey: homeserver(t).PublicKey(), Credential: mls.BasicCredential([]byte("mimi://b.example"))})
	g, err := group.Create(d.cfg, testSuite, []byte("mimi://a.example/g/x"), d.id, mls.Extensions{}.With(mls.ExtExternalSenders, outside).WithAppData(dict), d.leaf())
	d.g = must(t, g, err)
	added, err := d.g.Commit(group.CommitOptions{Proposals: []*mls.Proposal{group.Add(b.pack().Package)}})
	must(t, added, err)
	must(t, 0, d.g.Merge(added))
	b.g, err = group.Join(b.cfg, d.message(added.Welcome, nil).Welcome, b.kp, group.JoinOptions{})
	must(t, b.g, err)
	info, err := d.g.GroupInfo(true, nil)
	seen, perr := mls.NewPublicGroup(d.message(info, err).GroupInfo, nil, d.cfg.Policy)
	return must(t, seen, perr)
}
