package secret

import (
	"fmt"
	"runtime"
	"testing"
)

func BenchmarkTakeConsume(b *testing.B) {
	for _, id := range []uint16{1, 2, 3, 7} {
		s, _, r := newTest(b, id, 1000)
		b.Run(s.Name(), func(b *testing.B) {
			b.ReportAllocs()
			for g := r.Generation(5, Application); b.Loop(); g++ {
				k, err := r.Take(5, Application, g)
				if err == nil {
					err = r.Consume(k)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNext(b *testing.B) {
	_, _, r := newTest(b, 1, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, err := r.Next(5, Application); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSkipped receives each second message late.
func BenchmarkSkipped(b *testing.B) {
	_, _, r := newTest(b, 1, 1000)
	b.ReportAllocs()
	for g := uint32(0); b.Loop(); g += 2 {
		receive(b, r, 5, Application, g+1)
		receive(b, r, 5, Application, g)
	}
}

// BenchmarkForged is the most that one message can cost with the usual limits.
func BenchmarkForged(b *testing.B) {
	s := lookup(b, 1)
	r := NewRatchets(s, some(32, 1), 100_000, Limits{1000, 1000})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Take(77, Application, 1000); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirst is the first message of each of n senders, with the memory
// that they leave.
func BenchmarkFirst(b *testing.B) {
	for _, n := range []uint32{1000, 100_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			s := lookup(b, 1)
			var r *Ratchets
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				r = NewRatchets(s, some(32, 1), n, testLimits)
				for leaf := range n {
					receive(b, r, leaf, Application, 0)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/sender")
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/float64(n), "B/sender")
			runtime.KeepAlive(r)
		})
	}
}

func BenchmarkSenderDataKey(b *testing.B) {
	s := lookup(b, 1)
	secret, text, buf := some(32, 1), some(100, 2), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		SenderDataKey(buf, s, secret, text)
	}
}

func BenchmarkDerive(b *testing.B) {
	s := lookup(b, 1)
	joiner, context := some(32, 1), some(150, 2)
	b.ReportAllocs()
	for b.Loop() {
		Derive(s, joiner, nil, context)
	}
}

func BenchmarkRecord(b *testing.B) {
	s := lookup(b, 1)
	r := NewRatchets(s, some(32, 1), 1000, testLimits)
	for leaf := range uint32(100) {
		receive(b, r, leaf*7, Application, 2)
	}
	buf := r.AppendTo(nil)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = r.AppendTo(buf[:0])
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseRatchets(s, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
