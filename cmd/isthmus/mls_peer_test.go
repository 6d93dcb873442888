package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// mlsPatience bounds how long a peer may take for one answer.
const mlsPatience = 60 * time.Second

// A mlsProgramTable has the command line of every peer.
type mlsProgramTable map[string][]string

// mlsPrograms finds the peers, and builds ours.
func mlsPrograms(t *testing.T) mlsProgramTable {
	t.Helper()
	self := filepath.Join(t.TempDir(), "isthmus")
	if out, err := exec.Command("go", "build", "-o", self, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cargo := os.Getenv("ISTHMUS_MLS_PEERS")
	if cargo == "" {
		cargo = mlsRoot(".cache", "cargo", "release")
	}
	return mlsProgramTable{
		ours:          {self, "dev", "mls-peer"},
		"ts-mls":      {"node", mlsRoot("mls", "interop", "ts-mls.mjs")},
		"core-crypto": {"node", mlsRoot("mls", "interop", "core-crypto.mjs")},
		"openmls":     {filepath.Join(cargo, "openmls-peer")},
		"mls-rs":      {filepath.Join(cargo, "mls-rs-peer")},
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
	ID          int       `json:"id"`
	OK          bool      `json:"ok"`
	Error       string    `json:"error"`
	Rule        int       `json:"rule"`
	Name        string    `json:"name"`
	Version     string    `json:"version"`
	Suites      []int     `json:"suites"`
	Can         []string  `json:"can"`
	KeyPackage  []byte    `json:"key_package"`
	Commit      []byte    `json:"commit"`
	Welcome     []byte    `json:"welcome"`
	RatchetTree []byte    `json:"ratchet_tree"`
	Proposal    []byte    `json:"proposal"`
	GroupInfo   []byte    `json:"group_info"`
	Group       []byte    `json:"group"`
	Message     []byte    `json:"message"`
	Data        []byte    `json:"data"`
	AAD         []byte    `json:"aad"`
	Sender      *uint32   `json:"sender"`
	Secret      []byte    `json:"secret"`
	Removed     bool      `json:"removed"`
	State       *mlsState `json:"state"`
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
