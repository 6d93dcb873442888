//go:build bench

// The benchmarks of issue 2's and issue 3's "Numbers": `make bench`, or
//
//	go test -tags bench -run '^TestBench' -timeout 60m -v ./cmd/isthmus
//
// One measure alone: -run 'TestBench/fanout'. BENCH_ROUNDS changes the rounds
// (3), BENCH_SERVERS the servers (isthmus,ngIRCd,InspIRCd).
package main_test

import (
	"iter"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const enoughFiles = 16384 // 5,000 clients and their servers' own, with room

func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("BENCH_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return 3
}

// TestBench measures everything and prints one table. A goal that is missed
// does not fail it: the figure says so. A server that is missing does.
func TestBench(t *testing.T) {
	debug.SetGCPercent(400) // the generator's own collector should not be measured
	raiseFiles(t)
	ps := chosen(t)
	r := &report{}
	whole := true
	for _, m := range measures {
		ran := false
		t.Run(m.name, func(t *testing.T) {
			ran = true
			m.take(t, ps, r)
		})
		whole = whole && ran
	}
	t.Logf("\n%s\n%s", r.markdown(), r.groupsTable())
	if whole && !t.Failed() && len(ps) == 3 {
		r.publish(t)
	}
}

type measure struct {
	name string
	take func(t *testing.T, ps []peer, r *report)
}

// In the order of the table.
var measures = []measure{
	{"fanout", benchFanout},
	{"mesh", benchMesh},
	{"idle", benchIdle},
	{"history", benchHistory},
	{"login", benchLogin},
	{"converter", benchConverter},
	{"engine", benchEngine},
	{"matrix", benchMatrix},
	{"agree", benchAgree},
	{"quiet", benchQuiet},
	{"bulk", benchBulk},
	{"large", benchLarge},
	{"race", benchRace},
	{"mls", benchMLS},
}

func chosen(t *testing.T) []peer {
	t.Helper()
	names := "isthmus,ngIRCd,InspIRCd"
	if s := os.Getenv("BENCH_SERVERS"); s != "" {
		names = s
	}
	all := peers(filepath.Join(t.TempDir(), "isthmus"))
	ps := slices.DeleteFunc(all, func(p peer) bool { return !slices.Contains(strings.Split(names, ","), p.name) })
	for _, p := range ps {
		if p.name == "isthmus" {
			if out, err := exec.Command("go", "build", "-o", p.binary, ".").CombinedOutput(); err != nil {
				t.Fatalf("go build: %v\n%s", err, out)
			}
		}
	}
	return ps
}

// ours is the entry of our own server, for measures that the peers cannot do.
func ours(t *testing.T, ps []peer) peer {
	t.Helper()
	if len(ps) == 0 || ps[0].name != "isthmus" {
		t.Fatal("needs isthmus among BENCH_SERVERS")
	}
	return ps[0]
}

func raiseFiles(t *testing.T) {
	t.Helper()
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	lim.Cur = max(lim.Cur, enoughFiles)
	lim.Max = max(lim.Max, enoughFiles)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatalf("needs %d open files: %v", enoughFiles, err)
	}
}

func mapKeys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }
