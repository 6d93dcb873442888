package sim_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/sim"
	"github.com/isthmus-chat/isthmus/store"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay this seed, with its trace if it fails or with -v")
	seedsFlag = flag.Int("seeds", 8, "how many seeds to run, beside those that found something")
	shardFlag = flag.String("shard", "", "which of the seeds: 1/2 is every second from the second on")
)

// play runs a seed: what is drawn from crypto/rand is drawn from the seed too.
func play(t *testing.T, p sim.Plan) *sim.Result {
	t.Helper()
	cryptotest.SetGlobalRandom(t, p.Seed)
	return sim.Run(p)
}

// judge fails if something was wrong, with the last lines of the trace.
func judge(t *testing.T, r *sim.Result, lines int) {
	t.Helper()
	if len(r.Wrong) == 0 {
		return
	}
	t.Errorf("seed %d\n%s\n\n%s\n\nreplay: go test ./core/sim -seed %d", r.Plan.Seed,
		strings.Join(r.Trace[max(0, len(r.Trace)-lines):], "\n"), strings.Join(r.Wrong, "\n"), r.Plan.Seed)
}

// known are the seeds that ever found something.
func known(t *testing.T) (seeds []uint64) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "seeds.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] != "#" {
			n, err := strconv.ParseUint(f[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			seeds = append(seeds, n)
		}
	}
	return seeds
}

// Homeservers and devices keep their promises in all weathers.
func TestSeeds(t *testing.T) {
	if *seedFlag > 0 {
		r := play(t, sim.PlanOf(*seedFlag))
		if testing.Verbose() && len(r.Wrong) == 0 {
			t.Log(strings.Join(r.Trace, "\n"))
		}
		t.Logf("%d epochs, %d messages read %d times, %d crashes, %v, trace %s", r.Epochs, r.Messages, r.Read, r.Crashes, r.Virtual, r.Hash)
		judge(t, r, len(r.Trace))
		return
	}
	seeds := known(t)
	for i := range uint64(*seedsFlag) {
		if !slices.Contains(seeds, i+1) {
			seeds = append(seeds, i+1)
		}
	}
	if n := runtime.GOMAXPROCS(0); *shardFlag == "" && n > 1 && len(seeds) >= 100 {
		shards(t, n)
		return
	}
	mine, of := 0, 1
	if *shardFlag != "" {
		if _, err := fmt.Sscanf(*shardFlag, "%d/%d", &mine, &of); err != nil {
			t.Fatal(err)
		}
	}
	var epochs, messages, read, crashes int
	began := time.Now()
	for i, seed := range seeds {
		if i%of != mine {
			continue
		}
		r := play(t, sim.PlanOf(seed))
		judge(t, r, 100)
		epochs, messages, read, crashes = epochs+r.Epochs, messages+r.Messages, read+r.Read, crashes+r.Crashes
	}
	t.Logf("%d seeds: %d epochs, %d messages read %d times, %d crashes, in %v", (len(seeds)-mine+of-1)/of, epochs, messages, read, crashes, time.Since(began))
	if epochs == 0 || messages == 0 || read == 0 || crashes == 0 {
		t.Error("nothing happened")
	}
}

// shards runs the seeds in n processes: randomness is one for a process.
func shards(t *testing.T, n int) {
	outs, errs := make([][]byte, n), make([]error, n)
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			c := exec.Command(os.Args[0], "-test.run=^TestSeeds$", "-test.v", fmt.Sprintf("-seeds=%d", *seedsFlag), fmt.Sprintf("-shard=%d/%d", i, n))
			c.Env = append(os.Environ(), "GOMAXPROCS=1")
			outs[i], errs[i] = c.CombinedOutput()
		})
	}
	running.Wait()
	for i := range n {
		if errs[i] != nil {
			t.Errorf("%v\n%s", errs[i], outs[i])
		} else {
			t.Log(strings.TrimSpace(string(outs[i])))
		}
	}
}

// Whichever commit of a homeserver fails, with or without an effect, and whether the
// process survives: nothing is lost and nothing happens twice.
func TestEachCommit(t *testing.T) {
	p := sim.PlanOf(8)
	p.Homes, p.Users, p.Second, p.Rooms, p.Storm, p.Pace = 2, 3, 0, 1, 8*time.Second, 400*time.Millisecond
	last := play(t, p).Commits
	if last < 100 {
		t.Fatalf("only %d commits", last)
	}
	for p.How = range 4 {
		for p.Fails = 1 + p.How; p.Fails <= last; p.Fails += 1 + last/20 {
			if r := play(t, p); len(r.Wrong) > 0 || r.Failed == 0 {
				t.Errorf("commit %d of %d, in way %d, of which %d failed", p.Fails, last, p.How, r.Failed)
				judge(t, r, 60)
			}
		}
	}
}

