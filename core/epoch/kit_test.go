package epoch

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/fxamacker/cbor/v2"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
)

var _ Rooms = (*core.Engine)(nil)

// memory is the rows of one store, with a journal to take a transaction back.
type memory struct {
	core.Tx // what this package does not use
	rows    map[[2]string][]byte
	undo    []func()
	writes  int
	fail    error // of the next read of the log
}

func (s *memory) Value(bucket, key string) ([]byte, error) {
	if s.fail != nil && bucket == bucketLog {
		return nil, s.fail
	}
	if b, ok := s.rows[[2]string{bucket, key}]; ok {
		return b, nil
	}
	return nil, core.Errorf(core.NotFound, "no value")
}

func (s *memory) Values(bucket, after string, limit int) ([]core.Value, error) {
	var out []core.Value
	for k, b := range s.rows {
		if k[0] == bucket && k[1] > after {
			out = append(out, core.Value{Key: k[1], Data: b})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out[:min(len(out), limit)], nil
}

func (s *memory) Room(id core.RoomID) (core.Room, error) {
	_, err := s.Value(bucketFake, core.RoomKey(id))
	return core.Room{ID: id}, err
}

func (s *memory) PutValue(bucket, key string, data []byte) error {
	s.remember([2]string{bucket, key})
	s.rows[[2]string{bucket, key}] = bytes.Clone(data)
	return nil
}

func (s *memory) DropValue(bucket, key string) error {
	s.remember([2]string{bucket, key})
	delete(s.rows, [2]string{bucket, key})
	return nil
}

func (s *memory) remember(k [2]string) {
	s.writes++
	old, had := s.rows[k]
	s.undo = append(s.undo, func() {
		if delete(s.rows, k); had {
			s.rows[k] = old
		}
	})
}

func (s *memory) rollback() {
	for _, f := range slices.Backward(s.undo) {
		f()
	}
	s.undo = nil
}

// fakeGroup is a room of the fake engine.
type fakeGroup struct {
	Auth    core.Authority
	Seq     uint64
	History map[uint64]core.HandshakeID // epoch that it opened -> commit
	Told    []core.HandshakeID          // proposals
	Hash    []byte
}

// change is what a fake handshake says.
type change struct {
	Nonce             string
	Voters, Followers []string // nil: as before
	Rule              uint8
	Proposal, Bad     bool
	Newcomers         bool
}

// handshake makes one of room for epoch.
func handshake(room core.RoomID, home string, epoch uint64, c change) *core.Handshake {
	b, _ := cbor.Marshal(c)
	msg := append([]byte{0, 1, 0, 1, 1, 'g'}, binary.BigEndian.AppendUint64(nil, epoch)...)
	h := &core.Handshake{Room: room, Home: home, By: core.NewDeviceURI(home, "d"), Message: append(msg, b...)}
	if !c.Proposal {
		h.Info = []byte{1}
	}
	return h
}

// fakeRooms is an engine whose groups are counters, kept in the store.
type fakeRooms struct {
	tx     core.Tx // of the test's own looks
	judge  func(epoch uint64) error
	think  error // of newcomers
	checks int   // calls of CheckHandshake
	sealed int
}

// canonical keeps maps in order: the same state has the same octets.
var canonical, _ = cbor.CanonicalEncOptions().EncMode()

const bucketFake = "fake"

func (f *fakeRooms) get(tx core.Reader, room core.RoomID) (*fakeGroup, error) {
	b, err := tx.Value(bucketFake, core.RoomKey(room))
	if err != nil {
		return nil, err
	}
	g := new(fakeGroup)
	return g, cbor.Unmarshal(b, g)
}

func (f *fakeRooms) put(tx core.Tx, room core.RoomID, g *fakeGroup) error {
	b, err := canonical.Marshal(g)
	if err != nil {
		return err
	}
	return tx.PutValue(bucketFake, core.RoomKey(room), b)
}

func (f *fakeRooms) Apply(tx core.Tx, now time.Time, in core.Input) (core.Output, error) {
	if _, ok := in.(core.LeaseGroupInfo); ok {
		return core.Output{Lease: new(core.GroupInfoLease)}, nil
	}
	return core.Output{Left: 7}, nil
}

func (f *fakeRooms) Seal(core.Tx) error { f.sealed++; return nil }

func (f *fakeRooms) Authority(tx core.Tx, room core.RoomID) (core.Authority, error) {
	g, err := f.get(tx, room)
	if err != nil {
		return core.Authority{}, err
	}
	return g.Auth, nil
}

func (f *fakeRooms) examine(tx core.Tx, h *core.Handshake) (*fakeGroup, *change, error) {
	g, err := f.get(tx, h.Room)
	if err != nil {
		return nil, nil, err
	}
	var c change
	if len(h.Message) < 14 || cbor.Unmarshal(h.Message[14:], &c) != nil || c.Bad {
		return nil, nil, core.Errorf(core.Invalid, "bad")
	}
	if e, _ := core.EpochOf(h.Message); e != g.Auth.Epoch {
		return nil, nil, core.Errorf(core.StaleEpoch, "stale")
	}
	return g, &c, nil
}

func (f *fakeRooms) CheckHandshake(tx core.Tx, now time.Time, h *core.Handshake) error {
	f.checks++
	_, c, err := f.examine(tx, h)
	if err == nil && c.Nonce == "unknown device" {
		return core.Errorf(core.Unavailable, "a record is missing")
	}
	if err == nil && c.Newcomers {
		h.Newcomers, err = true, f.think
	}
	return err
}

func (f *fakeRooms) Decide(tx core.Tx, now time.Time, h *core.Handshake) (core.Output, *core.Opened, error) {
	g, c, err := f.examine(tx, h)
	if err != nil {
		return core.Output{}, nil, err
	}
	g.Seq++
	out := core.Output{Events: []*core.Event{{Seq: g.Seq}}}
	id := h.ID()
	if c.Proposal {
		g.Told = append(g.Told, id)
		return out, nil, f.put(tx, h.Room, g)
	}
	before := g.Auth
	g.Auth.Epoch++
	g.Auth.Rule = c.Rule
	if c.Voters != nil {
		g.Auth.Voters, g.Auth.Followers = c.Voters, c.Followers
	}
	sum := sha256.Sum256(append(slices.Clone(g.Hash), id[:]...))
	g.Hash = sum[:]
	g.History[g.Auth.Epoch] = id
	opened := &core.Opened{Room: h.Room, Epoch: g.Auth.Epoch, Seq: g.Seq, Commit: id, Transcript: g.Hash, Tree: id[:], Before: before, After: g.Auth}
	return out, opened, f.put(tx, h.Room, g)
}

func (f *fakeRooms) Judge(tx core.Tx, now time.Time, room core.RoomID, epoch uint64) error {
	if f.judge != nil {
		return f.judge(epoch)
	}
	return nil
}

func (f *fakeRooms) Winner(tx core.Reader, room core.RoomID, epoch uint64) (core.HandshakeID, []byte, uint64, error) {
	g, err := f.get(tx, room)
	if err != nil {
		return core.HandshakeID{}, nil, 0, err
	}
	id, ok := g.History[epoch+1]
	if !ok {
		return id, nil, 0, core.Errorf(core.NotFound, "no winner")
	}
	return id, id[:], 1, nil
}

func (f *fakeRooms) SnapshotGroup(tx core.Tx, room core.RoomID) ([]byte, error) {
	g, err := f.get(tx, room)
	if err != nil {
		return nil, err
	}
	return canonical.Marshal(g)
}

func (f *fakeRooms) RestoreGroup(tx core.Tx, now time.Time, room core.RoomID, b []byte, certified func(after core.Authority, transcript, tree []byte) error) (core.Output, error) {
	g := new(fakeGroup)
	if err := cbor.Unmarshal(b, g); err != nil || g.Auth.Voters == nil {
		return core.Output{}, core.Errorf(core.Invalid, "snapshot")
	}
	switch old, err := f.get(tx, room); {
	case err != nil || old.Auth.Epoch == g.Auth.Epoch:
	case old.Auth.Epoch > g.Auth.Epoch:
		return core.Output{}, core.Errorf(core.Conflict, "an epoch that is over")
	default:
		tree := g.History[g.Auth.Epoch]
		if err := certified(g.Auth, g.Hash, tree[:]); err != nil {
			return core.Output{}, err
		}
	}
	return core.Output{}, f.put(tx, room, g)
}

func homeKey(domain string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(domain))
	return ed25519.NewKeyFromSeed(seed[:])
}

func checkKey(_ core.Reader, _ time.Time, domain string, signed, sig []byte) error {
	if !identity.Verify(homeKey(domain).Public().(ed25519.PublicKey), ApprovalLabel, sig, signed) {
		return errors.New("bad signature")
	}
	return nil
}

// A node is one homeserver of a cluster.
type node struct {
	c         *cluster
	domain    string
	store     *memory
	rooms     *fakeRooms
	m         *Machine
	down      bool
	decisions map[core.HandshakeID]core.Decision
	certified map[string]int // room/epoch
	sends     int
}

type packet struct {
	from, to string
	msg      core.PeerMessage
}

// A cluster is homeservers and the network between them, all in one thread.
type cluster struct {
	t      testing.TB
	nodes  map[string]*node
	order  []string
	net    []packet
	cut    map[[2]string]bool // from, to
	now    time.Time
	rng    *rand.Rand
	trace  hash.Hash
	steps  int
	cfg    Config
	faulty bool // the store fails: raft panics, and nothing else may
}

func newCluster(t testing.TB, seed uint64, domains ...string) *cluster {
	if t, ok := t.(*testing.T); ok {
		cryptotest.SetGlobalRandom(t, seed)
	}
	c := &cluster{t: t, nodes: map[string]*node{}, cut: map[[2]string]bool{}, now: time.Unix(1_800_000_000, 0),
		rng: rand.New(rand.NewPCG(seed, 1)), trace: sha256.New()}
	for _, d := range domains {
		c.add(d)
	}
	return c
}

func (c *cluster) add(domain string) *node {
	n := &node{c: c, domain: domain, store: &memory{rows: map[[2]string][]byte{}}, rooms: &fakeRooms{},
		decisions: map[core.HandshakeID]core.Decision{}, certified: map[string]int{}}
	c.nodes[domain] = n
	c.order = append(c.order, domain)
	n.restart()
	return n
}

func (n *node) restart() {
	cfg := n.c.cfg
	cfg.Homeserver, cfg.Key, cfg.Rooms, cfg.Check = n.domain, homeKey(n.domain), n.rooms, checkKey
	n.m, n.down = New(cfg), false
}

// create makes a room at its first homeserver.
func (c *cluster) create(room core.RoomID, home string) {
	n := c.nodes[home]
	g := &fakeGroup{Auth: core.Authority{Voters: []string{home}}, History: map[uint64]core.HandshakeID{}, Hash: []byte(room)}
	if err := n.rooms.put(n.store, room, g); err != nil {
		c.t.Fatal(err)
	}
	n.store.undo = nil
}

// do applies one input in a transaction of its own; a crash takes it back.
func (n *node) do(in core.Input, crash bool) (core.Output, error) {
	c := n.c
	c.steps++
	n.store.undo = nil
	out, err := n.m.Apply(n.store, c.now, in)
	broken := core.Broken(err)
	if !broken {
		if serr := n.m.Seal(n.store); serr != nil {
			c.t.Fatal(serr)
		}
	}
	if s := n.m.Stats(); s.Faults > 0 && !c.faulty {
		c.t.Fatalf("%s: raft panicked", n.domain)
	}
	if broken && n.store.fail == nil {
		c.t.Fatalf("%s: %T: %v", n.domain, in, err)
	}
	if crash || broken {
		n.store.rollback()
		n.restart()
		return core.Output{}, err
	}
	fmt.Fprintf(c.trace, "%s %T %v\n", n.domain, in, err)
	for _, d := range out.Decisions {
		if old, ok := n.decisions[d.ID]; !ok || old.Err != nil {
			n.decisions[d.ID] = d
		}
		fmt.Fprintf(c.trace, "%s decided %x %d %d %v\n", n.domain, d.ID[:4], d.Epoch, d.Seq, d.Err)
	}
	for _, x := range out.Certified {
		n.certified[fmt.Sprintf("%s/%d", x.Room, x.Epoch)]++
	}
	for _, s := range out.Sends {
		n.sends++
		fmt.Fprintf(c.trace, "%s -> %s %d %x\n", n.domain, s.To, s.Message.Kind, sha256.Sum256(s.Message.Body))
		c.net = append(c.net, packet{from: n.domain, to: s.To, msg: s.Message})
	}
	return out, err
}

// propose offers h at its homeserver and returns the error of Apply.
func (c *cluster) propose(h *core.Handshake) error {
	_, err := c.nodes[h.Home].do(core.Propose{Handshake: h}, false)
	return err
}

// deliver hands over the packet at i of the network.
func (c *cluster) deliver(i int) {
	p := c.net[i]
	c.net = slices.Delete(c.net, i, i+1)
	if n := c.nodes[p.to]; n != nil && !n.down && !c.cut[[2]string{p.from, p.to}] {
		if _, err := n.do(core.PeerMessages{From: p.from, Messages: []core.PeerMessage{p.msg}}, false); err != nil && n.store.fail == nil {
			c.t.Fatalf("message to %s: %v", p.to, err)
		}
	}
}

// tick moves the clock of every homeserver that wants it.
func (c *cluster) tick() {
	c.now = c.now.Add(core.TickEvery)
	for _, d := range c.order {
		if n := c.nodes[d]; !n.down && n.m.Awake() {
			n.do(core.Tick{}, false)
		}
	}
}

func (c *cluster) flush() {
	for len(c.net) > 0 {
		c.deliver(0)
	}
}

// run delivers and ticks until ok, at most so many ticks.
func (c *cluster) run(what string, ticks int, ok func() bool) {
	c.t.Helper()
	c.flush()
	for range ticks {
		if ok() {
			return
		}
		c.tick()
		c.flush()
	}
	if !ok() {
		c.t.Fatalf("not within %d ticks: %s", ticks, what)
	}
}

// quiet waits until nobody is awake and nothing is on its way.
func (c *cluster) quiet() {
	c.t.Helper()
	defer func() {
		if c.t.Failed() {
			c.dump()
		}
	}()
	c.run("all quiet", 3000, func() bool {
		for _, n := range c.nodes {
			if !n.down && n.m.Awake() {
				return false
			}
		}
		return len(c.net) == 0
	})
}

func (c *cluster) group(domain string, room core.RoomID) *fakeGroup {
	c.t.Helper()
	n := c.nodes[domain]
	g, err := n.rooms.get(n.store, room)
	if err != nil {
		c.t.Fatalf("%s: %v", domain, err)
	}
	return g
}

func (c *cluster) epoch(domain string, room core.RoomID) uint64 {
	g, err := c.nodes[domain].rooms.get(c.nodes[domain].store, room)
	if err != nil {
		return 0
	}
	return g.Auth.Epoch
}

// agree checks that every homeserver has the same commit for each epoch that it
// knows, and that each accepted commit is in the history.
func (c *cluster) agree(room core.RoomID) {
	c.t.Helper()
	all, told := map[uint64]core.HandshakeID{}, map[core.HandshakeID]bool{}
	for _, d := range c.order {
		g, err := c.nodes[d].rooms.get(c.nodes[d].store, room)
		if err != nil {
			continue
		}
		for _, id := range g.Told {
			told[id] = true
		}
		for e, id := range g.History {
			if have, ok := all[e]; ok && have != id {
				c.t.Fatalf("%s: epoch %d has two commits", d, e)
			}
			all[e] = id
		}
	}
	for _, d := range c.order {
		for id, dec := range c.nodes[d].decisions {
			if dec.Err == nil && dec.Room == room && dec.Seq > 0 {
				found := false
				for _, have := range all {
					found = found || have == id
				}
				if !found && !told[id] {
					c.t.Fatalf("%s: an accepted commit is lost", d)
				}
			}
		}
	}
}

// certificate reads and verifies one at domain.
func (c *cluster) certificate(domain string, room core.RoomID, epoch uint64, voters []string, rule uint8) *Certificate {
	c.t.Helper()
	b, err := CertificateOf(c.nodes[domain].store, room, epoch)
	if err != nil {
		c.t.Fatalf("%s: certificate of epoch %d: %v", domain, epoch, err)
	}
	cert, err := ParseCertificate(b)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cert.Verify(voters, rule, func(d string, signed, sig []byte) error { return checkKey(nil, c.now, d, signed, sig) }); err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// raftOf is a raft message about a room, as others hear it from a homeserver.
func raftOf(t testing.TB, from string, room core.RoomID, msg *pb.Message) core.PeerMessages {
	t.Helper()
	body, err := marshal.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	return core.PeerMessages{From: from, Messages: []core.PeerMessage{{Room: room, Kind: core.PeerRaft, Body: body}}}
}

// lie has one homeserver hear msg from another, whatever raft would say there.
func (c *cluster) lie(from, to string, msg *pb.Message) {
	c.t.Helper()
	msg.From, msg.To = new(memberID(from)), new(memberID(to))
	if _, err := c.nodes[to].do(raftOf(c.t, from, testRoom, msg), false); err != nil {
		c.t.Fatal(err)
	}
}

// dump logs where every homeserver stands.
func (c *cluster) dump() {
	for _, d := range c.order {
		n := c.nodes[d]
		if r, err := n.peek(testRoom); err == nil && n.m.awake[testRoom] == nil {
			c.t.Logf("%s asleep: %+v %v", d, r.row, r.auth)
		}
		c.t.Logf("%s: %+v", d, n.m.Stats())
		for _, r := range n.m.awake {
			if r.node != nil {
				c.t.Logf("%s: %v", d, r.node.Status())
			}
			c.t.Logf("%s awake: lead %x leads %v term %d last %d commit %d applied %d first %d queue %d open %v voters %x learners %x out %x auth %v uneasy %v self %x part %v",
				d, r.row.Lead>>48, r.leads(), r.row.Term, r.row.Last, r.row.Commit, r.row.Applied, r.row.First, len(r.queue), r.row.Open, r.row.Voters, r.row.Learners, r.row.Outgoing, r.auth, r.uneasy, n.m.self, n.m.part(r))
			for _, o := range r.row.Open {
				for _, d := range c.order {
					if cert, err := readCert(c.nodes[d].store, r.numbered(o.Epoch)); err == nil {
						c.t.Logf("epoch %d at %s: voters %v judged %d given %v strays %d index %d", o.Epoch, d, cert.Voters, cert.Judged, cert.certificate().Domains(), len(cert.Strays), cert.Facts.Index)
					}
				}
			}
		}
	}
}
