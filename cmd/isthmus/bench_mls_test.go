//go:build bench

package main

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// A mlsTimes holds the medians of one implementation by operation and members,
// in milliseconds; a figure whose operation ends in /allocs counts
// allocations, one in /MB megabytes.
type mlsTimes map[string]map[int]float64

func (m mlsTimes) set(op string, n int, x float64) {
	if m[op] == nil {
		m[op] = map[int]float64{}
	}
	m[op][n] = x
}

// A mlsSampler times operations in groups of n members.
type mlsSampler struct {
	t       *testing.T
	n       int
	budget  time.Duration // for one kind of operation
	least   int           // samples, whatever they take
	samples map[string][]float64
	made    []mlsCommit // that member 1 and the service have not seen yet
}

// A mlsCommit is a commit by the name of what it does.
type mlsCommit struct {
	op, tree string
	octets   []byte
}

// time runs f once and keeps how long it took.
func (s *mlsSampler) time(op string, f func() error) {
	s.t.Helper()
	start := time.Now()
	err := f()
	took := time.Since(start)
	if err != nil {
		s.t.Fatalf("%s at %d members: %v", op, s.n, err)
	}
	s.samples[op] = append(s.samples[op], float64(took)/1e6)
}

// repeat runs f as often as it must, and then until the budget is used up or it
// has run most times.
func (s *mlsSampler) repeat(most int, f func()) {
	runtime.GC()
	start := time.Now()
	for i := 0; i < most && (i < s.least || time.Since(start) < s.budget); i++ {
		f()
	}
}

// keep puts the medians into m.
func (s *mlsSampler) keep(m mlsTimes) {
	for op, v := range s.samples {
		slices.Sort(v)
		m.set(op, s.n, (v[(len(v)-1)/2]+v[len(v)/2])/2)
	}
}

// mlsSizes are those of the plots; the table shows two of them.
var mlsSizes = []int{2, 5, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000}

// mlsLongest is after how long no larger group is begun: what is left out then
// are the ends of the plots.
const mlsLongest = 100 * time.Second

