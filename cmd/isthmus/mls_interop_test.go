package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The interoperability runs. ISTHMUS_MLS_SEED and ISTHMUS_MLS_OPS change the
// seed and the number of operations of a run, to look for more and to repeat
// what was found.
const (
	mlsOps     = 200
	mlsSeed    = 9420
	mlsMembers = 12  // a group grows to about so many
	mlsSlow    = 6   // and to so many where one signature costs milliseconds
	mlsLog     = 100 // lines that are shown of a run that failed
	mlsLate    = 2   // epochs that a message may come late: every library that keeps epochs keeps more
)

// mlsSuites are those that are tried where the peer has them.
var mlsSuites = []int{1, 2, 3, 7}

// slowPeers take tens of milliseconds for a commit.
var slowPeers = []string{"ts-mls", "core-crypto"}

// slowSuites are those whose curves, P-521 and P-384, are slow in most
// implementations.
var slowSuites = []int{5, 7}

// mlsHash is the length of a suite's hash.
var mlsHash = map[int]int{1: 32, 2: 32, 3: 32, 4: 64, 5: 64, 6: 64, 7: 48}

// A postQuantum suite is one of draft-ietf-mls-pq-ciphersuites, or before it,
// under the number that a peer has for it: IANA has given none. All derive the
// keys of X-Wing as its own draft did, not as draft-ietf-hpke-pq does; OpenMLS
// 0.9 derives those of plain ML-KEM in a third way, so that suite is not here.
type postQuantum struct {
	peer   string
	number int
	hash   int
	params string // for our --suite: KEM, KDF, AEAD, signature
}

var postQuantumSuites = []postQuantum{
	{"openmls", 0x4f, 32, "0xff7a,1,1,0x0807"}, // X-Wing, AES-128-GCM, SHA-256, Ed25519
	{"openmls", 0x52, 48, "0xff7a,2,3,0x0904"}, // X-Wing, ChaCha20-Poly1305, SHA-384, ML-DSA-44
	{"ts-mls", 83, 64, "0xff7a,3,2,0x0807"},    // X-Wing as it was, AES-256-GCM, SHA-512, Ed25519
}

// mlsPeers are the implementations that ours is tried against.
var mlsPeers = []string{"ts-mls", "core-crypto", "openmls", "mls-rs"}

// ours is the name of our own implementation.
const ours = "isthmus"

// TestMLSInterop puts clients of our implementation and of others into one
// group, lets them do random things, and checks after each that all of them
// hold the same: epoch, members, epoch authenticator, tree hash and exported
// secret, as far as the peer shows them. docs/MLS.md, "Driving a peer".
func TestMLSInterop(t *testing.T) {
	programs := mlsPrograms(t)
	for _, peer := range mlsPeers {
		t.Run(peer, func(t *testing.T) {
			hello := startMLSPeer(t, programs, peer).hello
			suites := mlsSuites
			if peer == "mls-rs" { // over OpenSSL it has all, and none is slow
				suites = []int{1, 2, 3, 4, 5, 6, 7}
			}
			for _, suite := range suites {
				if !slices.Contains(hello.Suites, suite) {
					t.Logf("%s %s has no suite %d", hello.Name, hello.Version, suite)
					continue
				}
				for _, creator := range []string{ours, peer} {
					t.Run(fmt.Sprintf("suite%d/%s", suite, creator), func(t *testing.T) {
						t.Parallel()
						runMLS(t, programs, suite, creator, ours, peer)
					})
				}
			}
		})
	}
	t.Run("post-quantum", func(t *testing.T) {
		for _, s := range postQuantumSuites {
			with := maps.Clone(programs)
			with[ours] = append(slices.Clone(programs[ours]), fmt.Sprintf("--suite=%d=%s", s.number, s.params))
			for _, creator := range []string{ours, s.peer} {
				t.Run(fmt.Sprintf("%s/suite%d/%s", s.peer, s.number, creator), func(t *testing.T) {
					t.Parallel()
					runMLS(t, with, s.number, creator, ours, s.peer)
				})
			}
		}
	})
	t.Run("all", func(t *testing.T) {
		for _, creator := range []string{ours, "openmls", "mls-rs", "ts-mls"} {
			t.Run("suite1/"+creator, func(t *testing.T) {
				t.Parallel()
				runMLS(t, programs, 1, creator, ours, "openmls", "mls-rs", "ts-mls")
			})
		}
	})
}

