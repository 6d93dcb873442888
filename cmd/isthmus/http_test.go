package main

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// A hungDisk takes a write when release is closed.
type hungDisk struct {
	bridges.Gateway
	release chan struct{}
	writes  atomic.Int32
}

func (d *hungDisk) Do(context.Context, core.Input) (core.Output, error) {
	d.writes.Add(1)
	<-d.release
	return core.Output{}, nil
}

// A disk that hangs does not keep the server looking ready, and is not asked
// again and again.
func TestReadinessSeesAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := &hungDisk{release: make(chan struct{})}, readiness{}
		for range 3 {
			began := time.Now()
			if err := r.askStore(t.Context(), d, began); core.CodeOf(err) != core.Unavailable {
				t.Errorf("a store that hangs: %v", err)
			}
			if waited := time.Since(began); waited > probeEvery {
				t.Errorf("waited %v, longer than until the next probe", waited)
			}
		}
		if n := d.writes.Load(); n != 1 {
			t.Errorf("%d writes wait", n)
		}
		close(d.release)
		for range 2 {
			if err := r.askStore(t.Context(), d, time.Now()); err != nil {
				t.Errorf("a store that is back: %v", err)
			}
		}
	})
}
