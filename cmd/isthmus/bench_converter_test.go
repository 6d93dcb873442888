//go:build bench

package main_test

import (
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

var benchLine = regexp.MustCompile(`BenchmarkIRCToMatrixAndBack\S*\s+\d+\s+([\d.]+) ns/op\s.*?\s(\d+) allocs/op`)

// converterRuns is how often it is repeated; the fastest counts, because nothing
// but the neighbours of this machine can make it slower.
const converterRuns = 5

// benchConverter takes the converter's own benchmark.
func benchConverter(t *testing.T, _ []peer, r *report) {
	out, err := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkIRCToMatrixAndBack$", "-benchmem",
		"-count", strconv.Itoa(converterRuns), "../../converter").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var ns, allocs []float64
	for _, m := range benchLine.FindAllSubmatch(out, -1) {
		a, _ := strconv.ParseFloat(string(m[1]), 64)
		b, _ := strconv.ParseFloat(string(m[2]), 64)
		ns, allocs = append(ns, a), append(allocs, b)
	}
	if len(ns) != converterRuns {
		t.Fatalf("%d results instead of %d in\n%s", len(ns), converterRuns, out)
	}
	r.alone("converter, IRC → event → Matrix and back", "µs", slices.Min(ns)/1e3, atMost(4))
	r.alone("converter, the same", "allocs", slices.Max(allocs), atMost(25))
}