// A mlsRun is one group in which clients of several implementations are.
type mlsRun struct {
	t       *testing.T
	rng     *rand.Rand
	suite   int
	group   []byte
	peers   []*mlsPeer
	members []*mlsClient // in the group now
	gone    []*mlsClient // were in it
	epoch   uint64
	last    *mlsClient // who made the last commit
	late    []mlsDelivery
	names   int // of clients, PSKs and groups
	turns   int // of application messages
	talks   int // a number for what is written between two restarts
	log     []string

	ops, epochs, messages, refusals int
	kinds                           map[string]int
}

// A mlsClient is one client of one implementation.
type mlsClient struct {
	peer           *mlsPeer
	name, identity string
	leaf           uint32
	since          uint64 // the epoch in which it came in
}

func (c *mlsClient) can(what ...string) bool { return c.peer.can(what...) }

func (c *mlsClient) String() string { return fmt.Sprintf("%s(%s)@%d", c.name, c.peer.name, c.leaf) }

// A mlsDelivery is an application message on its way to one member.
type mlsDelivery struct {
	to                 *mlsClient
	from               uint32
	epoch              uint64
	turn, talk         int // of all messages of the run
	message, data, aad []byte
}

// number of the environment, or otherwise.
func envNumber(t *testing.T, name string, otherwise int) int {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// runMLS runs one group with clients of the named implementations, the first
// client being the creator's.
func runMLS(t *testing.T, programs mlsProgramTable, suite int, creator string, names ...string) {
	seed, ops := envNumber(t, "ISTHMUS_MLS_SEED", mlsSeed), envNumber(t, "ISTHMUS_MLS_OPS", mlsOps)
	r := &mlsRun{t: t, suite: suite, rng: rand.New(rand.NewPCG(uint64(seed), uint64(10*suite+slices.Index(names, creator)))), kinds: map[string]int{}}
	start := time.Now()
	for _, name := range names {
		r.peers = append(r.peers, startMLSPeer(t, programs, name))
	}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d, after %d operations; the last of them:", seed, r.ops)
			for _, line := range r.log[max(0, len(r.log)-mlsLog):] {
				t.Log(line)
			}
		}
	}()
	r.create(r.peers[slices.Index(names, creator)])
	for r.ops < ops {
		r.step()
	}
	r.flush(r.epoch + 1)
	r.successors()
	took := time.Since(start).Round(10 * time.Millisecond)
	fmt.Printf("mls %s: seed %d, %d operations %v, %d epochs, %d messages, %d refusals, %d members at the end, %v\n",
		t.Name(), seed, r.ops, r.kinds, r.epochs, r.messages, r.refusals, len(r.members), took)
}

// call asks a client's peer, which must not refuse.
func (r *mlsRun) call(c *mlsClient, op string, f mlsFields) *mlsAnswer {
	r.t.Helper()
	r.log = append(r.log, fmt.Sprintf("epoch %d: %v %s", r.epoch, c, op))
	a := c.peer.call(r.t, op, r.request(c, f))
	if !a.OK {
		r.t.Fatalf("%v refuses %s in epoch %d: %s", c, op, r.epoch, a.Error)
	}
	return a
}

// refused asks a client's peer for what it must refuse.
func (r *mlsRun) refused(c *mlsClient, op string, f mlsFields) {
	r.t.Helper()
	r.log = append(r.log, fmt.Sprintf("epoch %d: %v %s, to be refused", r.epoch, c, op))
	if a := c.peer.call(r.t, op, r.request(c, f)); a.OK {
		r.t.Fatalf("%v takes %s in epoch %d", c, op, r.epoch)
	}
	r.refusals++
}

