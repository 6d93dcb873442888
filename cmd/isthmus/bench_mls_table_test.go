//go:build bench

package main

import (
	"fmt"
	"math"
	"strings"
)

// mlsColumns are the implementations of the table: ours, the peers that run
// here, and those of which there are only figures.
var mlsColumns = []string{ours, "openmls", "mls-rs", "ts-mls", "core-crypto", "mlspp", "Go"}

// A mlsGoal is a row of the table, for 1,000 members and for 10,000.
type mlsGoal struct {
	title, op string
	unit      string
	factor    float64 // from milliseconds to the unit
	goals     [2]float64
}

var mlsGoalSizes = [2]int{1_000, 10_000}

var mlsGoals = []mlsGoal{
	{"create with n − 1 adds", "create", "ms", 1, [2]float64{70, 800}},
	{"join from Welcome", "join", "ms", 1, [2]float64{22, 230}},
	{"update commit, warm: create", "update_create_warm", "ms", 1, [2]float64{0.6, 0.9}},
	{"update commit, warm: process", "update_process_warm", "ms", 1, [2]float64{0.35, 0.5}},
	{"update commit, cold: create", "update_create_cold", "ms", 1, [2]float64{25, 250}},
	{"update commit, cold: process", "update_process_cold", "ms", 1, [2]float64{0.35, 0.5}},
	{"add: create, the tree beside the Welcome", "add_beside_create_warm", "ms", 1, [2]float64{0.4, 1.5}},
	{"add: create, the tree in the Welcome", "add_create_warm", "ms", 1, [2]float64{0.4, 1.5}},
	{"add: process", "add_process_warm", "ms", 1, [2]float64{0.2, 0.25}},
	{"remove: process", "remove_process_warm", "ms", 1, [2]float64{0.4, 0.5}},
	{"encrypt 1 KiB", "encrypt_1k", "µs", 1000, [2]float64{22, 22}},
	{"decrypt 1 KiB", "decrypt_1k", "µs", 1000, [2]float64{42, 42}},
	{"encrypt 1 KiB, allocations", "encrypt_1k/allocs", "", 1, [2]float64{1, 1}},
	{"decrypt 1 KiB, allocations", "decrypt_1k/allocs", "", 1, [2]float64{1, 1}},
	{"public group checks and follows a commit", "update_follow_warm", "ms", 1, [2]float64{0.1, 0.12}},
	{"memory of a member", "memory/MB", "MB", 1, [2]float64{math.NaN(), 12}},
}

// of is a figure in the row's unit, NaN if there is none.
func (g mlsGoal) of(m mlsTimes, n int) float64 {
	if x, ok := m[g.op][n]; ok {
		return x * g.factor
	}
	if g.op == "add_beside_create_warm" { // the peers put the tree into the Welcome
		if x, ok := m["add_create_warm"][n]; ok {
			return x * g.factor
		}
	}
	return math.NaN()
}

// mlsTable is the table in Markdown.
func mlsTable(all map[string]mlsTimes, p mlsPrimitives) string {
	var b strings.Builder
	b.WriteString("| measure | n | goal | floor | Isthmus | OpenMLS | mls-rs | ts-mls | core-crypto | mlspp (C++)* | best Go* | ours ÷ best peer | reached |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n")
	for _, g := range mlsGoals {
		for i, n := range mlsGoalSizes {
			own := g.of(all[ours], n)
			if math.IsNaN(g.goals[i]) || math.IsNaN(own) {
				continue
			}
			title := g.title
			if g.unit != "" {
				title += " (" + g.unit + ")"
			}
			fmt.Fprintf(&b, "| %s | %s | ≤ %s | %s ", title, mlsThousands(n), mlsFigure(g.goals[i]), mlsFigure(p.floor(g.op, n)*g.factor))
			// Those of this run are the better comparison, where there are any.
			best, known := math.NaN(), false
			for _, c := range mlsColumns {
				x := g.of(all[c], n)
				fmt.Fprintf(&b, "| %s ", mlsFigure(x))
				_, fact := mlsFacts[c]
				if c != ours && !(fact && known) && (math.IsNaN(best) || x < best) {
					best = x
				}
				known = known || !fact && !math.IsNaN(best)
			}
			word := "no"
			if own <= g.goals[i] {
				word = "yes"
			}
			fmt.Fprintf(&b, "| %s | %s |\n", mlsFigure(own/best), word)
		}
	}
	return b.String()
}

// mlsFigure writes x with three digits, or – if there is none.
func mlsFigure(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x >= 100:
		return mlsThousands(int(math.Round(x)))
	}
	return fmt.Sprintf("%.3g", x)
}

func mlsThousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
