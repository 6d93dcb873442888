package sim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
)

// A device is one person's device: its disk stays when it crashes.
type device struct {
	w    *world
	n    int
	user core.UserURI
	name string
	home *home
	disk *disk
	skew time.Duration
	role role

	life    int
	running bool
	offline bool // no network
	c       *client.Client
	threads []*thread
	person  person
}

func (w *world) addDevice(user core.UserURI, h *home, r role) *device {
	d := &device{w: w, n: len(w.devices), user: user, home: h, role: r, disk: &disk{tables: map[string]*table[uint64, []byte]{}}}
	d.name = fmt.Sprintf("device%d", d.n)
	w.devices = append(w.devices, d)
	return d
}

func (d *device) clock() time.Time { return began.Add(d.w.now + d.skew) }

// A thread is something that a device does, as a coroutine: it runs until it waits
// for the network or the clock, and nothing else runs meanwhile.
type thread struct {
	d    *device
	life int
	next func() (wait, bool)
	stop func()
}

// A wait is what a thread waits for: it is given what lets the thread go on.
type wait func(resume func())

// errEnded unwinds a thread whose process has ended.
var errEnded = errors.New("the process has ended")

type threadKey struct{}

// begin starts a thread.
func (d *device) begin(f func(ctx context.Context)) {
	t := &thread{d: d, life: d.life}
	d.threads = append(d.threads, t)
	t.next, t.stop = iter.Pull(func(yield func(wait) bool) {
		defer func() {
			switch p := recover(); {
			case p == nil || p == errEnded:
			default:
				d.w.wrong("%s panics: %v\n%s", d.name, p, debug.Stack())
			}
		}()
		f(context.WithValue(context.Background(), threadKey{}, yield))
	})
	d.w.after(0, t.step)
}

// step lets the thread run until it waits again.
func (t *thread) step() {
	if !t.d.running || t.d.life != t.life {
		return
	}
	w, more := t.next()
	switch {
	case t.d.disk.crashed:
		t.d.crash(t.d.w.between(50*time.Millisecond, 20*time.Second))
	case more:
		resumed := false
		w(func() {
			if !resumed {
				resumed = true
				t.d.w.after(0, t.step)
			}
		})
	}
}

// await has the thread of ctx wait.
func await(ctx context.Context, w wait) {
	if !ctx.Value(threadKey{}).(func(wait) bool)(w) {
		panic(errEnded)
	}
}

// rest waits for d.
func (d *device) rest(ctx context.Context, t time.Duration) {
	await(ctx, func(resume func()) { d.w.after(t, resume) })
}

// boot starts the device with what is on its disk.
func (d *device) boot() {
	d.running = true
	d.disk.crashed = false
	d.disk.fault = d.misfortune
	d.begin(func(ctx context.Context) {
		c, err := client.Open(ctx, client.Config{Store: &handle{d.disk, d.life, d}, Home: &api{d: d}, Rand: rand.Reader, Now: d.clock,
			Wait: func(ctx context.Context, t time.Duration) error { d.rest(ctx, t); return nil }, Packages: 6, UpdateEvery: d.w.plan.UpdateEvery})
		if err != nil {
			d.w.wrong("%s does not start from its disk: %v", d.name, err)
			return
		}
		d.c = c
		d.live(ctx)
	})
}

// crash ends the process, and begins it again after a while.
func (d *device) crash(down time.Duration) {
	if !d.running {
		return
	}
	d.w.note(d.name, "crashes for %v", down)
	d.w.facts.crashes++
	d.running = false
	d.life++
	d.disk.crashed = true // what unwinds writes nothing
	for _, t := range d.threads {
		t.stop()
	}
	d.threads, d.c = nil, nil
	d.w.after(down, func() {
		d.w.note(d.name, "starts")
		d.boot()
	})
}

func (d *device) misfortune() fault {
	if !d.w.chance(d.w.plan.Disk) {
		return sound
	}
	return []fault{failBefore, failAfter, crashBefore, crashAfter}[d.w.rng.IntN(4)]
}

// A disk is the device's KV.
type disk struct {
	tables  map[string]*table[uint64, []byte]
	fault   func() fault
	crashed bool
}

// A handle is the disk as one process has it.
type handle struct {
	disk *disk
	life int
	d    *device
}

// alive unwinds a process that has ended.
func (h *handle) alive() {
	if h.disk.crashed || h.life != h.d.life {
		panic(errEnded)
	}
}

// Get implements client.KV.
func (h *handle) Get(_ context.Context, name string, n uint64) ([]byte, error) {
	h.alive()
	v, ok := h.disk.tables[name].get(n)
	if !ok {
		return nil, nil
	}
	return append([]byte{}, v...), nil
}

// Rows implements client.KV.
func (h *handle) Rows(_ context.Context, name string, from uint64, limit int) (out []client.Row, err error) {
	h.alive()
	t := h.disk.tables[name]
	if v, ok := t.get(from); ok {
		out = append(out, client.Row{Table: name, N: from, Data: append([]byte{}, v...)})
	}
	for _, n := range t.after(from, limit-len(out)) {
		out = append(out, client.Row{Table: name, N: n, Data: append([]byte{}, t.rows[n]...)})
	}
	return out, nil
}

// Write implements client.KV.
func (h *handle) Write(_ context.Context, rows []client.Row) error {
	h.alive()
	f := h.disk.fault()
	if f != failBefore && f != crashBefore {
		for _, r := range rows {
			t := under(h.disk.tables, r.Table)
			if r.Data == nil {
				t.drop(r.N)
			} else {
				t.put(r.N, append([]byte{}, r.Data...))
			}
		}
	}
	switch f {
	case crashBefore, crashAfter:
		h.disk.crashed = true
		panic(errEnded)
	case failBefore, failAfter:
		h.d.w.note(h.d.name, "its disk fails")
		return errDisk
	}
	return nil
}