func (r *mlsRun) request(c *mlsClient, f mlsFields) mlsFields {
	f = maps.Clone(f)
	if f == nil {
		f = mlsFields{}
	}
	f["client"] = c.name
	if _, ok := f["group"]; !ok && r.group != nil {
		f["group"] = r.group
	}
	return f
}

// newClient makes a client of a peer, without a key yet.
func (r *mlsRun) newClient(p *mlsPeer) *mlsClient {
	r.names++
	n := r.names
	return &mlsClient{peer: p, name: fmt.Sprintf("c%d", n), identity: fmt.Sprintf("%08x-0000-4000-8000-%012x:%x@%s.example", r.suite, n, n, p.name)}
}

// outsider is a client that is not in the group: a new one, or one that was. A
// third of the group at most are clients of an implementation that is slow.
func (r *mlsRun) outsider() *mlsClient {
	if len(r.gone) > 0 && r.rng.IntN(3) == 0 {
		i := r.rng.IntN(len(r.gone))
		c := r.gone[i]
		r.gone = slices.Delete(r.gone, i, i+1)
		return c
	}
	p := r.peers[r.rng.IntN(len(r.peers))]
	if slices.Contains(slowPeers, p.name) {
		count := 0
		for _, c := range r.members {
			if c.peer == p {
				count++
			}
		}
		if count >= r.most()/3 {
			p = r.peers[0]
		}
	}
	return r.newClient(p)
}

// most is how many members the group has at most, or one or two more.
func (r *mlsRun) most() int {
	if slices.Contains(slowSuites, r.suite) {
		return mlsSlow
	}
	return mlsMembers
}

func (r *mlsRun) fresh(kind string) []byte {
	r.names++
	return fmt.Appendf(nil, "%s %d", kind, r.names)
}

func (r *mlsRun) create(p *mlsPeer) {
	id := r.fresh("group")
	c := r.newClient(p)
	a := r.call(c, "create", mlsFields{"group": id, "suite": r.suite, "identity": c.identity})
	r.group, r.members = id, []*mlsClient{c}
	r.last = nil
	r.agree(map[*mlsClient]*mlsAnswer{c: a})
	// One of every implementation is there from the start.
	var join []*mlsClient
	for _, other := range r.peers {
		join = append(join, r.newClient(other))
	}
	r.welcome("add", c, join, mlsFields{}, false)
}

// step does one random operation.
func (r *mlsRun) step() {
	r.ops++
	type choice struct {
		name   string
		weight int
		do     func() bool
	}
	room := r.most() - len(r.members)
	choices := []choice{
		{"add", min(room, 4) * 2, r.add},
		{"remove", max(0, len(r.members)-3), r.remove},
		{"update", 8, r.update},
		{"propose", 8, r.propose},
		{"psk", 3, r.psk},
		{"external", min(room, 3), r.external},
		{"resync", 2, r.resync},
		{"messages", 14, r.talk},
		{"restart", 5, r.restart},
	}
	total := 0
	for _, c := range choices {
		total += max(0, c.weight)
	}
	for {
		at := r.rng.IntN(total)
		for _, c := range choices {
			if at -= max(0, c.weight); at < 0 {
				if c.do() {
					r.kinds[c.name]++
					return
				}
				break
			}
		}
	}
}

// pick is a random member that has all that is wanted, and is none of these.
func (r *mlsRun) pick(not []*mlsClient, wanted ...string) *mlsClient {
	for _, i := range r.rng.Perm(len(r.members)) {
		if c := r.members[i]; c.can(wanted...) && !slices.Contains(not, c) {
			return c
		}
	}
	return nil
}

// everybody reports whether all clients have what is wanted.
func everybody(clients []*mlsClient, wanted ...string) bool {
	return !slices.ContainsFunc(clients, func(c *mlsClient) bool { return !c.can(wanted...) })
}

