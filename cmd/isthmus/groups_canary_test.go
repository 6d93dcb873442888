package main

import (
	"bufio"
	"bytes"
	"encoding/ascii85"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/isthmus-chat/isthmus/core/client"
)

// The canaries are written nowhere as one word, so that they are in no program's code.
var (
	canary  = strings.Join([]string{"kanarien", "vogel", "\u00fc", "gelb 7391"}, "-")   // only said in encrypted rooms and letters
	control = strings.Join([]string{"spatzen", "schwarm", "\u00fc", "braun 5528"}, "-") // said in a Channel, which homeservers read
)

// needles are octets to look for, by what they are.
type needles map[string][]byte

// written is how a text, or any octets, could be written down.
func written(what, text string) needles {
	wide := func(order binary.ByteOrder) (b []byte) {
		for _, u := range utf16.Encode([]rune(text)) {
			b = append(b, byte(u>>8), byte(u))
			if order == binary.LittleEndian {
				b[len(b)-2], b[len(b)-1] = b[len(b)-1], b[len(b)-2]
			}
		}
		return b
	}
	backwards := []byte(text)
	slices.Reverse(backwards)
	thick := make([]byte, ascii85.MaxEncodedLen(len(text)))
	n := needles{
		"as it is": []byte(text), "UTF-16LE": wide(binary.LittleEndian), "UTF-16BE": wide(binary.BigEndian),
		"hexadecimal": []byte(hex.EncodeToString([]byte(text))), "HEXADECIMAL": []byte(strings.ToUpper(hex.EncodeToString([]byte(text)))),
		"URL": []byte(url.QueryEscape(text)), "path": []byte(url.PathEscape(text)), "Go": fmt.Appendf(nil, "%+q", text),
		"base85": thick[:ascii85.Encode(thick, []byte(text))], "backwards": backwards,
	}
	n["Go"] = n["Go"][1 : len(n["Go"])-1]
	for i := range 5 { // at every place within the letters of the encoding, without its ends, which depend on what is around
		around := append(make([]byte, i), text...)
		for name, e := range map[string]interface{ EncodeToString([]byte) string }{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding, "base32": base32.StdEncoding.WithPadding(base32.NoPadding)} {
			s := e.EncodeToString(around)
			n[fmt.Sprint(name, " at ", i)] = []byte(s[min(8, len(s)) : len(s)-2])
		}
	}
	out := needles{}
	for how, b := range n {
		out[what+" as "+how] = b
	}
	return out
}

const (
	searchChunk  = 4 << 20
	longestSaid  = 4 << 10 // octets of a needle, at most
	shortestSaid = 8       // one that is shorter is found by chance
)

var untouched = make([]byte, searchChunk+longestSaid)

