package sim

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A Plan is what a run is made of. PlanOf makes one of a seed.
type Plan struct {
	Seed    uint64
	Homes   int
	Users   int
	Second  int // users with a second device
	Rooms   int
	Storm   time.Duration // how long there is trouble, and people do things
	Pace    time.Duration // between two things that one person does
	Trouble time.Duration // between two troubles
	Loss    float64       // messages between homeservers that are lost,
	Double  float64       // doubled,
	Slow    float64       // late
	Drop    float64       // questions and answers of devices that are lost
	Disk    float64       // commits that fail or crash, of homeservers and devices

	Fails int // the commit of the first homeserver that fails, 0 = none does for this,
	How   int // 0: nothing is kept, 1: all is kept, 2 and 3: so, and the process ends

	Codes       bool                           // people give codes for rooms away, and enter rooms anew
	MaxEntries  int                            // of epoch.Config
	UpdateEvery time.Duration                  // of client.Config
	Store       func(domain string) core.Store // nil = in memory; a real one has no faults
	Sabotage    Sabotage
}

// PlanOf makes a plan: one seed in eight has good weather, and one in eleven many
// people who are busy for long.
func PlanOf(seed uint64) Plan {
	r := rand.New(rand.NewPCG(seed, 1))
	ms := func(low, high int) time.Duration { return time.Duration(low+r.IntN(high-low+1)) * time.Millisecond }
	p := Plan{Seed: seed, Homes: 1 + r.IntN(5), Users: 2 + r.IntN(4), Rooms: 1 + r.IntN(2), Storm: ms(15_000, 40_000), Pace: ms(400, 2500),
		Trouble: time.Hour, UpdateEvery: -1}
	p.Second = r.IntN(min(p.Users, 3))
	if r.IntN(4) == 0 {
		p.MaxEntries = 2 + r.IntN(6)
	}
	if seed%11 == 4 {
		p.Homes, p.Users, p.Second = max(p.Homes, 3), p.Users+2, p.Second+1
		p.Storm, p.Pace, p.Codes = 3*p.Storm, p.Pace/2, true
	}
	if seed%8 == 0 {
		return p
	}
	p.Trouble = ms(1000, 8000)
	p.Loss, p.Double, p.Slow = 0.15*r.Float64(), 0.1*r.Float64(), 0.1*r.Float64()
	p.Drop, p.Disk = 0.05*r.Float64(), 0.006*r.Float64()
	return p
}

// A Result is what a run came to.
type Result struct {
	Plan     Plan
	Wrong    []string // empty: all was well
	Trace    []string // the last lines
	Hash     string   // over all lines
	Virtual  time.Duration
	Epochs   int // opened, of all rooms
	Messages int // accepted
	Read     int // messages opened by devices other than their senders
	Crashes  int
	Steps    int
	Commits  int // of the first homeserver
	Failed   int // of them, for Plan.Fails
	Lies     int // approvals of something else, or appends of no leader
	Proofs   int // that honest homeservers keep of them
}

// Times of the end of a run.
const (
	settleTime = 15 * time.Minute // at most, until everything has come to rest
	restTime   = 50 * time.Second // after that: a device that hears nothing asks again
	sayTime    = 2 * time.Minute  // until everybody has said something once more
)

// Run runs a plan. What the product draws from crypto/rand decides the run too: the
// caller makes it the same each time.
func Run(p Plan) *Result {
	w := &world{plan: p, rng: rand.New(rand.NewPCG(p.Seed, 2)), hash: sha256.New(), facts: newFacts(),
		canaries: []byte(fmt.Sprintf("canary-%016x", p.Seed*0x9e3779b97f4a7c15+1))}
	for i := range p.Homes {
		w.cut = append(w.cut, make([]bool, p.Homes))
		var store core.Store
		domain := fmt.Sprintf("%c.example", 'a'+i)
		if p.Store != nil {
			store = p.Store(domain)
		}
		w.addHome(domain, store)
	}
	w.people()
	w.weather()
	w.run(p.Storm)
	w.clear()
	w.settle()
	w.check()
	r := &Result{Plan: p, Wrong: w.broken, Virtual: w.now, Epochs: w.facts.opened(), Messages: w.facts.count, Read: w.facts.read,
		Crashes: w.facts.crashes, Steps: w.facts.steps, Commits: w.homes[0].commits, Failed: w.facts.failed}
	r.Lies = w.facts.lies
	if p.Sabotage == Lying {
		for _, f := range w.finals() {
			r.Proofs += w.proofs(f.room)
		}
		r.Wrong = w.broken
	}
	r.Trace, r.Hash = w.trace()
	w.end()
	return r
}

// people puts users with their devices into the world: they come one after the
// other, the second devices last.
func (w *world) people() {
	var first []*device
	for i := range w.plan.Users {
		h := w.homes[i%len(w.homes)]
		user := core.NewUserURI(h.domain, fmt.Sprintf("user%d", i))
		first = append(first, w.addDevice(user, h, role{creates: i < w.plan.Rooms}))
	}
	for i := range w.plan.Second {
		s := first[i]
		w.addDevice(s.user, s.home, role{sponsor: s, joins: w.between(0, w.plan.Storm/2)})
	}
	for _, d := range w.devices {
		w.after(d.role.joins+w.between(0, 100*time.Millisecond), d.boot)
	}
}

// settle waits until everything has come to rest.
func (w *world) settle() {
	began, why := w.now, ""
	w.run(w.now + sayTime)
	for w.now < began+settleTime && len(w.broken) == 0 {
		w.run(w.now + time.Second)
		if why = w.restless(); why == "" {
			w.note("world", "has come to rest")
			w.run(w.now + restTime)
			if why = w.restless(); why == "" {
				return
			}
		}
	}
	if len(w.broken) == 0 {
		w.wrong("no rest after %v: %s", w.now-began, why)
	}
}

// end lets go of the threads.
func (w *world) end() {
	for _, d := range w.devices {
		d.disk.crashed = true
		for _, t := range d.threads {
			t.stop()
		}
	}
}