// private says for about a third of the handshakes that they are PrivateMessages.
func (r *mlsRun) private(f mlsFields) mlsFields {
	if everybody(r.members, "private") && r.rng.IntN(3) == 0 {
		f["private"] = true
	}
	return f
}

// members go by leaf index in requests.
func leaves(clients []*mlsClient) (out []uint32) {
	for _, c := range clients {
		out = append(out, c.leaf)
	}
	return out
}

func (r *mlsRun) outsiders(most int) (out []*mlsClient) {
	for range 1 + r.rng.IntN(most) {
		out = append(out, r.outsider())
	}
	return out
}

func (r *mlsRun) keyPackages(clients []*mlsClient) (out [][]byte) {
	for _, c := range clients {
		out = append(out, r.call(c, "key_package", mlsFields{"suite": r.suite, "identity": c.identity}).KeyPackage)
	}
	return out
}

func (r *mlsRun) add() bool {
	join := r.outsiders(min(3, r.most()+1-len(r.members)))
	r.welcome("add", r.pick(nil, "add"), join, r.private(mlsFields{}), true)
	return true
}

func (r *mlsRun) remove() bool {
	by := r.pick(nil, "remove")
	out := []*mlsClient{r.pick([]*mlsClient{by})}
	if r.rng.IntN(4) == 0 && len(r.members) > 4 {
		out = append(out, r.pick([]*mlsClient{by, out[0]}))
	}
	r.before(out...)
	a := r.call(by, "remove", r.private(mlsFields{"members": leaves(out)}))
	r.commit(by, a, nil, out)
	return true
}

func (r *mlsRun) update() bool {
	by := r.pick(nil, "update")
	r.before()
	r.commit(by, r.call(by, "update", r.private(mlsFields{})), nil, nil)
	return true
}

// psk commits by value one or two keys that all know, and somebody new who
// needs them for the Welcome.
func (r *mlsRun) psk() bool {
	by := r.pick(nil, "commit", "psk")
	if by == nil || !everybody(r.members, "psk") {
		return false
	}
	var join []*mlsClient
	if c := r.outsider(); c.can("psk") && len(r.members) < r.most() && r.rng.IntN(2) == 0 {
		join = append(join, c)
	}
	var ids [][]byte
	for range 1 + r.rng.IntN(2) {
		ids = append(ids, r.shareKey(append(slices.Clone(r.members), join...)))
	}
	r.welcome("commit", by, join, r.private(mlsFields{"psks": ids}), true)
	return true
}

// shareKey gives a pre-shared key to clients and returns its ID.
func (r *mlsRun) shareKey(clients []*mlsClient) []byte {
	id, key := r.fresh("psk"), make([]byte, 32)
	for i := range key {
		key[i] = byte(r.rng.Uint32())
	}
	for _, c := range clients {
		r.call(c, "psk", mlsFields{"psk": id, "secret": key})
	}
	return id
}

// welcome makes a commit that adds clients, and takes them in.
func (r *mlsRun) welcome(op string, by *mlsClient, join []*mlsClient, f mlsFields, mayDetach bool) {
	r.t.Helper()
	r.before()
	if len(join) > 0 {
		f["key_packages"] = r.keyPackages(join)
		if mayDetach && r.rng.IntN(4) == 0 && by.can("tree") && everybody(join, "tree") {
			f["tree"] = false
		}
	}
	r.commit(by, r.call(by, op, f), join, nil)
}