// search looks for the needles in what is read, and adds how often each was found.
func (n needles) search(t *testing.T, r io.Reader, found map[string]int) {
	t.Helper()
	buf := make([]byte, 0, searchChunk+longestSaid)
	for {
		kept := len(buf)
		got, err := io.ReadFull(r, buf[kept:kept+searchChunk])
		if buf = buf[:kept+got]; bytes.Equal(buf, untouched[:len(buf)]) {
			buf = buf[:0] // most of a dump
		}
		for what, b := range n {
			if bytes.Contains(buf, b) {
				found[what]++
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		buf = append(buf[:0], buf[max(0, len(buf)-longestSaid):]...) // a needle may begin in this chunk
	}
}

// searchTree looks at every file below a directory, and returns their size.
func (n needles) searchTree(t *testing.T, dir string, found map[string]int) (octets int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err == nil {
			octets += info.Size()
			n.search(t, bufio.NewReaderSize(f, searchChunk), found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return octets
}

// dump writes the memory of a running homeserver to a file, as the kernel would at its death.
func (h *homeserver) dump(dir string) string {
	h.t.Helper()
	prefix := filepath.Join(dir, "core")
	if out, err := exec.Command("gcore", "-o", prefix, fmt.Sprint(h.process.Pid)).CombinedOutput(); err != nil {
		h.t.Fatalf("gcore (make test installs it): %v\n%s", err, out)
	}
	return fmt.Sprintf("%s.%d", prefix, h.process.Pid)
}

// The search finds each way of writing in the middle of other octets, and across the
// border of two chunks.
func TestCanarySearch(t *testing.T) {
	all := written("canary", canary)
	for what, b := range all {
		if len(b) < shortestSaid || len(b) > longestSaid {
			t.Errorf("%s has %d octets", what, len(b))
		}
		for _, at := range []int{0, 17, searchChunk - len(b)/2} {
			found := map[string]int{}
			all.search(t, io.MultiReader(bytes.NewReader(make([]byte, at)), bytes.NewReader(b), strings.NewReader("etc.")), found)
			if found[what] == 0 {
				t.Errorf("%s is not found at %d", what, at)
			}
		}
	}
	for i := range 5 {
		found := map[string]int{}
		all.search(t, strings.NewReader(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", i)+canary+"yz"))), found)
		if len(found) == 0 {
			t.Errorf("base64 of it after %d octets is not found", i)
		}
	}
}

// TestGroupsCanary has devices at three homeservers say a text in many ways in an
// encrypted room and in letters; then no file, log, metric, or octet of memory of any
// homeserver has it, in any way of writing, nor a secret of the group. Another text, said
// in a Channel, and the sealed messages are found, so that the search would have found it.
func TestGroupsCanary(t *testing.T) {
	c := newCluster(t, false, "a.example", "b.example", "c.example")
	pg := newPostgres(t)
	c.homes[2].settings = fmt.Sprintf("database: {url: %q}\n", pg.url)
	c.start()
	ctx := t.Context()
	g := c.newCrowd(newRegister(), time.Second, time.Second)
	secrets := written("canary", canary)
	for i, p := range g.phones {
		for _, b := range slices.SortedFunc(maps.Values(written("", canary)), bytes.Compare) {
			if _, err := p.say(ctx, g.room, "encoded: "+string(bytes.ToValidUTF8(b, []byte("?")))); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.say(ctx, g.room, canary); err != nil {
			t.Fatal(err)
		}
		next := g.phones[(i+1)%3]
		if err := p.WriteLetter(ctx, next.home.user(next.name), client.Letter{Kind: client.LetterText, Text: canary}); err != nil {
			t.Fatal(err)
		}
		talk, err := p.Create(ctx, client.NewRoom{Name: "open", Channel: true})
		if err == nil {
			_, err = p.say(ctx, talk, control)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Renew(ctx, g.room); err != nil {
			t.Fatal(err)
		}
		s := converge(t, g.room, g.phones...)
		secrets[fmt.Sprint("epoch authenticator of epoch ", s.Epoch)] = s.Authenticator
	}
	for _, p := range g.phones {
		for _, o := range g.phones {
			if o != p {
				p.hear(g.room, by(o.name, []string{canary}))
			}
		}
	}
	c.searched(g, pg, secrets)
}

// searched looks for the secrets wherever homeservers keep or tell anything, and then,
// for the worth of that, for what must be there.
func (c *cluster) searched(g *crowd, pg *postgresServer, secrets needles) {
	t := c.t
	t.Helper()
	known := written("control", control)
	all := maps.Clone(secrets)
	maps.Copy(all, known)
	all["the room"] = []byte(g.room)
	look := func(where string, want []string, do func(found map[string]int) int64) {
		found := map[string]int{}
		octets := do(found)
		for what := range secrets {
			if found[what] > 0 {
				t.Errorf("%s: there is the %s", where, what)
			}
		}
		for _, what := range want {
			if found[what] == 0 {
				t.Errorf("%s, %d octets: the %s is not found, which must be there", where, octets, what)
			}
		}
		t.Logf("%s: %d octets searched", where, octets)
	}
	text := func(s string) func(map[string]int) int64 {
		return func(found map[string]int) int64 {
			all.search(t, strings.NewReader(s), found)
			return int64(len(s))
		}
	}
	const plain = "control as as it is"
	for i, h := range c.homes {
		all["last message"] = g.lastSealed(i)
		dir := t.TempDir()
		file := h.dump(dir)
		look("memory of "+h.domain, []string{plain, "the room", "last message"}, func(found map[string]int) int64 { return all.searchTree(t, dir, found) })
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		all["its name"] = []byte("isthmus_")
		look("metrics of "+h.domain, []string{"its name"}, text(h.metrics()))
		log, err := os.ReadFile(h.logFile())
		if err != nil {
			t.Fatal(err)
		}
		all["its name"] = []byte(h.domain)
		look("log of "+h.domain, []string{"its name"}, text(string(log)))
		want := []string{plain, "the room", "last message"}
		if i == len(c.homes)-1 { // its database is elsewhere
			want = nil
		}
		look("files of "+h.domain+", running", want, func(found map[string]int) int64 { return all.searchTree(t, h.dir, found) })
		h.down(syscall.SIGTERM)
		look("files of "+h.domain+", stopped", want, func(found map[string]int) int64 { return all.searchTree(t, h.dir, found) })
	}
	pg.stop()
	look("PostgreSQL", []string{plain, "the room", "last message"}, func(found map[string]int) int64 { return all.searchTree(t, pg.dir, found) })
}

// lastSealed is the newest message of the room, as a homeserver gives it to its devices.
func (g *crowd) lastSealed(i int) []byte {
	g.t.Helper()
	h, err := g.phones[i].api.History(g.t.Context(), g.room, 0, 20)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, e := range slices.Backward(h.Events) {
		if len(e.Sealed) > 100 && len(e.Sealed) < longestSaid {
			return e.Sealed[:100]
		}
	}
	g.t.Fatal("no sealed messages")
	return nil
}