// The same seed is the same run, and another seed another.
func TestSameSeedSameTrace(t *testing.T) {
	hashes := map[string]bool{}
	for _, seed := range []uint64{2, 3, 16, 35} {
		a, b := play(t, sim.PlanOf(seed)), play(t, sim.PlanOf(seed))
		if a.Hash != b.Hash {
			for i := range min(len(a.Trace), len(b.Trace)) {
				if a.Trace[i] != b.Trace[i] {
					t.Fatalf("seed %d runs differently:\n%s\n%s", seed, a.Trace[i], b.Trace[i])
				}
			}
			t.Fatalf("seed %d runs differently: %d and %d lines", seed, len(a.Trace), len(b.Trace))
		}
		hashes[a.Hash] = true
	}
	if len(hashes) != 4 {
		t.Error("several seeds have one trace")
	}
}

// The store in memory is as good as a real one: on SQLite a seed runs the same.
func TestRealStore(t *testing.T) {
	for _, seed := range []uint64{5, 24} {
		p := sim.PlanOf(seed)
		p.Disk = 0
		memory := play(t, p)
		dir := t.TempDir()
		p.Store = func(domain string) core.Store {
			db, err := store.Open(context.Background(), store.Options{URL: "sqlite:" + filepath.Join(dir, domain+".db"), Homeserver: domain})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			return db
		}
		real := play(t, p)
		judge(t, real, 50)
		for i := range min(len(memory.Trace), len(real.Trace)) {
			if memory.Trace[i] != real.Trace[i] {
				t.Fatalf("seed %d runs differently:\n%s\n%s", seed, memory.Trace[i], real.Trace[i])
			}
		}
		if memory.Hash != real.Hash || memory.Epochs == 0 {
			t.Fatalf("seed %d runs differently: %d and %d lines", seed, len(memory.Trace), len(real.Trace))
		}
	}
}

// What breaks a promise is found: each of these has something that looks at it.
func TestSabotageIsFound(t *testing.T) {
	for _, c := range []struct {
		what     string
		sabotage sim.Sabotage
		says     string
	}{
		{"another commit for an epoch", sim.Forking, "began with"},
		{"acknowledged and not kept", sim.Losing, "acknowledged"},
		{"of another homeserver, and not kept", sim.Robbing, "and has not"},
		{"kept twice", sim.Doubling, "2 times"},
		{"out of order", sim.Mixing, " after "},
		{"kept readable", sim.Reading, "is readable in bucket"},
		{"sent readable", sim.Leaking, "is readable in handshake"},
	} {
		t.Run(c.what, func(t *testing.T) {
			var found []string
			for seed := uint64(44); seed < 100; seed++ {
				p := sim.PlanOf(seed)
				p.Homes, p.Users, p.Sabotage = max(p.Homes, 2), max(p.Users, 4), c.sabotage
				if found = play(t, p).Wrong; slices.ContainsFunc(found, func(w string) bool { return strings.Contains(w, c.says) }) {
					return
				}
			}
			t.Errorf("not found; the last run: %q", found)
		})
	}
}

// A homeserver that approves one commit here and another there is shown to have done
// so, and the others go on without it.
func TestLiar(t *testing.T) {
	lies, proofs := 0, 0
	for seed := uint64(1); seed <= 12; seed++ {
		p := sim.PlanOf(seed)
		p.Homes, p.Users, p.Rooms, p.Sabotage = 4, 5, 1, sim.Lying
		r := play(t, p)
		judge(t, r, 60)
		lies, proofs = lies+r.Lies, proofs+r.Proofs
	}
	t.Logf("%d lies, %d proofs", lies, proofs)
	if lies == 0 || proofs < lies/2 {
		t.Errorf("%d lies, %d proofs", lies, proofs)
	}
}

// A homeserver that says it leads and has others keep what nobody agrees on is a
// nuisance: when it stops, everything is as it should be.
func TestBoaster(t *testing.T) {
	lies := 0
	for _, seed := range []uint64{112, 121, 134, 600} {
		p := sim.PlanOf(seed)
		p.Homes, p.Users, p.Rooms, p.Sabotage = 2+int(seed%3), 4, 1, sim.Boasting
		r := play(t, p)
		judge(t, r, 60)
		lies += r.Lies
	}
	if t.Logf("%d lies", lies); lies == 0 {
		t.Error("nothing was boasted")
	}
}