// propose lets members propose, and one of them commit it all.
func (r *mlsRun) propose() bool {
	by := r.pick(nil, "commit")
	if by == nil {
		return false
	}
	f := r.private(mlsFields{})
	var join, out []*mlsClient
	busy := []*mlsClient{by} // nobody is changed twice, and the committer not by a proposal
	for range 1 + r.rng.IntN(4) {
		from := r.pick(nil, "propose")
		if from == nil {
			return false
		}
		g := maps.Clone(f)
		switch r.rng.IntN(4) {
		case 0:
			if len(r.members)+len(join) >= r.most() {
				continue
			}
			c := r.outsider()
			join = append(join, c)
			g["key_package"] = r.keyPackages([]*mlsClient{c})[0]
			r.proposed(from, "propose_add", g)
		case 1:
			c := r.pick(append(slices.Clone(busy), from))
			if c == nil || len(r.members)-len(out) <= 3 {
				continue
			}
			busy, out = append(busy, c), append(out, c)
			g["member"] = c.leaf
			r.proposed(from, "propose_remove", g)
		case 2:
			if slices.Contains(busy, from) {
				continue
			}
			busy = append(busy, from)
			r.proposed(from, "propose_update", g)
		case 3:
			if !everybody(r.members, "psk") || !everybody(join, "psk") {
				continue
			}
			g["psk"] = r.shareKey(append(slices.Clone(r.members), join...))
			// Whoever is proposed after it has to know it as well: so no more are.
			r.proposed(from, "propose_psk", g)
			goto commit
		}
	}
commit:
	if len(join) > 0 && by.can("tree") && everybody(join, "tree") && r.rng.IntN(4) == 0 {
		f["tree"] = false
	}
	r.before(out...)
	r.commit(by, r.call(by, "commit", f), join, out)
	return true
}

// proposed makes a proposal and hands it to all other members.
func (r *mlsRun) proposed(from *mlsClient, op string, f mlsFields) {
	r.t.Helper()
	a := r.call(from, op, f)
	if len(a.Proposal) == 0 {
		r.t.Fatalf("%v: %s without a proposal", from, op)
	}
	for _, c := range r.members {
		if c != from {
			r.call(c, "process", mlsFields{"message": a.Proposal})
		}
	}
}

// commit hands a commit to all other members, takes in the new ones, lets the
// removed ones go, and compares what all of them know.
func (r *mlsRun) commit(by *mlsClient, a *mlsAnswer, join, out []*mlsClient) {
	r.t.Helper()
	if len(a.Commit) == 0 {
		r.t.Fatalf("%v: no commit", by)
	}
	answers := map[*mlsClient]*mlsAnswer{by: a}
	for _, c := range r.members {
		if c == by {
			continue
		}
		r.tamper(c, a.Commit)
		got := r.call(c, "process", mlsFields{"message": a.Commit})
		if removed := slices.Contains(out, c); removed != got.Removed {
			r.t.Fatalf("%v: removed is %v, want %v", c, got.Removed, removed)
		}
		if !got.Removed {
			answers[c] = got
		}
	}
	r.leave(out)
	for _, c := range join {
		if len(a.Welcome) == 0 {
			r.t.Fatalf("%v: no Welcome", by)
		}
		f := mlsFields{"welcome": a.Welcome}
		if len(a.RatchetTree) > 0 {
			f["ratchet_tree"] = a.RatchetTree
		}
		got := r.call(c, "join", f)
		if !bytes.Equal(got.Group, r.group) {
			r.t.Fatalf("%v: joined group %q", c, got.Group)
		}
		answers[c] = got
	}
	r.members = append(r.members, join...)
	r.entered(by, join, answers)
}

// entered is the begin of an epoch.
func (r *mlsRun) entered(by *mlsClient, join []*mlsClient, answers map[*mlsClient]*mlsAnswer) {
	r.t.Helper()
	r.epoch++
	r.epochs++
	r.last = by
	for _, c := range join {
		c.since = r.epoch
	}
	r.agree(answers)
}

func (r *mlsRun) leave(out []*mlsClient) {
	for _, c := range out {
		r.members = slices.DeleteFunc(r.members, func(m *mlsClient) bool { return m == c })
		r.gone = append(r.gone, c)
		r.late = slices.DeleteFunc(r.late, func(d mlsDelivery) bool { return d.to == c })
	}
}

