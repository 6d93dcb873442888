package store

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"modernc.org/sqlite"

	"github.com/isthmus-chat/isthmus/core"
)

// remembered is how many octets of the database a session keeps in memory.
func (b *bed) remembered(s *session) (n int) {
	b.t.Helper()
	err := s.conn.Raw(func(c any) (err error) {
		n, _, err = c.(sqlite.DBStatus).Status(sqlite.DBStatusCacheUsed, false)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// Who rests gives back what it remembers of the database; who works is not disturbed.
func TestShrink(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		fill := func(name string) {
			b.do(func(tx core.Tx) error {
				for i := range 200 {
					if err := tx.PutValue("shrink", fmt.Sprint(name, i), make([]byte, 16<<10)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		fill("before")
		if _, lite := b.eng.(*sqliteEngine); lite {
			if n := b.remembered(b.writer); n < 2<<20 {
				t.Fatalf("the writer remembers %d octets", n)
			}
			b.Shrink()
			if n := b.remembered(b.writer); n > 256<<10 {
				t.Errorf("the writer remembers %d octets still", n)
			}
		}
		var working sync.WaitGroup
		working.Go(func() { fill("while") })
		working.Go(func() {
			for range 20 {
				err := b.View(context.Background(), func(r core.Reader) error {
					_, err := r.Value("shrink", "before7")
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
		for range 20 {
			b.Shrink()
		}
		working.Wait()
		for _, key := range []string{"before0", "before199", "while199"} {
			b.do(func(tx core.Tx) error {
				v, err := tx.Value("shrink", key)
				if err == nil && len(v) != 16<<10 {
					t.Errorf("%s has %d octets", key, len(v))
				}
				return err
			})
		}
		if b.Close(); b.writer != nil {
			t.Error("a writer after Close")
		}
		b.Shrink()
		b.open()
	})
}
