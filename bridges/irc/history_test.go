package irc

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

var historyCaps = []string{"message-tags", "server-time", "batch", "account-tag", "draft/chathistory"}

// fill puts n messages of nick's user into a channel, in large submissions.
func (h *house) fill(channel, nick string, n int) {
	h.t.Helper()
	w := h.srv.world
	w.mu.RLock()
	u, ch := w.userByNick(nick), w.channelByName(channel)
	w.mu.RUnlock()
	for i := 0; i < n; {
		var es []core.Envelope
		for len(es) < 1000 && i < n {
			e, err := h.srv.convert.Inbound(converter.IRCMessage{Room: ch.room.ID, Sender: u.uri, Name: nick,
				Origin: core.Origin{Network: core.NetworkIRC}, Sent: time.Now(), Seed: fmt.Append(nil, i),
				Lines: []converter.IRCLine{{Text: fmt.Sprintf("message %d, about as long as people write in a channel", i)}}}, converter.NoNames{})
			if err != nil {
				h.t.Fatal(err)
			}
			es = append(es, e)
			i++
		}
		if _, err := h.rt.Submit(context.Background(), es...); err != nil {
			h.t.Fatal(err)
		}
	}
}

// BenchmarkHistoryPage asks for pages of 100 from a store on disk with 100,000
// messages, with 20 clients at once; the load generator is included.
func BenchmarkHistoryPage(b *testing.B) {
	const clients, stored, perPage = 20, 100_000, 100
	h := openHouse(b, func(c *Config) { c.SendQueue = 16 << 20 })
	a := h.user("alice")
	a.join("#h")
	go io.Copy(io.Discard, a.conn)
	h.fill("#h", "alice", stored)
	room := h.srv.roomID("#h")
	cs := make([]*client, clients)
	for i := range cs {
		cs[i] = h.user(fmt.Sprint("c", i), historyCaps...)
		cs[i].join("#h")
	}
	for _, c := range cs {
		c.sync()
	}
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, c := range cs {
		wg.Go(func() {
			seq := uint64(200 + i*4871)
			for range b.N/clients + 1 {
				seq = 200 + (seq*7919+13)%(stored-300)
				fmt.Fprintf(c.conn, "CHATHISTORY BEFORE #h msgid=%s %d\r\n", core.NewEventID(room, testDomain, seq), perPage)
				for n := 0; n < perPage+2; n++ {
					s, err := c.r.ReadSlice('\n')
					if err != nil || n == 1 && !strings.Contains(string(s), " PRIVMSG #h :message ") {
						b.Errorf("line %d: %q, %v", n, s, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((b.N/clients+1)*clients*perPage)/b.Elapsed().Seconds(), "lines/s")
}
