package native

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-chat/isthmus/core/wire"
)

// BenchmarkAPISend is one message of a request of 500, 1 KiB each, through HTTP,
// JSON and the store.
func BenchmarkAPISend(b *testing.B) {
	h := openAPI(b, func(c *APIConfig) { c.Requests, c.Messages = 1<<20, 1<<24 })
	alice := h.member("alice")
	room := alice.channel("lobby")
	var in wire.Send
	for range 500 {
		in.Messages = append(in.Messages, wire.Message{Text: strings.Repeat("x", 1024)})
	}
	body, err := json.Marshal(in)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for n := 0; n < b.N; n += len(in.Messages) {
		if status, _, answer := alice.raw("POST", roomPath(room, "/messages"), typeJSON, body); status != 200 {
			b.Fatalf("%d %s", status, answer)
		}
	}
}

// BenchmarkAPIFanout is one message in a Channel until all of 500 streams have it.
func BenchmarkAPIFanout(b *testing.B) {
	const streams = 500
	h := openAPI(b, func(c *APIConfig) { c.Requests, c.Messages = 1<<20, 1<<24 })
	alice := h.member("alice")
	room := alice.channel("lobby")
	var got sync.WaitGroup
	for i := range streams {
		c := alice
		if i >= maxPerUser-1 {
			if i%(maxPerUser-1) == 0 {
				c = h.member(fmt.Sprintf("user%d", i/(maxPerUser-1)))
				c.must(200, "POST", roomPath(room, "/join"), nil, nil)
				alice = c
			}
			c = alice
		}
		resp, err := http.DefaultClient.Do(c.request("GET", "/v1/stream", "", nil, "Accept", typeText))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { resp.Body.Close() })
		go func() {
			lines := bufio.NewScanner(resp.Body)
			for lines.Scan() {
				if strings.HasSuffix(lines.Text(), "go") {
					got.Done()
				}
			}
		}()
	}
	h.waiters(streams)
	b.ResetTimer()
	for b.Loop() {
		got.Add(streams)
		alice.say(room, "go")
		got.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/streams, "µs/stream")
}
