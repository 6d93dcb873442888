package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/store"
)

// groupPatience bounds how long a test waits until homeservers that were away agree
// again: it is met only when something is wrong, or the machine is very busy.
const groupPatience = 60 * time.Second

// A cluster is homeservers of ours in processes of their own, with domains, certificates
// of one `isthmus dev ca`, and data of their own.
type cluster struct {
	t      *testing.T
	dir    string
	binary string
	homes  []*homeserver
	certs  devCerts
}

// A homeserver is one of a cluster.
type homeserver struct {
	*rig
	domain   string
	fed      string   // address for other homeservers
	netns    string   // its network namespace; "" = that of the test
	settings string   // further configuration
	env      []string // further environment

	process *os.Process // nil = not running
	exited  <-chan struct{}
}

// newCluster prepares a homeserver for each domain; the last one keeps its data in
// PostgreSQL if that is asked for. start starts them.
func newCluster(t *testing.T, postgres bool, domains ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, binary: built(t), dir: t.TempDir()}
	out, err := exec.Command(c.binary, append([]string{"dev", "ca", "--json", "--dir", filepath.Join(c.dir, "ca")}, domains...)...).Output()
	if err == nil {
		err = json.Unmarshal(out, &c.certs)
	}
	if err != nil || len(c.certs.Certificates) != len(domains) {
		t.Fatalf("isthmus dev ca: %v\n%s", err, out)
	}
	for i, domain := range domains {
		dir := filepath.Join(c.dir, domain)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		h := &homeserver{rig: &rig{t: t, binary: c.binary, dir: dir, config: filepath.Join(dir, "isthmus.yaml"), http: freeAddress(t)}, domain: domain, fed: freeAddress(t)}
		if postgres && i == len(domains)-1 {
			h.settings = fmt.Sprintf("database: {url: %q}\n", newPostgres(t).url)
		}
		c.homes = append(c.homes, h)
	}
	return c
}

// start writes the configurations, of everybody about everybody, and starts all.
func (c *cluster) start() {
	c.t.Helper()
	for i := range c.homes {
		c.configure(i)
	}
	for _, h := range c.homes {
		h.up()
	}
}

func (c *cluster) configure(i int) {
	c.t.Helper()
	h, cert := c.homes[i], c.certs.Certificates[i]
	var peers strings.Builder
	for j, p := range c.homes {
		if j != i {
			fmt.Fprintf(&peers, "  - {name: %s, address: %q}\n", p.domain, p.fed)
		}
	}
	text := fmt.Sprintf("domain: %s\nlog: {level: debug}\nirc: {listeners: []}\nfederation:\n  address: %q\n  cert_file: %q\n  key_file: %q\n  ca_file: %q\n  peers:\n%s%s",
		h.domain, h.fed, cert.Cert, cert.Key, c.certs.CA, &peers, h.settings)
	h.rig.configure(text)
}

func (h *homeserver) logFile() string { return filepath.Join(h.dir, "log") }
func (h *homeserver) database() string {
	return filepath.Join(h.dir, "data", databaseFile)
}

// up starts the process and waits until it is ready.
func (h *homeserver) up() {
	h.t.Helper()
	args := []string{h.binary, "serve", "--config", h.config}
	if h.netns != "" {
		args = append([]string{"ip", "netns", "exec", h.netns}, args...)
	}
	log, err := os.OpenFile(h.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(withoutSettings(), h.env...)
	err = cmd.Start()
	log.Close()
	if err != nil {
		h.t.Fatal(err)
	}
	end := make(chan struct{})
	go func() { cmd.Wait(); close(end) }()
	h.process, h.exited = cmd.Process, end
	h.t.Cleanup(func() { cmd.Process.Kill(); <-end })
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if h.ready() {
			return
		}
		select {
		case <-end:
			text, _ := os.ReadFile(h.logFile())
			h.t.Fatalf("%s does not start: %s", h.domain, text)
		default:
		}
	}
	h.t.Fatalf("%s is never ready", h.domain)
}

