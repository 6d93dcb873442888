package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-chat/isthmus/mls"
)

// mlsPatience bounds how long a peer may take for one answer.
const mlsPatience = 60 * time.Second

// A mlsProgramTable has the command line of every peer.
type mlsProgramTable map[string][]string

// mlsPrograms finds the peers, and builds ours.
func mlsPrograms(t *testing.T) mlsProgramTable {
	t.Helper()
	self := built(t)
	cargo := os.Getenv("ISTHMUS_MLS_PEERS")
	if cargo == "" {
		cargo = mlsRoot(".cache", "cargo", "release")
	}
	return mlsProgramTable{
		ours:          {self, "dev", "mls-peer"},
		"ts-mls":      {"node", mlsRoot("mls", "interop", "ts-mls.mjs")},
		"core-crypto": {"node", mlsRoot("mls", "interop", "core-crypto.mjs")},
		"openmls":     {filepath.Join(cargo, "openmls-peer")},
		"mls-rs":      {filepath.Join(cargo, "mls-rs-peer"), "openssl"},
	}
}

// mlsFields are those of a request; octets become base64.
type mlsFields map[string]any

type mlsMember struct {
	Index    uint32 `json:"index"`
	Identity string `json:"identity"`
}

type mlsState struct {
	Epoch         *uint64     `json:"epoch"`
	Members       []mlsMember `json:"members"`
	Authenticator []byte      `json:"epoch_authenticator"`
	TreeHash      []byte      `json:"tree_hash"`
}

type mlsAnswer struct {
	mlsState
	ID             int          `json:"id"`
	OK             bool         `json:"ok"`
	Error          string       `json:"error"`
	Rule           int          `json:"rule"`
	Name           string       `json:"name"`
	Version        string       `json:"version"`
	Suites         []int        `json:"suites"`
	Can            []string     `json:"can"`
	KeyPackage     []byte       `json:"key_package"`
	Commit         []byte       `json:"commit"`
	Welcome        []byte       `json:"welcome"`
	RatchetTree    []byte       `json:"ratchet_tree"`
	Proposal       []byte       `json:"proposal"`
	GroupInfo      []byte       `json:"group_info"`
	Group          []byte       `json:"group"`
	Message        []byte       `json:"message"`
	Data           []byte       `json:"data"`
	AAD            []byte       `json:"aad"`
	Sender         *uint32      `json:"sender"`
	Secret         []byte       `json:"secret"`
	Removed        bool         `json:"removed"`
	ExternalSender []byte       `json:"external_sender"`
	Custom         []peerCustom `json:"custom"`
	State          *mlsState    `json:"state"`
}

func (a *mlsAnswer) state() mlsState {
	if a.State != nil {
		return *a.State
	}
	return a.mlsState
}

// A mlsPeer is a running peer.
type mlsPeer struct {
	name  string
	in    io.WriteCloser
	out   *bufio.Reader
	stuck *time.Timer // kills a peer that does not answer
	next  int
	hello *mlsAnswer
}

// can reports whether hello names all of these.
func (p *mlsPeer) can(what ...string) bool {
	return !slices.ContainsFunc(what, func(w string) bool { return !slices.Contains(p.hello.Can, w) })
}

// startMLSPeer starts a peer, which ends with the test.
func startMLSPeer(t *testing.T, programs mlsProgramTable, name string) *mlsPeer {
	t.Helper()
	args := programs[name]
	path, err := exec.LookPath(args[0])
	if err != nil {
		t.Fatalf("the peer %s is not there (%v): `make install` builds it", name, err)
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	p := &mlsPeer{name: name, in: in, out: bufio.NewReaderSize(out, 1<<16)}
	p.stuck = time.AfterFunc(mlsPatience, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		in.Close() // the end of its input is the end of a peer
		last := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("%s ended with %v", name, err)
		}
		last.Stop()
		p.stuck.Stop()
	})
	p.hello = p.call(t, "hello", mlsFields{})
	if !p.hello.OK || p.hello.Name != name {
		t.Fatalf("%s says hello as %+v", name, p.hello)
	}
	return p
}

// inProcess is our peer without a process.
func inProcess(t *testing.T) *mlsPeer {
	t.Helper()
	requests, in := io.Pipe()
	out, answers := io.Pipe()
	var ended error
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended = servePeer(requests, answers)
		answers.Close()
	}()
	p := &mlsPeer{name: ours, in: in, out: bufio.NewReader(out)}
	p.stuck = time.AfterFunc(mlsPatience, func() { answers.CloseWithError(io.ErrClosedPipe) })
	t.Cleanup(func() {
		in.Close()
		<-done
		p.stuck.Stop()
		if ended != nil {
			t.Errorf("the peer ended with %v", ended)
		}
	})
	return p
}

