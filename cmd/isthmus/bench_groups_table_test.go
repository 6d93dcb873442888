//go:build bench

package main_test

import (
	"fmt"
	"math"
	"strings"
)

// none stands for a figure that there is not.
var none = math.NaN()

// A groupRow is a row of the table of Groups, whose only peer is etcd. The zero goal
// is none: a figure to report.
type groupRow struct {
	measure, unit string
	goal          goal
	ours, etcd    float64
}

// group adds a row; etcd is none where there is no peer.
func (r *report) group(measure, unit string, ours float64, g goal, etcd float64) {
	r.groups = append(r.groups, groupRow{measure, unit, g, ours, etcd})
}

// reached says whether the goal was, in one word.
func (w groupRow) reached() string {
	limit := w.goal.limit
	if w.goal.factor > 0 {
		limit = w.goal.factor * w.etcd
	}
	switch {
	case w.goal == goal{}:
		return "–"
	case math.IsNaN(w.ours):
		return "not measured"
	case w.goal.less && w.ours <= limit, !w.goal.less && w.ours >= limit:
		return "yes"
	}
	return "no"
}

func (r *report) groupsTable() string {
	var b strings.Builder
	b.WriteString("| measure | goal | Isthmus | etcd | ours ÷ etcd | reached |\n")
	b.WriteString("|---|---|--:|--:|--:|---|\n")
	for _, w := range r.groups {
		wanted := "–"
		if w.goal != (goal{}) {
			wanted = strings.Replace(w.goal.said(w.unit), "the better peer", "etcd", 1)
		}
		fmt.Fprintf(&b, "| %s (%s) | %s | %s | %s | %s | %s |\n", w.measure, w.unit, wanted, figure(w.ours), figure(w.etcd), figure(w.ours/w.etcd), w.reached())
	}
	return b.String()
}