func (h *homeserver) ready() bool {
	resp, err := (&http.Client{Timeout: time.Second}).Get("http://" + h.http + "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// down sends the process a signal and waits for its end.
func (h *homeserver) down(s os.Signal) {
	if h.process != nil {
		h.process.Signal(s)
		<-h.exited
		h.process = nil
	}
}

// metrics returns what Prometheus would be told.
func (h *homeserver) metrics() string {
	h.t.Helper()
	resp, err := http.Get("http://" + h.http + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

func (h *homeserver) user(name string) core.UserURI { return core.NewUserURI(h.domain, name) }

// A chatter of the tests is a device driven by the verbs of isthmus chat.
type verbs struct {
	t    *testing.T
	home *homeserver
	name string // alice@a.example
	dir  string
	said []string // "alice: hello", all that tail has shown, each time it did
}

// login makes a device of a new user.
func (c *cluster) login(h *homeserver, name string, more ...string) *verbs {
	c.t.Helper()
	v := &verbs{t: c.t, home: h, name: name + "@" + h.domain, dir: filepath.Join(c.dir, "chat", fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	v.run("", append([]string{"login", v.name, "--server", "http://" + h.http}, more...)...)
	return v
}

// args completes a command line of isthmus chat.
func (v *verbs) args(args ...string) []string {
	return append(append([]string{"chat"}, args...), "--dir", v.dir, "--key-file", filepath.Join(v.dir, "key"))
}

// try runs a verb and returns the JSON objects that it wrote.
func (v *verbs) try(input string, args ...string) ([]map[string]any, error) {
	v.t.Helper()
	cmd := exec.Command(v.home.binary, append(v.args(args...), "--json")...)
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr, cmd.Env = strings.NewReader(input), &errs, withoutSettings()
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("isthmus chat %v: %w\n%s%s", args, err, out, errs.String())
	}
	var list []map[string]any
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var one any
		if err := d.Decode(&one); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("isthmus chat %v: %w\n%s", args, err, out)
		}
		switch one := one.(type) {
		case map[string]any:
			list = append(list, one)
		case []any:
			for _, o := range one {
				list = append(list, o.(map[string]any))
			}
		}
	}
}

func (v *verbs) run(input string, args ...string) []map[string]any {
	v.t.Helper()
	out, err := v.try(input, args...)
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

// listen is online for a while, and notes what was said.
func (v *verbs) listen(d time.Duration) {
	v.t.Helper()
	for _, l := range v.run("", "tail", "--for", d.String()) {
		if l["kind"] == "said" {
			v.said = append(v.said, sayer(l["sender"].(string))+": "+l["text"].(string))
		}
	}
}

// sayer is the name of a user's URI.
func sayer(uri string) string { return uri[strings.LastIndexByte(uri, '/')+1:] }

// hears listens until everything of want was said.
func (v *verbs) hears(want ...string) {
	v.t.Helper()
	for end := time.Now().Add(groupPatience); ; {
		missing := slices.DeleteFunc(slices.Clone(want), func(w string) bool { return slices.Contains(v.said, w) })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(end) {
			v.t.Fatalf("%s never hears %q; it heard %q", v.name, missing, v.said)
		}
		v.listen(500 * time.Millisecond)
	}
}

// checkOrder holds what somebody heard to: each text once, and those of each sender,
// which end in a number, in their order, except those that were said again late.
func checkOrder(t *testing.T, who string, said []string, late ...string) {
	t.Helper()
	last, seen := map[string]int{}, map[string]bool{}
	for _, s := range said {
		if seen[s] {
			t.Errorf("%s heard %q twice", who, s)
		}
		seen[s] = true
		stem, digits := s[:strings.LastIndexByte(s, ' ')+1], s[strings.LastIndexByte(s, ' ')+1:]
		var n int
		if _, err := fmt.Sscan(digits, &n); err != nil || slices.Contains(late, s) {
			continue
		}
		if before, ok := last[stem]; ok && n <= before {
			t.Errorf("%s heard %q after number %d", who, s, before)
		}
		last[stem] = n
	}
}

// A phone is a device in this process: core/client with a store of its own and the
// homeserver's device API over HTTP.
type phone struct {
	*client.Client
	t    *testing.T
	home *homeserver
	name string
	api  client.Home
	db   *store.DB

	mu    sync.Mutex
	heard map[core.RoomID][]string
	late  []string // of what was heard: said again
	news  []client.Update
	stop  func()
}

// newPhone registers a device of a user. wrap stands between it and its homeserver;
// nil = nothing does.
func (c *cluster) newPhone(h *homeserver, name string, wrap func(*httpHome) client.Home) *phone {
	c.t.Helper()
	p := &phone{t: c.t, home: h, name: name, heard: map[core.RoomID][]string{}, stop: func() {}}
	base, err := newHTTPHome("http://127.0.0.1", "")
	if err != nil {
		c.t.Fatal(err)
	}
	base.base = "http://" + h.http // in a network namespace, perhaps, which is this machine
	if p.api = base; wrap != nil {
		p.api = wrap(base)
	}
	ctx := c.t.Context()
	file := filepath.Join(c.t.TempDir(), "phone.db")
	if p.db, err = store.Open(ctx, store.Options{URL: "sqlite:" + file, Homeserver: h.domain}); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { p.stop(); p.db.Close() })
	kv, err := client.Seal(ctx, p.db, client.Secret{Key: bytes.Repeat([]byte{1}, chatKeySize)}, rand.Reader)
	if err == nil {
		p.Client, err = client.Open(ctx, client.Config{Store: kv, Home: p.api, Rand: rand.Reader, Now: time.Now, Wait: sleepFor, Packages: 10})
	}
	if err == nil {
		_, err = p.Prepare(ctx, h.user(name), "phone")
	}
	if err == nil {
		err = p.Register(ctx, client.Registration{})
	}
	if err != nil {
		c.t.Fatalf("%s at %s: %v", name, h.domain, err)
	}
	p.live()
	return p
}

// live keeps the device online, as isthmus chat does, until the test or stop ends it.
func (p *phone) live() {
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() {
		for ctx.Err() == nil {
			news, err := p.Sync(ctx, 5*time.Second)
			if p.take(news); err != nil {
				sleepFor(ctx, 100*time.Millisecond)
			}
		}
	})
	loops.Go(func() {
		for ctx.Err() == nil {
			p.Tend(ctx) // what failed is tried again
			sleepFor(ctx, 500*time.Millisecond)
		}
	})
	p.stop = sync.OnceFunc(func() { cancel(); loops.Wait() })
}

func (p *phone) take(news []client.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range news {
		switch {
		case u.Kind == client.NewMessage && !u.Message.Own:
			text := "unreadable: " + u.Message.Failed
			if c, err := converter.ParseContent(u.Message.Content); err == nil && u.Message.Failed == "" {
				text = sayer(string(u.Message.Sender)) + ": " + c.Text()
			}
			if p.heard[u.Room] = append(p.heard[u.Room], text); u.Message.Late {
				p.late = append(p.late, text)
			}
		case u.Kind != client.NewMessage:
			p.news = append(p.news, u)
		}
	}
}

// lines are what the device heard in a room so far.
func (p *phone) lines(room core.RoomID) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.heard[room])
}