// tamper gives ours a changed commit first, now and then: it must be refused
// and leave the group as it was.
func (r *mlsRun) tamper(c *mlsClient, commit []byte) {
	r.t.Helper()
	if c.peer.name != ours || r.rng.IntN(8) != 0 {
		return
	}
	bad := bytes.Clone(commit)
	bad[len(bad)-1-r.rng.IntN(len(bad)/2)] ^= 1 << r.rng.IntN(8)
	before := r.call(c, "state", nil)
	r.refused(c, "process", mlsFields{"message": bad})
	after := r.call(c, "state", nil)
	if !bytes.Equal(before.state().Authenticator, after.state().Authenticator) || *before.state().Epoch != *after.state().Epoch {
		r.t.Fatalf("%v: a refused commit changed the group", c)
	}
}

// external lets somebody in by an external commit.
func (r *mlsRun) external() bool {
	c := r.outsider()
	if !c.can("external_join") {
		r.gone = append(r.gone, c)
		return false
	}
	return r.enter(c, mlsFields{})
}

// resync lets a member come in anew: its commit removes its old leaf.
func (r *mlsRun) resync() bool {
	c := r.pick(nil, "external_join", "resync")
	if c == nil || len(r.members) < 2 || r.regrows(c) {
		return false
	}
	return r.enter(c, mlsFields{"resync": true})
}

// regrows says that core-crypto 10.3 would refuse the resync of a member: the
// removal of its leaf halves the tree, and its new leaf, which is another,
// doubles it again. The other libraries take such a commit.
func (r *mlsRun) regrows(c *mlsClient) bool {
	taken, last := map[uint32]bool{}, uint32(0)
	for _, m := range r.members {
		if m != c {
			taken[m.leaf], last = true, max(last, m.leaf)
		}
	}
	free, width := uint32(0), uint32(1)
	for taken[free] {
		free++
	}
	for width <= last {
		width *= 2
	}
	return free >= width && free != c.leaf && slices.ContainsFunc(r.members, func(m *mlsClient) bool { return m.peer.name == "core-crypto" })
}

// enter makes an external commit and hands it to the members.
func (r *mlsRun) enter(c *mlsClient, f mlsFields) bool {
	r.t.Helper()
	by := r.pick([]*mlsClient{c}, "group_info")
	if r.last != nil && r.last != c && (by == nil || !by.can("tree")) && slices.Contains(r.members, r.last) {
		by = r.last // some give out a GroupInfo in the epoch of their own commit only
	}
	if by == nil || by.can("group_info:own") && by != r.last {
		return false
	}
	g := mlsFields{}
	if by.can("tree") && c.can("tree") && r.rng.IntN(4) == 0 {
		g["tree"] = false
	}
	r.before(c)
	info := r.call(by, "group_info", g)
	f["suite"], f["identity"], f["group_info"] = r.suite, c.identity, info.GroupInfo
	if len(info.RatchetTree) > 0 {
		f["ratchet_tree"] = info.RatchetTree
	}
	a := r.call(c, "external_join", f)
	r.leave(slices.DeleteFunc([]*mlsClient{c}, func(c *mlsClient) bool { return !slices.Contains(r.members, c) }))
	r.gone = slices.DeleteFunc(r.gone, func(g *mlsClient) bool { return g == c })
	answers := map[*mlsClient]*mlsAnswer{c: a}
	for _, m := range r.members {
		r.tamper(m, a.Commit)
		answers[m] = r.call(m, "process", mlsFields{"message": a.Commit})
	}
	r.members = append(r.members, c)
	r.entered(c, []*mlsClient{c}, answers)
	return true
}

// restart lets some of ours read the group back from what they have stored.
func (r *mlsRun) restart() bool {
	r.talks++
	for _, c := range r.members {
		if c.can("restart") && r.rng.IntN(2) == 0 {
			before := r.call(c, "state", nil).state()
			after := r.call(c, "restart", nil).state()
			if diff := cmp.Diff(before, after); diff != "" {
				r.t.Fatalf("%v: a restart changed the group: %s", c, diff)
			}
		}
	}
	return true
}

// mlsRoot is where the peers are found, from this package's directory.
func mlsRoot(parts ...string) string { return filepath.Join(append([]string{root}, parts...)...) }
