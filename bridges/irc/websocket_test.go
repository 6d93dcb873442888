package irc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// wsHouse has a WebSocket listener.
func wsHouse(t testing.TB, change func(*Config)) *house {
	return openHouse(t, func(c *Config) {
		c.Access.Listeners = append(c.Access.Listeners, Listener{Name: "ws", Address: "127.0.0.1:0", WebSocket: true, Origins: []string{"chat.example"}})
		if change != nil {
			change(c)
		}
	})
}

type wsClient struct {
	t  testing.TB
	ws *websocket.Conn
}

func dialWS(t testing.TB, url string, opts *websocket.DialOptions) (*wsClient, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, opts)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { ws.CloseNow() })
	return &wsClient{t, ws}, nil
}

func (c *wsClient) send(kind websocket.MessageType, lines ...string) {
	c.t.Helper()
	for _, l := range lines {
		if err := c.ws.Write(context.Background(), kind, []byte(l)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *wsClient) until(kind websocket.MessageType, word string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		k, b, err := c.ws.Read(ctx)
		if err != nil {
			c.t.Fatalf("before %q: %v", word, err)
		}
		if k != kind || bytes.ContainsAny(b, "\r\n") || len(b) > 510+maxTags {
			c.t.Fatalf("message %v %q", k, b)
		}
		if strings.Contains(string(b), word) {
			return string(b)
		}
	}
}

// https://ircv3.net/specs/extensions/websocket
func TestWebSocket(t *testing.T) {
	h := wsHouse(t, nil)
	url := "ws://" + h.srv.Addrs()[1].String() + "/"
	plain := h.user("plain")
	plain.join("#web")
	for _, c := range []struct {
		protocols []string
		want      string
		kind      websocket.MessageType
	}{
		{[]string{wsText}, wsText, websocket.MessageText},
		{[]string{wsBinary}, wsBinary, websocket.MessageBinary},
		{[]string{wsBinary, wsText}, wsBinary, websocket.MessageBinary},
		{nil, "", websocket.MessageText},
	} {
		w, err := dialWS(t, url, &websocket.DialOptions{Subprotocols: c.protocols})
		if err != nil {
			t.Fatal(err)
		}
		if got := w.ws.Subprotocol(); got != c.want {
			t.Errorf("%v: subprotocol %q", c.protocols, got)
		}
		w.send(c.kind, "NICK web", "USER w 0 * :w\r\n") // a line end that should not be there is taken
		w.until(c.kind, " 376 ")
		w.send(c.kind, "JOIN #web")
		w.until(c.kind, " 366 ")
		w.send(c.kind, "PRIVMSG #web :grüße ☃")
		plain.until("PRIVMSG #web :grüße ☃")
		plain.send("PRIVMSG #web :back")
		w.until(c.kind, "PRIVMSG #web :back")
		w.send(c.kind, "QUIT :done")
		w.until(c.kind, "ERROR :")
		if _, _, err := w.ws.Read(context.Background()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("%v: closed with %v", c.protocols, err)
		}
		plain.until("QUIT")
	}
}

func TestWebSocketHostile(t *testing.T) {
	h := wsHouse(t, nil)
	url := "ws://" + h.srv.Addrs()[1].String() + "/"
	dial := func() *wsClient {
		w, err := dialWS(t, url, &websocket.DialOptions{Subprotocols: []string{wsText}})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	text := websocket.MessageText
	closed := func(w *wsClient, want websocket.StatusCode) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for {
			if _, _, err := w.ws.Read(ctx); err != nil {
				if websocket.CloseStatus(err) != want {
					t.Errorf("closed with %v, want %v", err, want)
				}
				return
			}
		}
	}
	w := dial()
	w.send(text, "NICK a\r\nQUIT :injected")
	closed(w, websocket.StatusPolicyViolation)
	w = dial()
	w.send(text, strings.Repeat("x", maxWSMessage+1))
	closed(w, websocket.StatusMessageTooBig)
	w = dial()
	w.send(text, "NICK long", "USER l 0 * :l")
	w.until(text, " 376 ")
	w.send(text, "PRIVMSG long :"+strings.Repeat("y", 600))
	w.until(text, " 417 ")
	w.send(websocket.MessageBinary, "PRIVMSG long :\xff\xfe")
	w.until(text, "UTF-8")
	w.send(text, "", "PING still")
	w.until(text, "still")
	for _, origin := range []string{"https://evil.example", "null"} {
		if _, err := dialWS(t, url, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}}); err == nil {
			t.Errorf("origin %s accepted", origin)
		}
	}
	if _, err := dialWS(t, url, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://chat.example"}}}); err != nil {
		t.Errorf("listed origin: %v", err)
	}
	resp, err := http.Get("http" + strings.TrimPrefix(url, "ws"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("GET answered %d", resp.StatusCode)
	}
}

