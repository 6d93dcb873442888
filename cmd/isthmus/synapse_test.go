package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A synapse is a real Matrix homeserver in a process of its own (.ci/synapse),
// with one user who is not ours.
type synapse struct {
	t     *testing.T
	name  string
	dir   string
	port  string
	url   string
	regs  []string
	token string // of @alice
	cmd   *exec.Cmd
	txn   int
}

// newSynapse prepares a homeserver; start runs it. An application service must
// listen before that: Synapse does not look for it again for minutes.
func newSynapse(t *testing.T, name string) *synapse {
	addr := freeAddress(t)
	_, port, _ := strings.Cut(addr, ":")
	s := &synapse{t: t, name: name, dir: t.TempDir(), port: port, url: "http://" + addr}
	t.Cleanup(s.stop)
	return s
}

// register adds an application service by its registration file.
func (s *synapse) register(registration []byte) {
	s.t.Helper()
	file := filepath.Join(s.dir, fmt.Sprintf("registration%d.yaml", len(s.regs)))
	if err := os.WriteFile(file, registration, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.regs = append(s.regs, file)
}

// python is the interpreter that has Synapse; make test installs it.
func python() string {
	if p := os.Getenv("ISTHMUS_SYNAPSE"); p != "" {
		return p
	}
	return filepath.Join("..", "..", ".cache", "synapse", "bin", "python")
}

func (s *synapse) start() {
	s.t.Helper()
	s.cmd = exec.Command(python(), append([]string{filepath.Join("..", "..", ".ci", "synapse"), s.dir, s.port, s.name}, s.regs...)...)
	var out bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("Synapse does not start (make test installs it): %v", err)
	}
	for range 600 {
		if r, err := http.Get(s.url + "/_matrix/client/versions"); err == nil {
			r.Body.Close()
			if s.token == "" {
				s.token = s.newUser("alice")
			}
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Fatalf("Synapse is never ready: %s", out.String())
}

func (s *synapse) stop() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

// call makes one request and returns the answer's JSON.
func (s *synapse) call(method, path, token string, body any) map[string]any {
	s.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(method, s.url+path, bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s %s: %s %v\n%s", method, path, resp.Status, err, text)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// newUser registers a user with the shared secret and returns an access token
// (Synapse's admin API, /_synapse/admin/v1/register).
func (s *synapse) newUser(name string) string {
	s.t.Helper()
	nonce := s.call("GET", "/_synapse/admin/v1/register", "", nil)["nonce"].(string)
	mac := hmac.New(sha1.New, []byte("secret"))
	mac.Write([]byte(strings.Join([]string{nonce, name, "password", "notadmin"}, "\x00")))
	return s.call("POST", "/_synapse/admin/v1/register", "", map[string]any{
		"nonce": nonce, "username": name, "password": "password", "admin": false, "mac": hex.EncodeToString(mac.Sum(nil)),
	})["access_token"].(string)
}

// createRoom makes a public room of alice's in which bot, once in, may set
// the room's state.
func (s *synapse) createRoom(bot string) string {
	s.t.Helper()
	return s.call("POST", "/_matrix/client/v3/createRoom", s.token, map[string]any{
		"preset":                       "public_chat",
		"power_level_content_override": map[string]any{"users": map[string]int{bot: 100}},
	})["room_id"].(string)
}

// say sends a text as alice and returns its event ID.
func (s *synapse) say(room, text string) string {
	s.t.Helper()
	return s.send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": text})
}

func (s *synapse) send(room, kind string, content map[string]any) string {
	s.t.Helper()
	s.txn++
	return s.call("PUT", fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/%s/t%d", url.PathEscape(room), kind, s.txn), s.token, content)["event_id"].(string)
}

// timeline returns the room's events, oldest first.
func (s *synapse) timeline(room string) (events []map[string]any) {
	s.t.Helper()
	for from := ""; ; {
		page := s.call("GET", fmt.Sprintf("/_matrix/client/v3/rooms/%s/messages?dir=f&limit=1000&from=%s", url.PathEscape(room), url.QueryEscape(from)), s.token, nil)
		chunk, _ := page["chunk"].([]any)
		for _, e := range chunk {
			events = append(events, e.(map[string]any))
		}
		next, _ := page["end"].(string)
		if len(chunk) == 0 || next == "" {
			return events
		}
		from = next
	}
}

// texts returns the bodies of the room's messages, oldest first.
func (s *synapse) texts(room string) (out []string) {
	s.t.Helper()
	for _, e := range s.timeline(room) {
		content, _ := e["content"].(map[string]any)
		if body, ok := content["body"].(string); ok && e["type"] == "m.room.message" {
			out = append(out, body)
		}
	}
	return out
}
