package native

import (
	"crypto/sha256"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A stream that always has something to say ends with its session too, whoever
// closed that.
func TestBusyStreamEndsWithItsSession(t *testing.T) {
	h := openAPI(t, nil)
	var ahead atomic.Int64
	h.bridge.api.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	alice, bob := h.member("alice"), h.member("bob")
	room := alice.channel("lobby")
	bob.must(200, "POST", roomPath(room, "/join"), nil, nil)
	alice.accept = typeText
	resp, err := http.DefaultClient.Do(alice.request("GET", "/v1/stream", "", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	h.waiters(1)
	_, token, _ := strings.Cut(alice.auth, " ")
	if _, err := h.rt.Do(t.Context(), core.PutSession{Session: core.Session{Hash: sha256.Sum256([]byte(token)), User: alice.user}}); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(2 * heartbeat))
	bob.say(room, "for those who are still here")
	if rest, err := io.ReadAll(resp.Body); err != nil || strings.Contains(string(rest), "still here") {
		t.Errorf("after the session: %q, %v", rest, err)
	}
}