// The handler serves in somebody else's HTTP server, and counts connections.
func TestWebSocketHandler(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.Access.Limits = ConnLimits{PerAddress: 2, Burst: 100} })
	s := httptest.NewServer(h.srv.WebSocket())
	defer s.Close()
	h.user("plain")
	url := "ws" + strings.TrimPrefix(s.URL, "http")
	w, err := dialWS(t, url, &websocket.DialOptions{Subprotocols: []string{wsText}})
	if err != nil {
		t.Fatal(err)
	}
	w.send(websocket.MessageText, "NICK web", "USER w 0 * :w")
	w.until(websocket.MessageText, " 376 ")
	if _, err := dialWS(t, url, nil); err == nil || !strings.Contains(err.Error(), "429") {
		t.Errorf("a third connection: %v", err)
	}
	w.ws.Close(websocket.StatusNormalClosure, "")
	for range 100 {
		if w, err = dialWS(t, url, nil); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("after one had gone: %v", err)
}

// pair returns both ends of a line socket.
func pair(t testing.TB) (net.Conn, *websocket.Conn) {
	t.Helper()
	got := make(chan net.Conn, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := upgrade(w, r, nil, nil)
		if err != nil {
			t.Error(err)
			return
		}
		got <- c
		<-c.(*lineSocket).ended
	}))
	t.Cleanup(s.Close)
	ws, _, err := websocket.Dial(context.Background(), s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	return <-got, ws
}

// A read that reached its deadline leaves the connection as it was: sessions
// use that to wait.
func TestLineSocketDeadline(t *testing.T) {
	c, ws := pair(t)
	b := make([]byte, 4)
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the deadline did not stay: %v", err)
	}
	c.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a deadline in the past: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	ws.Write(context.Background(), websocket.MessageText, []byte("PING x"))
	var got []byte
	for len(got) < 8 { // in pieces
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b[:n]...)
	}
	if string(got) != "PING x\r\n" {
		t.Errorf("read %q", got)
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		c.SetReadDeadline(time.Unix(1, 0)) // how the server ends a session
	}()
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a deadline set while reading: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	ws.Close(websocket.StatusNormalClosure, "")
	if _, err := c.Read(b); err != io.EOF {
		t.Errorf("after the other side closed: %v", err)
	}
}

func TestLineSocketWrite(t *testing.T) {
	c, ws := pair(t)
	want := []string{"one", "two", "three \uFFFD"}
	for _, piece := range []string{"one\r\ntw", "o\r\n", "three \xff\r\n"} {
		if n, err := c.Write([]byte(piece)); err != nil || n != len(piece) {
			t.Fatal(n, err)
		}
	}
	for _, w := range want {
		_, b, err := ws.Read(context.Background())
		if err != nil || string(b) != w {
			t.Errorf("message %q, %v; want %q", b, err, w)
		}
	}
	if _, err := c.Write(bytes.Repeat([]byte("x"), maxWSPartLine+1)); err == nil {
		t.Error("an endless line was kept")
	}
	c.Close()
	if _, _, err := ws.Read(context.Background()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("closed with %v", err)
	}
}

// Somebody who does not read is cut off at the deadline, also one that is set
// while the write is under way, and with frames held back or not.
func TestLineSocketSlowReader(t *testing.T) {
	held := make(chan net.Conn, 1)
	tr := newTransport(Access{Listeners: []Listener{{Name: "ws", Address: "127.0.0.1:0", WebSocket: true}}}, slog.New(slog.DiscardHandler),
		func(_ context.Context, c net.Conn, _ connInfo) { held <- c })
	if err := tr.open(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go tr.run(ctx, context.Background())
	w, err := dialWS(t, "ws://"+tr.doors[0].socket.Addr().String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.ws.CloseNow()
	direct, _ := pair(t)
	for name, c := range map[string]net.Conn{"held": <-held, "direct": direct} {
		ended := make(chan error, 1)
		go func() {
			lines := bytes.Repeat([]byte(strings.Repeat("x", 500)+"\r\n"), 1000)
			for range 1000 { // far beyond what the kernel keeps for a reader
				if _, err := c.Write(lines); err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
		time.Sleep(300 * time.Millisecond)
		c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: everything was written", name)
			}
		case <-time.After(patience):
			t.Errorf("%s: still writing", name)
		}
		c.Close()
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add([]byte("PRIVMSG #a :b"))
	f.Add([]byte("PRIVMSG #a :b\r\n"))
	f.Add([]byte("a\r\nb"))
	f.Add([]byte("\n\r\n"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		in := append([]byte(nil), msg...)
		line, ok := oneLine(msg)
		if !ok {
			if bytes.Count(in, []byte("\n")) == 0 {
				t.Fatalf("%q refused", in)
			}
			return
		}
		if len(line) == 0 {
			if len(bytes.Trim(in, "\r\n")) > 0 {
				t.Fatalf("%q vanished", in)
			}
			return
		}
		if bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("\r\n")) || !bytes.HasPrefix(in, line[:len(line)-2]) {
			t.Fatalf("%q became %q", in, line)
		}
	})
}
