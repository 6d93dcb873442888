package sim

import (
	"time"
)

// weather makes trouble until it is calm.
func (w *world) weather() {
	if w.calm {
		return
	}
	w.after(w.between(w.plan.Trouble/2, 2*w.plan.Trouble), func() {
		if !w.calm {
			w.trouble()
			w.weather()
		}
	})
}

// trouble is one thing that goes wrong, and is mended after a while.
func (w *world) trouble() {
	h := w.homes[w.rng.IntN(len(w.homes))]
	d := w.devices[w.rng.IntN(len(w.devices))]
	long := w.between(200*time.Millisecond, 15*time.Second)
	switch n := w.rng.IntN(12); {
	case n < 3:
		h.crash(long)
	case n < 5:
		d.crash(long)
	case n < 6:
		w.note(d.name, "is offline for %v", 4*long)
		d.offline = true
		w.after(4*long, func() { d.offline = false })
	case n < 7:
		h.skew = w.between(-time.Minute, time.Minute)
		w.note(h.domain, "its clock is wrong by %v", h.skew)
	case n < 8:
		d.skew = w.between(-time.Minute, time.Minute)
		w.note(d.name, "its clock is wrong by %v", d.skew)
	case n < 9:
		o := w.homes[w.rng.IntN(len(w.homes))]
		w.note(h.domain, "nothing of it reaches %s for %v", o.domain, long)
		w.sever(long, func(a, b int) bool { return a == h.n && b == o.n })
	case n < 10:
		w.note(h.domain, "is alone for %v", long)
		w.sever(long, func(a, b int) bool { return a == h.n || b == h.n })
	default:
		side := w.rng.Uint64()
		w.note("network", "falls apart for %v: %b", long, side&(1<<len(w.homes)-1))
		w.sever(long, func(a, b int) bool { return side>>a&1 != side>>b&1 })
	}
}

// sever cuts the ways between homeservers that f picks, for a while.
func (w *world) sever(long time.Duration, f func(a, b int) bool) {
	for a := range w.homes {
		for b := range w.homes {
			if a != b && f(a, b) {
				w.cut[a][b] = true
				w.after(long, func() { w.cut[a][b] = false })
			}
		}
	}
}

// clear ends all trouble: what is down comes up by itself.
func (w *world) clear() {
	w.note("weather", "is calm from now on")
	w.calm = true
	for a := range w.cut {
		clear(w.cut[a])
	}
	for _, d := range w.devices {
		d.offline = false
		w.after(w.between(time.Minute, 2*time.Minute), func() {
			if d.c != nil && d.c.Registered() {
				d.begin(d.sayAll)
			}
		})
	}
}
