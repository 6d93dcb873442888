package epoch

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

// A realNode keeps its rows in SQLite.
type realNode struct {
	t      testing.TB
	domain string
	path   string
	db     *store.DB
	m      *Machine
	rooms  func() Rooms
	check  func(core.Reader, time.Time, string, []byte, []byte) error
}

// free is no budget at all.
var free = core.Meter{Burst: 1e9, Every: 1}

func (n *realNode) open() {
	db, err := store.Open(context.Background(), store.Options{URL: "sqlite:" + n.path, Homeserver: n.domain})
	if err != nil {
		n.t.Fatal(err)
	}
	n.db, n.m = db, New(Config{Homeserver: n.domain, Key: homeKey(n.domain), Rooms: n.rooms(), Check: n.check, DeviceRate: free, HomeRate: free})
}

func (n *realNode) do(ins ...core.Input) (out core.Output) {
	err := n.db.Update(context.Background(), func(tx core.Tx) error {
		out = core.Output{}
		for _, in := range ins {
			o, err := n.m.Apply(tx, time.Unix(1_800_000_000, 0), in)
			if core.Broken(err) {
				return err
			}
			out.Sends = append(out.Sends, o.Sends...)
			out.Decisions = append(out.Decisions, o.Decisions...)
			out.Certified = append(out.Certified, o.Certified...)
			out.Welcomes = append(out.Welcomes, o.Welcomes...)
			if err != nil {
				n.t.Errorf("%s: %T: %v", n.domain, in, err)
			}
		}
		return n.m.Seal(tx)
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// realCluster makes three homeservers with a room, on files below a directory.
func realCluster(t testing.TB) (map[string]*realNode, func(string, ...core.Input) core.Output) {
	nodes := map[string]*realNode{}
	for _, d := range three {
		n := &realNode{t: t, domain: d, path: filepath.Join(t.TempDir(), d), check: checkKey, rooms: func() Rooms { return &fakeRooms{} }}
		n.open()
		t.Cleanup(func() { n.db.Close() })
		nodes[d] = n
	}
	if err := nodes[three[0]].db.Update(context.Background(), func(tx core.Tx) error {
		return (&fakeRooms{}).put(tx, testRoom, &fakeGroup{Auth: core.Authority{Voters: three[:1]}, History: map[uint64]core.HandshakeID{}, Hash: []byte{1}})
	}); err != nil {
		t.Fatal(err)
	}
	run := network(nodes)
	run(three[0], core.Propose{Handshake: handshake(testRoom, three[0], 0, change{Voters: three})})
	rest(t, nodes, run)
	return nodes, run
}

// network returns what applies inputs at a homeserver and hands on what comes of
// them, what goes to one homeserver in one input, until there is no more.
func network(nodes map[string]*realNode) func(string, ...core.Input) core.Output {
	return func(at string, ins ...core.Input) core.Output {
		first := nodes[at].do(ins...)
		waves := map[string][]core.Send{at: first.Sends}
		for len(waves) > 0 {
			next := map[string][]core.Send{}
			for _, from := range three {
				for _, to := range three {
					var msgs []core.PeerMessage
					for _, s := range waves[from] {
						if s.To == to {
							msgs = append(msgs, s.Message)
						}
					}
					if len(msgs) == 0 {
						continue
					}
					o := nodes[to].do(core.PeerMessages{From: from, Messages: msgs})
					first.Decisions = append(first.Decisions, o.Decisions...)
					if len(o.Sends) > 0 {
						next[to] = append(next[to], o.Sends...)
					}
				}
			}
			waves = next
		}
		return first
	}
}

// rest lets time pass until nobody is awake.
func rest(t testing.TB, nodes map[string]*realNode, run func(string, ...core.Input) core.Output) {
	t.Helper()
	for range 200 {
		quiet := true
		for _, d := range three {
			if n := nodes[d]; n != nil && n.m.Awake() {
				run(d, core.Tick{})
				quiet = false
			}
		}
		if quiet {
			return
		}
	}
	t.Fatal("it does not come to rest")
}

// On a real store, with every homeserver closed and opened between commits.
func TestRealStore(t *testing.T) {
	nodes, run := realCluster(t)
	for i := range uint64(6) {
		h := handshake(testRoom, three[i%3], 1+i, change{})
		out := run(h.Home, core.Propose{Handshake: h})
		if len(out.Decisions) != 1 || out.Decisions[0].Err != nil || out.Decisions[0].ID != h.ID() {
			t.Fatalf("commit %d: %+v", i, out.Decisions)
		}
		for _, n := range nodes {
			err := n.db.View(context.Background(), func(r core.Reader) error { _, err := CertificateOf(r, testRoom, i+2); return err })
			if err != nil {
				t.Fatalf("commit %d at %s: %v", i, n.domain, err)
			}
			if i%2 == 1 {
				if err := n.db.Close(); err != nil {
					t.Fatal(err)
				}
				n.open()
			}
		}
	}
}

// BenchmarkCommit is one commit of three homeservers on SQLite, each step after
// the other on one machine: transactions are what it costs.
func BenchmarkCommit(b *testing.B) {
	nodes, run := realCluster(b)
	lead := three[0]
	for d, n := range nodes {
		if n.m.rooms[testRoom].leads() {
			lead = d
		}
	}
	epoch := uint64(1)
	for b.Loop() {
		if out := run(lead, core.Propose{Handshake: handshake(testRoom, lead, epoch, change{})}); len(out.Decisions) != 1 || out.Decisions[0].Err != nil {
			b.Fatalf("%+v", out.Decisions)
		}
		epoch++
	}
}

// BenchmarkSteps says after how many messages one after the other a commit is
// decided at its homeserver and certified there, and how many transactions all
// homeservers need until nothing is in flight.
func BenchmarkSteps(b *testing.B) {
	for _, from := range []string{"leader", "follower"} {
		b.Run(from, func(b *testing.B) {
			c := newFree(b)
			c.grow(three)
			home := three[0]
			for _, d := range three {
				if c.nodes[d].m.rooms[testRoom].leads() == (from == "leader") {
					home = d
				}
			}
			clear(c.nodes[home].decisions)
			start := c.steps
			epoch, decided, certified := uint64(1), 0, 0
			for b.Loop() {
				h := handshake(testRoom, home, epoch, change{})
				if err := c.propose(h); err != nil {
					b.Fatal(err)
				}
				for wave := 1; len(c.net) > 0; wave++ {
					for range len(c.net) {
						c.deliver(0)
					}
					if decided == 0 && c.nodes[home].decisions[h.ID()].Seq > 0 {
						decided = wave
					}
					if certified == 0 && c.nodes[home].certified[fmt.Sprintf("%s/%d", testRoom, epoch+1)] > 0 {
						certified = wave
					}
				}
				if c.nodes[home].decisions[h.ID()].Seq == 0 {
					b.Fatal("no decision")
				}
				epoch++
			}
			b.ReportMetric(float64(decided), "hops-decided")
			b.ReportMetric(float64(certified), "hops-certified")
			b.ReportMetric(float64(c.steps-start)/float64(b.N), "tx/op")
		})
	}
}

// newFree returns three homeservers without budgets.
func newFree(t testing.TB) *cluster {
	c := newCluster(t, 1)
	c.cfg.DeviceRate, c.cfg.HomeRate = free, free
	for _, d := range three {
		c.add(d)
	}
	return c
}

// many makes n rooms of all three homeservers.
func (c *cluster) many(n int) {
	for i := range n {
		id := core.RoomID(fmt.Sprintf("mimi://a.example/r/%d", i))
		c.create(id, three[0])
		if err := c.propose(handshake(id, three[0], 0, change{Voters: three})); err != nil {
			c.t.Fatal(err)
		}
	}
	c.quiet()
}

// held is what each of the node's rooms holds in memory, all of them with raft.
func (n *node) held(rooms int) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	with := len(n.m.rooms)
	for _, r := range n.m.rooms {
		if r.node == nil {
			with--
		}
	}
	if with != rooms {
		n.c.t.Fatalf("%d rooms with raft in memory, not %d", with, rooms)
	}
	n.m = nil
	runtime.GC()
	runtime.ReadMemStats(&after)
	return (before.HeapAlloc - after.HeapAlloc) / uint64(rooms)
}

// BenchmarkIdle is what 1,000 rooms cost a homeserver while nothing happens: the
// octets that each holds, and a tick.
func BenchmarkIdle(b *testing.B) {
	const n = 1000
	c := newFree(b)
	c.many(n)
	held := c.nodes[three[0]].held(n)
	m := c.nodes[three[1]].m
	for b.Loop() {
		m.tx = c.nodes[three[1]].store
		if err := m.tick(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(held), "B/room")
}

// TestIdleCost holds the figures of BenchmarkIdle to their bounds: under 20 KiB of
// memory for a room, and no work for a tick.
func TestIdleCost(t *testing.T) {
	c := newFree(t)
	const n = 200
	c.many(n)
	for _, n := range c.nodes {
		writes := n.store.writes
		allocs := testing.AllocsPerRun(10, func() {
			n.m.tx = n.store
			if err := n.m.tick(); err != nil {
				t.Fatal(err)
			}
		})
		if n.store.writes != writes || allocs > 1 || n.m.Awake() {
			t.Errorf("%s: an idle tick writes %d rows and allocates %.0f times", n.domain, n.store.writes-writes, allocs)
		}
	}
	if each := c.nodes[three[0]].held(n); each < 1<<10 || each > 20<<10 {
		t.Errorf("an idle room holds %d octets", each)
	}
}

// FuzzRaftMessages plays a script of raft messages by a member that lies: three
// octets choose a message's type, sender and fields, near what would fit.
func FuzzRaftMessages(f *testing.F) {
	f.Add([]byte{3, 1, 4, 8, 0, 200, 7, 7, 7, 5, 1, 130})
	f.Add([]byte{19, 0, 1, 6, 0, 1, 3, 0, 255, 4, 0, 9})
	c := grown(f, 19, three...)
	n := c.nodes[three[0]]
	others := []uint64{memberID(three[1]), memberID(three[2])}
	f.Fuzz(func(t *testing.T, script []byte) {
		n.store.undo = nil
		for ; len(script) >= 3 && len(script) < 300; script = script[3:] {
			r, err := n.peek(testRoom)
			if err != nil {
				t.Fatal(err)
			}
			w, x, y := r.row, uint64(script[1]), uint64(script[2])
			typ := pb.MessageType(script[0] % 24)
			from := int(x & 1)
			msg := &pb.Message{Type: &typ, From: &others[from], To: &n.m.self, Term: new(w.Term + x>>1&3), Index: new(w.Last + y&7 - min(w.Last, 3)),
				LogTerm: new(w.Term - min(w.Term, x>>3&1)), Commit: new(w.Commit + y>>3&3), Reject: new(x>>4&1 == 1), RejectHint: new(w.Last + y>>5&1)}
			for i := range y >> 6 {
				kind := pb.EntryNormal
				if x>>5&1 == 1 {
					kind = pb.EntryConfChangeV2
				}
				msg.Entries = append(msg.Entries, &pb.Entry{Type: &kind, Index: new(msg.GetIndex() + 1 + i), Term: msg.Term,
					Data: [][]byte{nil, {0x12, 4, 8, 1, 0x10, 7}, handshake(testRoom, three[1], 1, change{}).Encode(), {9}}[x>>6]})
			}
			if typ == pb.MsgSnap {
				group, _ := canonical.Marshal(&fakeGroup{Auth: core.Authority{Voters: three}})
				data, _ := canonical.Marshal(&groupSnapshot{Names: three, Group: group})
				msg.Snapshot = &pb.Snapshot{Data: data, Metadata: &pb.SnapshotMetadata{Index: msg.Index, Term: msg.LogTerm,
					ConfState: &pb.ConfState{Voters: []uint64{others[from], n.m.self}, Learners: others[1-from : 2-from]}}}
			}
			for _, in := range []core.Input{raftOf(t, three[1+from], testRoom, msg), core.Tick{}} {
				if _, err := n.m.Apply(n.store, c.now, in); err != nil {
					t.Fatal(err)
				}
			}
			if err := n.m.Seal(n.store); err != nil {
				t.Fatal(err)
			}
			if n.m.Stats().Faults > 0 {
				t.Fatalf("raft panicked at %v", msg)
			}
			if x&8 == 8 { // what is stored loads again
				n.restart()
			}
		}
		n.store.rollback()
		n.restart()
	})
}
