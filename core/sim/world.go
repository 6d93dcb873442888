package sim

import (
	"container/heap"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"math/rand/v2"
	"time"
)

// began is when every run begins.
var began = time.UnixMilli(1_800_000_000_000).UTC()

// Bounds of a run.
const (
	maxSteps = 3_000_000 // steps: more is a run that does not come to rest
	keptLog  = 60_000    // lines of the trace that are kept to be shown
)

// A world is one run: its clock, its network, and who is in it.
type world struct {
	plan    Plan
	rng     *rand.Rand // what the weather and people do; never what the product does
	now     time.Duration
	queue   steps
	made    uint64 // steps that were ever made, for their order
	calm    bool   // faults are over
	homes   []*home
	devices []*device
	cut     [][]bool // cut[a][b]: nothing gets from homeserver a to b
	facts   facts

	hash     hash.Hash
	log      []string // a ring of lines
	lines    int
	broken   []string // what was found to be wrong
	canaries []byte   // what no homeserver may see
}

// A step is something that happens at a time.
type step struct {
	at time.Duration
	n  uint64
	f  func()
}

// steps is a heap: the earliest first, and of one time the one made first.
type steps []step

func (s steps) Len() int { return len(s) }
func (s steps) Less(i, j int) bool {
	return s[i].at < s[j].at || s[i].at == s[j].at && s[i].n < s[j].n
}
func (s steps) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s *steps) Push(x any)   { *s = append(*s, x.(step)) }
func (s *steps) Pop() any {
	old := *s
	last := old[len(old)-1]
	old[len(old)-1] = step{}
	*s = old[:len(old)-1]
	return last
}

// after has f happen in d from now.
func (w *world) after(d time.Duration, f func()) {
	w.made++
	heap.Push(&w.queue, step{at: w.now + max(d, 0), n: w.made, f: f})
}

// run lets everything happen until a time, or until something is wrong.
func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= until && len(w.broken) == 0 {
		s := heap.Pop(&w.queue).(step)
		w.now = s.at
		if w.facts.steps++; w.facts.steps > maxSteps {
			w.wrong("it does not come to rest: %d steps", maxSteps)
		}
		s.f()
	}
	w.now = max(w.now, until)
}

// note writes a line of the trace.
func (w *world) note(who, format string, args ...any) {
	line := fmt.Sprintf("%10.3f %-12s ", w.now.Seconds(), who) + fmt.Sprintf(format, args...)
	w.hash.Write([]byte(line))
	if len(w.log) < keptLog {
		w.log = append(w.log, line)
	} else {
		w.log[w.lines%keptLog] = line
	}
	w.lines++
}

// wrong takes down what must not be.
func (w *world) wrong(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.note("WRONG", "%s", text)
	if len(w.broken) < 20 {
		w.broken = append(w.broken, text)
	}
}

// trace returns the lines that are kept, and the hash over all.
func (w *world) trace() (lines []string, sum string) {
	if w.lines > keptLog {
		at := w.lines % keptLog
		lines = append(lines, w.log[at:]...)
		lines = append(lines, w.log[:at]...)
	} else {
		lines = w.log
	}
	return lines, hex.EncodeToString(w.hash.Sum(nil)[:16])
}

// chance is true in p of all cases, never when it is calm.
func (w *world) chance(p float64) bool { return !w.calm && p > 0 && w.rng.Float64() < p }

// between is a time from low on, below high.
func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.rng.Int64N(int64(high-low)+1))
}

// flight is how long each copy of a message is under way: none if it is lost.
func (w *world) flight() []time.Duration {
	if w.chance(w.plan.Loss) {
		return nil
	}
	one := func() time.Duration {
		if w.chance(w.plan.Slow) {
			return w.between(200*time.Millisecond, 4*time.Second)
		}
		return w.between(time.Millisecond, 30*time.Millisecond)
	}
	out := []time.Duration{one()}
	if w.chance(w.plan.Double) {
		out = append(out, one())
	}
	return out
}

// short names octets in the trace.
func short(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:4])
}