// benchOurs measures groups of all sizes.
func benchOurs(t *testing.T, sizes []int) mlsTimes {
	m := mlsTimes{}
	crowd := newMLSCrowd()
	begun := time.Now()
	for _, n := range sizes {
		if n > slices.Max(mlsGoalSizes[:]) && time.Since(begun) > mlsLongest {
			t.Logf("no group of %d: %v are over", n, mlsLongest)
			break
		}
		crowd.grow(t, n)
		s := &mlsSampler{t, n, 100 * time.Millisecond, 3, map[string][]float64{}, nil}
		switch {
		case slices.Contains(mlsGoalSizes[:], n):
			s.budget = 1200 * time.Millisecond
		case n > 10_000:
			s.least = 1
		}
		start := time.Now()
		s.cold(crowd)
		built := time.Now()
		if n > 2 {
			g := crowd.warm(t, n)
			built = time.Now()
			s.warm(g)
			s.messages(g, m)
			if n == 10_000 {
				m.set("memory/MB", n, memberMemory(t, g))
			}
		}
		s.keep(m)
		t.Logf("%d members: cold and warm group after %v, all after %v", n,
			built.Sub(start).Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	}
	return m
}

// cold measures making a group, and it while no parent is set.
func (s *mlsSampler) cold(c *mlsCrowd) {
	g := &mlsGroup{t: s.t, crowd: c, n: s.n}
	s.repeat(20, func() {
		var made *group.Transition
		s.time("create", func() (err error) {
			if g.a, err = c.found(); err != nil {
				return err
			}
			adds, err := c.adds(c.packages[1:s.n]...)
			if err != nil {
				return err
			}
			made, err = commitMLS(g.a, group.CommitOptions{Proposals: adds})
			return err
		})
		s.time("join", func() (err error) {
			g.b, err = c.join(made.Welcome, nil, 1)
			return err
		})
	})
	g.serve()
	s.repeat(50, func() { s.commit(g, "update", "_cold", nil) })
	s.deliver(g)
}

// warm measures a group in which everybody has made a commit.
func (s *mlsSampler) warm(g *mlsGroup) {
	s.repeat(1000, func() { s.commit(g, "update", "_warm", nil) })
	s.deliver(g)
	s.addAndRemove(g)
}

// commit times the making of a commit by member 0. Options come from what is
// timed, too.
func (s *mlsSampler) commit(g *mlsGroup, op, tree string, options func() (group.CommitOptions, error)) {
	var made *group.Transition
	s.time(op+"_create"+tree, func() (err error) {
		o := group.CommitOptions{Path: true}
		if options != nil {
			if o, err = options(); err != nil {
				return err
			}
		}
		made, err = commitMLS(g.a, o)
		return err
	})
	s.made = append(s.made, mlsCommit{op, tree, made.Commit})
}

// deliver times the processing of the commits by member 1, and then by the
// service: one after the other, as each is alone on its machine, where nobody
// has just filled the caches and the heap with a Welcome of megabytes.
func (s *mlsSampler) deliver(g *mlsGroup) {
	runtime.GC()
	for _, c := range s.made {
		s.time(c.op+"_process"+c.tree, func() error { return processMLS(g.b, c.octets) })
	}
	runtime.GC()
	for _, c := range s.made {
		s.time(c.op+"_follow"+c.tree, func() (err error) {
			g.service, err = followMLS(g.service, c.octets)
			return err
		})
	}
	s.made = nil
}

// addAndRemove measures adding one member and removing it again, with the tree
// inside the Welcome and beside it.
func (s *mlsSampler) addAndRemove(g *mlsGroup) {
	separate := false
	once := func() {
		separate = !separate
		k, op := g.newcomer(), "add"
		if separate {
			op = "add_beside"
		}
		s.commit(g, op, "_warm", func() (group.CommitOptions, error) {
			adds, err := g.crowd.adds(k)
			return group.CommitOptions{Proposals: adds, SeparateTree: separate}, err
		})
		s.commit(g, "remove", "_warm", func() (group.CommitOptions, error) {
			return group.CommitOptions{Proposals: []*mls.Proposal{group.Remove(uint32(s.n))}}, nil
		})
	}
	s.repeat(300, func() { once(); once() })
	s.deliver(g)
}

// messages measures application messages of 1 KiB and counts allocations.
func (s *mlsSampler) messages(g *mlsGroup, m mlsTimes) {
	data := bytes.Repeat([]byte{7}, 1024)
	var sealed, room []byte
	seal := func() (err error) {
		sealed, err = g.a.Seal(room[:0], data, nil)
		room = sealed
		return err
	}
	open := func() error {
		parsed, err := mls.Parse(sealed)
		if err != nil {
			return err
		}
		app, err := g.b.Open(parsed)
		if err == nil && !bytes.Equal(app.Data, data) {
			return errors.New("a message came out different")
		}
		return err
	}
	s.repeat(3000, func() {
		s.time("encrypt_1k", seal)
		s.time("decrypt_1k", open)
	})
	const runs = 200
	both := testing.AllocsPerRun(runs, func() { must(s.t, seal()); must(s.t, open()) })
	last := sealed
	encrypt := testing.AllocsPerRun(runs, func() { must(s.t, seal()) })
	sealed = last
	m.set("encrypt_1k/allocs", s.n, encrypt)
	m.set("decrypt_1k/allocs", s.n, both-encrypt)
}

// memberMemory is the heap that one more member takes, in megabytes, after it
// joined and made a commit.
func memberMemory(t *testing.T, g *mlsGroup) float64 {
	t.Helper()
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1e6
	}
	g.b, g.service = nil, nil
	k, err := g.crowd.client(1 << 21)
	must(t, err)
	adds, err := g.crowd.adds(k.Message())
	must(t, err)
	made, err := commitMLS(g.a, group.CommitOptions{Proposals: adds})
	must(t, err)
	welcome := made.Welcome
	g.a, made, adds = nil, nil, nil
	runtime.KeepAlive(k)
	before := heap() - float64(len(welcome))/1e6
	m, err := mls.Parse(welcome)
	must(t, err)
	member, err := group.Join(g.crowd.config, m.Welcome, k, group.JoinOptions{})
	must(t, err)
	_, err = commitMLS(member, group.CommitOptions{Path: true})
	must(t, err)
	welcome, m = nil, nil
	after := heap()
	runtime.KeepAlive(member)
	return after - before
}

// mlsBenchSizes are mlsSizes, or those that BENCH_MLS names.
func mlsBenchSizes(t *testing.T) []int {
	t.Helper()
	names := os.Getenv("BENCH_MLS")
	if names == "" {
		return mlsSizes
	}
	var out []int
	for name := range strings.SplitSeq(names, ",") {
		n, err := strconv.Atoi(name)
		must(t, err)
		out = append(out, n)
	}
	return out
}

// MLSFigures is what BenchMLS found: the table in Markdown and the drawings by
// the names of their files.
type MLSFigures struct {
	Table string
	Speed string // of the machine in this run
	Plots map[string]string
}

// BenchMLS measures our MLS and its peers.
func BenchMLS(t *testing.T) *MLSFigures {
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // what is measured runs in this process
	speed := measurePrimitives()
	all := map[string]mlsTimes{}
	for name, m := range mlsFacts {
		all[name] = m
	}
	t.Run(ours, func(t *testing.T) { all[ours] = benchOurs(t, mlsBenchSizes(t)) })
	if os.Getenv("BENCH_MLS_ALONE") == "" {
		crowd := newMLSCrowd()
		crowd.grow(t, mlsPeerSize)
		programs := mlsPrograms(t)
		for _, name := range mlsPeers {
			t.Run(name, func(t *testing.T) { all[name] = benchPeer(t, programs, name, crowd, mlsPeerSize) })
		}
	}
	f := &MLSFigures{mlsTable(all, speed), speed.String(), map[string]string{}}
	for _, p := range mlsPlots {
		f.Plots[p.file] = p.svg(all[ours])
	}
	return f
}
