package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	busyGCPercent = 400             // a fifth less CPU per line of history than at 100, measured
	quietTick     = 2 * time.Second // how often to look whether the server is quiet
	quietOctets   = 1 << 20         // allocated between two looks: less is quiet
	quietRounds   = 3               // collections per quiet spell: each halves a stack that has grown
)

// tendMemory trades memory for speed while the server is busy: the collector runs
// more rarely. When the server falls quiet the memory is given back, so that
// thousands of idle clients cost what they hold and not what they once needed.
// Whoever sets GOGC decides instead.
func tendMemory(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(busyGCPercent)
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(quietTick)
	defer tick.Stop()
	for last, given := uint64(0), 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		now := sample[0].Value.Uint64()
		quiet := now-last < quietOctets
		last = now
		switch {
		case !quiet:
			given = 0
		case given < quietRounds:
			debug.FreeOSMemory()
			given++
		}
	}
}
