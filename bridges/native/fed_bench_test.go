package native

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// BenchmarkFederation carries sealed messages of 1 KiB from one homeserver to
// another, both in this process and both with fsync: accepted at one, stored at
// the other, acknowledged. The engine is the script's.
func BenchmarkFederation(b *testing.B) {
	const rooms, parallel, bulk = 20, 4, 250
	hs := newFed(b, "a.example", "b.example")
	var ids []core.RoomID
	for i := range rooms {
		ids = append(ids, fedRoom(fmt.Sprint("r", i), hs...))
	}
	message := append([]byte{0, 1, 0, 2}, bytes.Repeat([]byte("x"), 1020)...)
	b.SetBytes(int64(len(message)))
	b.ResetTimer()
	var senders sync.WaitGroup
	for g := range parallel {
		senders.Go(func() {
			for done := 0; done < b.N/parallel; done += bulk {
				es := make([]core.Envelope, bulk)
				for i := range es {
					es[i] = core.Envelope{Room: ids[(g+done/bulk)%rooms], Sender: "mimi://a.example/u/alice", Origin: core.Origin{Network: core.NetworkNative},
						Sent: time.Now(), Body: core.Sealed{Message: message}}
				}
				if _, err := hs[0].Submit(context.Background(), es...); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	senders.Wait()
	accepted := b.Elapsed()
	want := 0
	for range parallel {
		want += (b.N/parallel + bulk - 1) / bulk * bulk
	}
	for hs[1].stored.get() < want {
		time.Sleep(5 * time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(want)/b.Elapsed().Minutes(), "messages/min")
	b.ReportMetric(float64(want)/accepted.Minutes(), "accepted/min")
}
