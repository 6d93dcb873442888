package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestTLSAndWebSocket: irc-framework over TLS and a WebSocket client are in one
// channel; SIGHUP brings another certificate, and nobody is cut off by it.
func TestTLSAndWebSocket(t *testing.T) {
	r := newRig(t)
	secure := freeAddress(t)
	cert, key := selfSigned(t, r.dir, "one.example", time.Now().Add(time.Hour))
	r.configure(fmt.Sprintf("irc:\n  listeners:\n  - {name: plain, address: %q}\n"+
		"  - {name: tls, address: %q, tls: true, cert_file: %q, key_file: %q}\n", r.irc, secure, cert, key))
	server, exited := r.serve()
	r.feed(password+"\n", "account", "add", "bob")
	host, port, _ := strings.Cut(secure, ":")
	bob := r.ircPeer("bob", map[string]any{"host": host, "port": port, "tls": true, "rejectUnauthorized": false,
		"account": map[string]any{"account": "bob", "password": password}})
	bob.expect(is{"type": "loggedin", "account": "bob"})
	bob.raw("JOIN #hello")
	bob.expect(is{"type": "join", "nick": "bob"})

	web := dialWeb(t, r.http)
	web.say("NICK wendy", "USER wendy 0 * :Wendy", "JOIN #hello")
	web.sees(" JOIN #hello")
	bob.expect(is{"type": "join", "nick": "wendy", "channel": "#hello"})
	web.say("PRIVMSG #hello :grüß dich from the web")
	bob.expect(is{"type": "privmsg", "nick": "wendy", "message": "grüß dich from the web"})
	bob.do(map[string]any{"say": []string{"#hello", "hello from TLS"}})
	web.sees("PRIVMSG #hello :hello from TLS")

	if got := nameAt(t, secure); got != "one.example" {
		t.Fatalf("the certificate is for %s", got)
	}
	selfSigned(t, r.dir, "two.example", time.Now().Add(time.Hour))
	server.Signal(syscall.SIGHUP)
	got := ""
	for end := time.Now().Add(patience); got != "two.example" && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		got = nameAt(t, secure)
	}
	if got != "two.example" {
		t.Fatalf("after SIGHUP the certificate is for %s", got)
	}
	bob.do(map[string]any{"say": []string{"#hello", "still here"}})
	web.sees("PRIVMSG #hello :still here")
	server.Signal(syscall.SIGTERM)
	web.sees("ERROR")
	bob.expect(is{"type": "ERROR"})
	<-exited
}

// nameAt is whom the certificate of a TLS address is for.
func nameAt(t *testing.T, address string) string {
	t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) // self-signed: only its name is of interest
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].DNSNames[0]
}

// A web is an IRC client over WebSocket: one line in each message, without CRLF
// (https://ircv3.net/specs/extensions/websocket).
type web struct {
	t    *testing.T
	conn *websocket.Conn
}

func dialWeb(t *testing.T, address string) *web {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, "ws://"+address+"/irc", &websocket.DialOptions{
		Subprotocols: []string{"text.ircv3.net"}, HTTPHeader: http.Header{"Origin": {"http://" + address}}})
	if err != nil {
		t.Fatalf("%v %v", err, resp)
	}
	t.Cleanup(func() { conn.CloseNow() })
	if conn.Subprotocol() != "text.ircv3.net" {
		t.Errorf("the subprotocol is %q", conn.Subprotocol())
	}
	return &web{t, conn}
}

func (w *web) say(lines ...string) {
	w.t.Helper()
	for _, l := range lines {
		if err := w.conn.Write(w.t.Context(), websocket.MessageText, []byte(l)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// sees reads until a line has want in it.
func (w *web) sees(want string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for {
		kind, line, err := w.conn.Read(ctx)
		if err != nil {
			w.t.Fatalf("waiting for %q: %v", want, err)
		}
		if kind != websocket.MessageText || strings.ContainsAny(string(line), "\r\n") {
			w.t.Errorf("%v %q is no line of text.ircv3.net", kind, line)
		}
		if strings.Contains(string(line), want) {
			return
		}
	}
}