// must is call, of what may not be refused.
func (p *mlsPeer) must(t *testing.T, op string, f mlsFields) *mlsAnswer {
	t.Helper()
	a := p.call(t, op, f)
	if !a.OK {
		t.Fatalf("%s: %s", op, a.Error)
	}
	return a
}

// refuses is call, of what must be refused: by this rule, if it is not 0.
func (p *mlsPeer) refuses(t *testing.T, rule mls.Rule, op string, f mlsFields) {
	t.Helper()
	a := p.call(t, op, f)
	if a.OK || a.Error == "" || a.Rule != int(rule) {
		t.Errorf("%s %v: %v, rule %d, %q; want a refusal by rule %d", op, f["client"], a.OK, a.Rule, a.Error, rule)
	}
}

const (
	alice = "6f1b2c3d-0000-4000-8000-000000000001:1@example.com"
	bob   = "6f1b2c3d-0000-4000-8000-000000000002:1@example.com"
	carol = "6f1b2c3d-0000-4000-8000-000000000003:1@example.com"
)

var lobby = []byte("lobby")

// lobbyOf makes a group of alice and bob.
func lobbyOf(t *testing.T, p *mlsPeer, f mlsFields) {
	t.Helper()
	create := mlsFields{"client": "alice", "identity": alice, "suite": 1, "group": lobby}
	maps.Copy(create, f)
	p.must(t, "create", create)
	k := p.must(t, "key_package", mlsFields{"client": "bob", "identity": bob, "suite": 1}).KeyPackage
	a := p.must(t, "add", mlsFields{"client": "alice", "group": lobby, "key_packages": [][]byte{k}, "tree": false})
	if len(a.RatchetTree) == 0 || bytes.Contains(a.Welcome, a.RatchetTree) {
		t.Fatal("the tree is not beside the Welcome")
	}
	p.refuses(t, mls.RuleTreeHash, "join", mlsFields{"client": "bob", "welcome": a.Welcome})
	b := p.must(t, "join", mlsFields{"client": "bob", "welcome": a.Welcome, "ratchet_tree": a.RatchetTree})
	same(t, a, b)
}

// same compares the states of two answers.
func same(t *testing.T, a, b *mlsAnswer) {
	t.Helper()
	if diff := cmp.Diff(a.state(), b.state()); diff != "" {
		t.Errorf("two states of one epoch: %s", diff)
	}
}

// both lets bob take what alice made, or the other way round, and compares.
func (p *mlsPeer) both(t *testing.T, to string, a *mlsAnswer) *mlsAnswer {
	t.Helper()
	b := p.must(t, "process", mlsFields{"client": to, "group": lobby, "message": slices.Concat(a.Commit, a.Proposal)})
	same(t, a, b)
	return b
}

