//go:build bench

package main_test

import (
	"bytes"
	"fmt"
	"time"
)

// What every measure does first: register clients and put them in channels.

const registerLimit = 2 * time.Minute // for all clients of one measure

// word returns the command of a line: the first word after the prefix.
func word(line []byte) []byte {
	if len(line) > 0 && line[0] == '@' {
		_, line, _ = bytes.Cut(line, []byte{' '})
	}
	if len(line) > 0 && line[0] == ':' {
		_, line, _ = bytes.Cut(line, []byte{' '})
	}
	w, _, _ := bytes.Cut(line, []byte{' '})
	return w
}

// register connects n clients, parallel at a time, and returns them when each
// has seen the end of its MOTD (376) or that there is none (422).
func (l *loop) register(port, n, parallel int, caps string) ([]*client, error) {
	var done, started int
	out := make([]*client, 0, n)
	var failed error
	welcome := func(c *client, line []byte) {
		switch string(word(line)) {
		case "376", "422":
			c.line, done = nil, done+1
		case "ERROR", "432", "433", "464", "465":
			failed = fmt.Errorf("client %d was refused: %.200q", c.id, line)
		}
	}
	start := func() error {
		c, err := l.dial(started, port)
		if err != nil {
			return err
		}
		c.line = welcome
		if caps != "" {
			l.send(c, "CAP REQ :"+caps+"\r\nCAP END\r\n")
		}
		l.send(c, fmt.Sprintf("NICK b%d\r\nUSER b%d 0 * :bench\r\n", c.id, c.id))
		out, started = append(out, c), started+1
		return nil
	}
	err := l.until(registerLimit, "register", func() bool {
		for failed == nil && started < n && started-done < parallel {
			failed = start()
		}
		return failed != nil || done == n
	})
	if failed != nil {
		err = failed
	}
	return out, err
}

// join puts clients into channel, a few at a time so that no send queue
// overflows with the others' JOIN lines.
func (l *loop) join(cs []*client, channel string) error {
	const together = 50
	for len(cs) > 0 {
		some := cs[:min(together, len(cs))]
		cs = cs[len(some):]
		left := len(some)
		for _, c := range some {
			c.line = func(c *client, line []byte) {
				if string(word(line)) == "366" {
					c.line, left = nil, left-1
				}
			}
			l.send(c, "JOIN "+channel+"\r\n")
		}
		if err := l.until(time.Minute, "join", func() bool { return left == 0 }); err != nil {
			return err
		}
	}
	return l.drain(100*time.Millisecond, time.Minute)
}