// inOrder holds what the device heard in a room to checkOrder, and returns how much of
// what it heard anywhere was late.
func (p *phone) inOrder(room core.RoomID) (late int) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	checkOrder(p.t, p.name, p.heard[room], p.late...)
	return len(p.late)
}

// say sends a text.
func (p *phone) say(ctx context.Context, room core.RoomID, text string) (client.Message, error) {
	seed := make([]byte, 16)
	rand.Read(seed)
	c := converter.Text(text, converter.TypePlain, seed)
	return p.Send(ctx, room, core.ContentMIMI, c.Append(nil))
}

// info is the room as the device has it.
func (p *phone) info(room core.RoomID) client.RoomInfo {
	rooms, err := p.Rooms(p.t.Context())
	if err != nil {
		p.t.Errorf("%s: %v", p.name, err)
	}
	if i := slices.IndexFunc(rooms, func(r client.RoomInfo) bool { return r.Room == room }); i >= 0 {
		return rooms[i]
	}
	return client.RoomInfo{}
}

// inTheEnd waits until cond holds.
func inTheEnd(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(groupPatience); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// converge waits until all are in the room, in one epoch, with one epoch authenticator.
func converge(t *testing.T, room core.RoomID, all ...*phone) client.State {
	t.Helper()
	var states []client.State
	inTheEnd(t, "all devices in one epoch", func() bool {
		states = nil
		for _, p := range all {
			s, err := p.State(t.Context(), room)
			if err != nil || !p.info(room).Joined {
				return false
			}
			states = append(states, s)
		}
		return !slices.ContainsFunc(states, func(s client.State) bool {
			return s.Epoch != states[0].Epoch || !bytes.Equal(s.Authenticator, states[0].Authenticator)
		})
	})
	return states[0]
}

// hear waits until a device has heard all of want.
func (p *phone) hear(room core.RoomID, want []string) {
	p.t.Helper()
	var missing []string
	for end := time.Now().Add(groupPatience); ; time.Sleep(50 * time.Millisecond) {
		have := map[string]bool{}
		for _, l := range p.lines(room) {
			have[l] = true
		}
		missing = slices.DeleteFunc(slices.Clone(want), func(w string) bool { return have[w] })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("%s never hears %d of %d lines, from %q to %q; it heard %d", p.name, len(missing), len(want), missing[0], missing[len(missing)-1], len(have))
		}
	}
}