// What is not a request is answered as well, with its id if it has one.
func TestMLSPeerLines(t *testing.T) {
	in := "{\n\n[]\n{\"id\": 7, \"op\": \"nothing\"}\n" + `{"id": "x", "op": "open", "client": "alice", "message": "not base64"}` + "\n" +
		`{"id": 8, "op": "key_package", "identity": "a", "suite": 1}` + "\n" + `{"id": 9, "op": "state"}`
	var out bytes.Buffer
	if err := servePeer(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var a struct {
			ID    any
			OK    bool
			Error string
		}
		if err := json.Unmarshal([]byte(line), &a); err != nil || a.OK || a.Error == "" {
			t.Errorf("%s: %v", line, err)
		}
		got = append(got, fmt.Sprint(a.ID))
	}
	if want := []string{"<nil>", "<nil>", "7", "x", "8", "9"}; !slices.Equal(got, want) {
		t.Errorf("answers are to %v, want %v", got, want)
	}
	r := bufio.NewReaderSize(strings.NewReader(strings.Repeat("x", 1000)+"\nshort\n"+strings.Repeat("y", 100)), 16)
	for _, want := range []string{"", "short\n", ""} {
		line, err := readPeerLine(r, 99)
		if string(line) != want || (err != nil) != (want == "") {
			t.Errorf("a line is %q, %v; want %q", line, err, want)
		}
	}
	if _, err := readPeerLine(r, 99); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// Refusals name the rule, and leave the group as it was.
func TestMLSPeerRefuses(t *testing.T) {
	p := inProcess(t)
	lobbyOf(t, p, nil)
	before := p.must(t, "state", mlsFields{"client": "alice", "group": lobby})
	in := func(client string, f mlsFields) mlsFields {
		out := mlsFields{"client": client, "group": lobby}
		maps.Copy(out, f)
		return out
	}
	p.refuses(t, 0, "state", mlsFields{"client": "nobody", "group": lobby})
	p.refuses(t, 0, "state", mlsFields{"client": "alice", "group": []byte("elsewhere")})
	p.refuses(t, 0, "key_package", mlsFields{"client": "alice", "suite": 1})
	p.refuses(t, mls.RuleKeyPackageParameters, "key_package", mlsFields{"client": "alice", "identity": alice, "suite": 4711})
	p.refuses(t, mls.RuleAlreadyMember, "create", in("alice", mlsFields{"identity": alice, "suite": 1}))
	p.refuses(t, mls.RuleLength, "join", in("alice", mlsFields{"welcome": []byte{0, 1, 0, 3}}))
	p.refuses(t, mls.RuleRemove, "remove", in("alice", mlsFields{"members": []uint32{5}}))
	p.refuses(t, mls.RuleCommitterProposal, "remove", in("alice", mlsFields{"members": []uint32{0}}))
	p.refuses(t, mls.RulePSKUnknown, "commit", in("alice", mlsFields{"psks": [][]byte{[]byte("unknown")}}))
	p.refuses(t, mls.RuleExporter, "export", in("alice", mlsFields{"label": "x", "length": 0}))
	p.refuses(t, mls.RuleReInit, "reinit_group", in("alice", nil))
	sealed := p.must(t, "seal", in("bob", mlsFields{"data": []byte("hello"), "aad": []byte("to all")})).Message
	p.refuses(t, mls.RuleContentType, "process", in("alice", mlsFields{"message": sealed}))
	a := p.must(t, "open", in("alice", mlsFields{"message": sealed}))
	if string(a.Data) != "hello" || string(a.AAD) != "to all" || a.Sender == nil || *a.Sender != 1 {
		t.Errorf("opened %q with %q of %v", a.Data, a.AAD, a.Sender)
	}
	p.refuses(t, mls.RuleReplay, "open", in("alice", mlsFields{"message": sealed}))
	p.refuses(t, 0, "open", in("bob", mlsFields{"message": sealed})) // its own
	same(t, before, p.must(t, "state", in("alice", nil)))
	update := p.must(t, "propose_update", in("bob", nil))
	p.refuses(t, mls.RulePendingProposals, "seal", in("bob", mlsFields{"data": []byte("x")}))
	p.both(t, "alice", update)
	commit := p.must(t, "commit", in("alice", nil))
	for i := range commit.Commit {
		bad := bytes.Clone(commit.Commit)
		bad[i] ^= 1
		if a := p.call(t, "process", in("bob", mlsFields{"message": bad})); a.OK {
			t.Fatalf("a commit with octet %d changed is taken", i)
		}
	}
	p.both(t, "bob", commit)
}

// What others propose from outside, and what only we have.
func TestMLSPeerProposals(t *testing.T) {
	p := inProcess(t)
	sender := p.must(t, "external_sender", mlsFields{"client": "server", "identity": "server", "suite": 1}).ExternalSender
	lobbyOf(t, p, mlsFields{"external_senders": [][]byte{sender}})
	at := func(client string) mlsFields { return mlsFields{"client": client, "group": lobby} }
	with := func(client string, f mlsFields) mlsFields {
		out := at(client)
		maps.Copy(out, f)
		return out
	}
	// A custom proposal reaches the application of whoever takes the commit.
	p.both(t, "bob", p.must(t, "propose_custom", with("alice", mlsFields{"type": peerCustomType, "data": []byte("custom")})))
	for _, built := range []int{1, 2, 5} { // types that have a field of their own
		p.refuses(t, 0, "propose_custom", with("alice", mlsFields{"type": built}))
	}
	p.refuses(t, mls.RuleCustomProposal, "propose_custom", with("alice", mlsFields{"type": 0xf100}))
	b := p.both(t, "alice", p.must(t, "commit", at("bob")))
	if len(b.Custom) != 1 || string(b.Custom[0].Data) != "custom" || b.Custom[0].Sender != 0 {
		t.Errorf("custom proposals: %+v", b.Custom)
	}
	// The external sender adds carol; dave asks for himself.
	k := p.must(t, "key_package", mlsFields{"client": "carol", "identity": carol, "suite": 1, "last_resort": true}).KeyPackage
	epoch := *b.state().Epoch
	ext := p.must(t, "propose_external", with("server", mlsFields{"identity": "server", "suite": 1, "epoch": epoch, "key_package": k}))
	join := p.must(t, "propose_join", with("dave", mlsFields{"identity": "dave", "suite": 1, "epoch": epoch}))
	for _, m := range [][]byte{ext.Proposal, join.Proposal} {
		for _, c := range []string{"alice", "bob"} {
			p.must(t, "process", with(c, mlsFields{"message": m}))
		}
	}
	a := p.must(t, "commit", with("alice", mlsFields{"private": true}))
	p.both(t, "bob", a)
	for _, c := range []string{"carol", "dave"} {
		same(t, a, p.must(t, "join", mlsFields{"client": c, "welcome": a.Welcome}))
	}
	if n := len(a.state().Members); n != 4 {
		t.Fatalf("%d members", n)
	}
	// Carol leaves by a SelfRemove, bob is removed by the external sender.
	self := p.must(t, "propose_self_remove", at("carol"))
	out := p.must(t, "propose_external", with("server", mlsFields{"identity": "server", "suite": 1, "epoch": *a.state().Epoch, "member": 1}))
	for _, c := range []string{"alice", "bob", "dave"} {
		p.must(t, "process", with(c, mlsFields{"message": self.Proposal}))
		p.must(t, "process", with(c, mlsFields{"message": out.Proposal}))
	}
	p.must(t, "process", with("carol", mlsFields{"message": out.Proposal}))
	a = p.must(t, "commit", at("alice"))
	for _, c := range []string{"bob", "carol"} {
		if b := p.must(t, "process", with(c, mlsFields{"message": a.Commit})); !b.Removed {
			t.Errorf("%s is not removed", c)
		}
	}
	p.both(t, "dave", a)
	p.refuses(t, 0, "seal", with("bob", mlsFields{"data": []byte("x")}))
	// A last resort is good for another time.
	a = p.must(t, "add", with("alice", mlsFields{"key_packages": [][]byte{k}}))
	p.both(t, "dave", a)
	same(t, a, p.must(t, "join", mlsFields{"client": "carol", "welcome": a.Welcome}))
	// The group's extensions change; then it takes no external sender any more.
	ext = p.must(t, "propose_extensions", at("alice"))
	for _, c := range []string{"carol", "dave"} {
		p.both(t, c, ext)
	}
	a = p.must(t, "commit", at("dave"))
	p.both(t, "alice", a)
	late := p.must(t, "propose_external", with("server", mlsFields{"identity": "server", "suite": 1, "epoch": *a.state().Epoch, "member": 0}))
	p.refuses(t, mls.RuleExternalSenderIndex, "process", with("alice", mlsFields{"message": late.Proposal}))
}

// An external commit with a PSK, and with the tree beside the GroupInfo.
func TestMLSPeerExternalJoin(t *testing.T) {
	p := inProcess(t)
	lobbyOf(t, p, nil)
	for _, c := range []string{"alice", "bob", "carol"} {
		p.must(t, "psk", mlsFields{"client": c, "psk": []byte("key"), "secret": []byte("0123456789abcdef")})
	}
	a := p.must(t, "group_info", mlsFields{"client": "alice", "group": lobby, "tree": false})
	f := mlsFields{"client": "carol", "identity": carol, "suite": 1, "group_info": a.GroupInfo, "psks": [][]byte{[]byte("key")}}
	p.refuses(t, mls.RuleTreeHash, "external_join", f)
	f["ratchet_tree"] = a.RatchetTree
	c := p.must(t, "external_join", f)
	p.both(t, "alice", c)
	p.both(t, "bob", c)
	p.refuses(t, mls.RuleAlreadyMember, "external_join", f)
	a = p.must(t, "group_info", mlsFields{"client": "alice", "group": lobby})
	c = p.must(t, "external_join", mlsFields{"client": "carol", "identity": carol, "suite": 1, "group_info": a.GroupInfo, "resync": true})
	p.both(t, "bob", c)
	if n := len(c.state().Members); n != 3 {
		t.Errorf("%d members after a resync", n)
	}
}

// call asks for one operation and waits for the answer.
func (p *mlsPeer) call(t *testing.T, op string, f mlsFields) *mlsAnswer {
	t.Helper()
	p.next++
	f["id"], f["op"] = p.next, op
	line, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	p.stuck.Reset(mlsPatience)
	defer p.stuck.Stop()
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		t.Fatalf("%s, asked for %s: %v", p.name, op, err)
	}
	answer, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("%s, asked for %s, ended: %v", p.name, op, err)
	}
	a := new(mlsAnswer)
	if err := json.Unmarshal(answer, a); err != nil || a.ID != p.next {
		t.Fatalf("%s answers request %d (%s) with %.300s (%v)", p.name, p.next, op, answer, err)
	}
	return a
}
