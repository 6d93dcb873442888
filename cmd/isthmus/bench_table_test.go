//go:build bench

package main_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/template"

	isthmus "github.com/isthmus-chat/isthmus/cmd/isthmus"
)

// A goal is what issue 2 asks of one figure. Factor compares with the better
// peer, limit is absolute; exactly one of them is set.
type goal struct {
	factor, limit float64
	less          bool // at most instead of at least
}

func atLeast(x float64) goal     { return goal{limit: x} }
func atMost(x float64) goal      { return goal{limit: x, less: true} }
func timesBest(f float64) goal   { return goal{factor: f} }
func atMostTimes(f float64) goal { return goal{factor: f, less: true} }
func (g goal) said(u string) string {
	sign := "≥"
	if g.less {
		sign = "≤"
	}
	if g.factor > 0 {
		return fmt.Sprintf("%s %.3g × the better peer", sign, g.factor)
	}
	return fmt.Sprintf("%s %s %s", sign, figure(g.limit), u)
}

// A row of the table. A figure that was not measured is NaN.
type row struct {
	measure, unit    string
	goal             goal
	ours             float64
	ngircd, inspircd float64
}

func (r row) best() float64 {
	switch {
	case math.IsNaN(r.ngircd):
		return r.inspircd
	case math.IsNaN(r.inspircd):
		return r.ngircd
	case r.goal.less:
		return min(r.ngircd, r.inspircd)
	}
	return max(r.ngircd, r.inspircd)
}

// reached tells whether the goal was; an unmeasured figure reaches none.
func (r row) reached() bool {
	limit := r.goal.limit
	if r.goal.factor > 0 {
		limit = r.goal.factor * r.best()
	}
	if r.goal.less {
		return r.ours <= limit
	}
	return r.ours >= limit
}

// figure writes x with three digits, or – if there is none.
func figure(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x >= 100:
		s := fmt.Sprintf("%.0f", x)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	}
	return fmt.Sprintf("%.3g", x)
}

// A report collects rows.
type report struct {
	rows   []row
	mls    *isthmus.MLSFigures // in a table of its own
	groups []groupRow          // and these in theirs
}

func (r *report) add(w row) { r.rows = append(r.rows, w) }

// alone adds a row that has no peer.
func (r *report) alone(measure, unit string, ours float64, g goal) {
	r.add(row{measure, unit, g, ours, math.NaN(), math.NaN()})
}

// compare adds a row from the medians of each server.
func (r *report) compare(measure, unit string, m medians, key string, g goal) {
	r.add(row{measure, unit, g, m.of("isthmus", key), m.of("ngIRCd", key), m.of("InspIRCd", key)})
}

func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("| measure | goal | Isthmus | ngIRCd | InspIRCd | ours ÷ better peer | reached |\n")
	b.WriteString("|---|---|--:|--:|--:|--:|---|\n")
	for _, w := range r.rows {
		word := "no"
		if w.reached() {
			word = "yes"
		} else if math.IsNaN(w.ours) {
			word = "not measured"
		}
		fmt.Fprintf(&b, "| %s (%s) | %s | %s | %s | %s | %s | %s |\n", w.measure, w.unit, w.goal.said(w.unit),
			figure(w.ours), figure(w.ngircd), figure(w.inspircd), figure(w.ours/w.best()), word)
	}
	return b.String()
}

// medians holds, for each server and figure, what each round measured.
type medians map[string]map[string][]float64

func (m medians) add(server string, sample map[string]float64) {
	if m[server] == nil {
		m[server] = map[string][]float64{}
	}
	for k, v := range sample {
		m[server][k] = append(m[server][k], v)
	}
}

func (m medians) of(server, key string) float64 { return median(m[server][key]) }

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// quantile of sorted samples, nearest rank.
func quantile[T any](sorted []T, q float64) T {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// interleave measures every server once per round, A B C A B C, because the
// speed of a shared machine drifts: ratios of neighbours hold, others do not.
func interleave(t *testing.T, ps []peer, measure func(t *testing.T, p peer) map[string]float64) medians {
	m := medians{}
	for round := range rounds() {
		for _, p := range ps {
			t.Run(fmt.Sprintf("%s-%d", p.name, round+1), func(t *testing.T) {
				s := measure(t, p)
				m.add(p.name, s)
				t.Logf("%s", said(s))
			})
		}
	}
	return m
}

func said(s map[string]float64) string {
	var b strings.Builder
	for _, k := range slices.Sorted(mapKeys(s)) {
		fmt.Fprintf(&b, "%s %s  ", k, figure(s[k]))
	}
	return b.String()
}

// publish writes docs/BENCHMARKS.md from its template and the table.
func (r *report) publish(t *testing.T) {
	t.Helper()
	text, err := benchFiles.ReadFile("testdata/bench/BENCHMARKS.md.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	writePlots(t, r.mls, "../../docs/bench")
	vars := map[string]any{"Table": r.markdown(), "MLS": r.mls.Table, "Speed": r.mls.Speed, "Groups": r.groupsTable(), "Date": benchDate(), "Machine": machine(), "Go": runtime.Version(), "Rounds": rounds()}
	var b bytes.Buffer
	if err := template.Must(template.New("").Parse(string(text))).Execute(&b, vars); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("../../docs/BENCHMARKS.md", b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// benchDate is BENCH_DATE, or the day of the last commit: the measured tree.
func benchDate() string {
	if d := os.Getenv("BENCH_DATE"); d != "" {
		return d
	}
	out, err := exec.Command("git", "log", "-1", "--format=%cs, commit %h").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// machine describes the processor, memory and kernel, nothing that names it.
func machine() string {
	field := func(file, key string) string {
		b, _ := os.ReadFile(file)
		_, rest, _ := strings.Cut(string(b), key)
		line, _, _ := strings.Cut(rest, "\n")
		return strings.Trim(line, " \t:")
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/ostype")
	return fmt.Sprintf("%d cores of %s, %s of memory, %s/%s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"),
		field("/proc/meminfo", "MemTotal"), strings.ToLower(strings.TrimSpace(string(kernel))), runtime.GOARCH)
}