// A foreign is a member that is not ours: ts-mls, driven by testdata/ts-member.mjs.
type foreign struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Reader
	errs bytes.Buffer
	said []string
}

// newForeign registers a device of a user.
func (c *cluster) newForeign(h *homeserver, name string) *foreign {
	c.t.Helper()
	f := &foreign{t: c.t}
	cmd := exec.Command("node", filepath.Join("testdata", "ts-member.mjs"))
	cmd.Stderr = &f.errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		f.in, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatalf("ts-mls (make test installs it): %v", err)
	}
	f.out = bufio.NewReader(out)
	c.t.Cleanup(func() { f.in.Close(); cmd.Wait() })
	f.ask("register", map[string]any{"base": "http://" + h.http, "user": h.user(name)})
	return f
}

// try asks for one thing.
func (f *foreign) try(op string, with map[string]any) (map[string]any, error) {
	f.t.Helper()
	request := map[string]any{"id": 1, "op": op}
	for k, v := range with {
		request[k] = v
	}
	line, err := json.Marshal(request)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.in.Write(append(line, '\n')); err != nil {
		f.t.Fatalf("ts-mls is gone: %v\n%s", err, f.errs.String())
	}
	line, err = f.out.ReadBytes('\n')
	answer := map[string]any{}
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	if err != nil {
		f.t.Fatalf("ts-mls: %v\n%s", err, f.errs.String())
	}
	if answer["ok"] != true {
		return nil, fmt.Errorf("ts-mls: %s: %v", op, answer["error"])
	}
	return answer, nil
}

func (f *foreign) ask(op string, with map[string]any) map[string]any {
	f.t.Helper()
	a, err := f.try(op, with)
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}

// sync takes what is new.
func (f *foreign) sync() {
	f.t.Helper()
	for {
		a := f.ask("sync", map[string]any{"wait": 200})
		for _, m := range a["said"].([]any) {
			m := m.(map[string]any)
			f.said = append(f.said, sayer(m["sender"].(string))+": "+m["text"].(string))
		}
		if a["more"] != true {
			return
		}
	}
}

// reaches waits until f is in the epoch that p is in: its homeserver may learn later than
// p's what they agreed on.
func (f *foreign) reaches(p *phone, room core.RoomID) {
	f.t.Helper()
	inTheEnd(f.t, "the same epoch", func() bool {
		f.sync()
		return f.ask("state", map[string]any{"room": room})["epoch"] == float64(p.info(room).Epoch)
	})
}

// runQuietly is for what may fail: it cleans up.
func runQuietly(name string, args ...string) { exec.Command(name, args...).Run() }
