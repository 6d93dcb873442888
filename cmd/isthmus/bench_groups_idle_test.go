//go:build bench

package main_test

import (
	"fmt"
	"testing"
	"time"
)

const (
	quietGroups  = 1000
	quietOwners  = 50 // devices that make them: one alone would exceed its budget
	quietSettle  = 5 * time.Second
	quietTime    = 2 * time.Minute // what is idle is let go of in the first
	quietCollect = 20              // percent: GOGC of these homeservers, so that their heap is little more than what lives
)

// benchQuiet: a thousand Groups of three homeservers in which nothing happens. What
// a homeserver keeps of them in memory, and what it does about them.
func benchQuiet(t *testing.T, ps []peer, r *report) {
	hs := homeservers(t, ours(t, ps), 3, fmt.Sprint("GOGC=", quietCollect))
	trios := make([][3]*member, quietOwners)
	each(t, quietOwners, func(i int) (err error) {
		for k, h := range hs {
			if trios[i][k], err = h.enrol(fmt.Sprint("quiet", i), nil); err == nil {
				err = trios[i][k].login()
			}
			if err != nil {
				return err
			}
		}
		return trios[i][0].found(fmt.Sprint("first", i), trios[i][1], trios[i][2]) // what the first Group costs is not of a thousand
	})
	time.Sleep(quietSettle)
	type usage struct{ heap, rss, sent, cpu float64 }
	look := func() (out []usage) {
		for _, h := range hs {
			out = append(out, usage{h.metric(t, "go_memstats_heap_inuse_bytes") / 1024, h.rss(),
				h.metric(t, "isthmus_federation_sent_total", `kind="agreement"`), float64(h.cpu())})
		}
		return out
	}
	empty := look()
	each(t, quietOwners, func(i int) error {
		one := trios[i]
		for n := range quietGroups / quietOwners {
			if err := one[0].found(fmt.Sprintf("quiet%d-%d", i, n), one[1], one[2]); err != nil {
				return err
			}
		}
		return nil
	})
	time.Sleep(quietSettle)
	full := look()
	time.Sleep(quietTime)
	after := look()
	worst := usage{}
	for i, h := range hs {
		u := usage{(after[i].heap - empty[i].heap) / quietGroups, (after[i].rss - empty[i].rss) / quietGroups,
			after[i].sent - full[i].sent, (after[i].cpu - full[i].cpu) / float64(quietTime) * 100}
		t.Logf("%s: heap %.3g KiB and resident %.3g KiB a Group, %.3g messages of the agreement, %.3g %% of a core",
			h.domain, u.heap, u.rss, u.sent, u.cpu)
		worst = usage{max(worst.heap, u.heap), max(worst.rss, u.rss), max(worst.sent, u.sent), max(worst.cpu, u.cpu)}
	}
	r.group("1,000 idle Groups × 3 homeservers, one homeserver's CPU", "% of a core", worst.cpu, atMost(1), none)
	r.group("the same, heap a Group", "KiB", worst.heap, atMost(20), none)
	r.group("the same, resident memory a Group", "KiB", worst.rss, atMost(20), none)
	r.group("the same, messages of the agreement sent in two minutes", "messages", worst.sent, atMost(0), none)
}
