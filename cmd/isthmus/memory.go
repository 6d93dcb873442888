package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	quietTick   = 2 * time.Second // how often to look whether the server is quiet
	quietOctets = 1 << 20         // allocated between two looks: less is quiet
	quietRounds = 3               // collections when it falls quiet: each halves a stack that has grown
	quietAgain  = time.Minute     // and one more as often as that: what rests is let go of meanwhile
)

// tendMemory gives memory back when the server falls quiet, so that thousands of
// idle clients cost what they hold and not what their arrival once needed; shrink does
// so for memory that is not Go's. The collector alone would come only when as much
// again is allocated. (To let it run more rarely while busy, GOGC=400, makes a page of
// history a fifth cheaper, and leaves the heap so scattered that an idle client costs
// a tenth more.)
func tendMemory(ctx context.Context, shrink func()) {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(quietTick)
	defer tick.Stop()
	for last, given, spell := uint64(0), 0, 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		now := sample[0].Value.Uint64()
		quiet := now-last < quietOctets
		last = now
		if spell++; !quiet {
			given, spell = 0, 0
		}
		if quiet && (given < quietRounds || spell >= int(quietAgain/quietTick)) {
			shrink()
			debug.FreeOSMemory()
			given, spell = given+1, 0
		}
	}
}
