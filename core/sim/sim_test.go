package sim_test

import (
	"flag"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/isthmus-chat/isthmus/core/sim"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay one seed, with its trace")
	seedsFlag = flag.Int("seeds", 10, "how many seeds to run")
)

func play(t *testing.T, seed uint64) *sim.Result {
	cryptotest.SetGlobalRandom(t, seed)
	return sim.Run(sim.PlanOf(seed))
}

func judge(t *testing.T, r *sim.Result, lines int) {
	t.Helper()
	if len(r.Wrong) == 0 {
		return
	}
	t.Errorf("seed %d: go test ./core/sim -seed %d\n%s\n%s", r.Plan.Seed, r.Plan.Seed,
		strings.Join(r.Trace[max(0, len(r.Trace)-lines):], "\n"), strings.Join(r.Wrong, "\n"))
}

func TestSeed(t *testing.T) {
	r := play(t, *seedFlag)
	t.Logf("seed %d: %d epochs, %d messages, %d times read, %d crashes, %d steps, %v, trace %s", r.Plan.Seed, r.Epochs, r.Messages, r.Read, r.Crashes, r.Steps, r.Virtual, r.Hash)
	if testing.Verbose() {
		t.Log(strings.Join(r.Trace, "\n"))
	}
	judge(t, r, 4000)
}

func TestSeeds(t *testing.T) {
	for seed := range uint64(*seedsFlag) {
		r := play(t, seed)
		judge(t, r, 60)
	}
}
