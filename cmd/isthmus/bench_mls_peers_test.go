//go:build bench

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/mls/group"
)

// Groups of mlsPeerSize members are what all peers can make in a reasonable
// time: most of them are quadratic.
const mlsPeerSize = 1_000

// mlsPeerPatience bounds the bench of one peer.
const mlsPeerPatience = 150 * time.Second

// benchPeer has a peer measure itself, and measures its warm group from here.
func benchPeer(t *testing.T, programs mlsProgramTable, name string, crowd *mlsCrowd, n int) mlsTimes {
	m := mlsTimes{}
	ctx, cancel := context.WithTimeout(t.Context(), mlsPeerPatience)
	defer cancel()
	args := append(programs[name][1:len(programs[name]):len(programs[name])], "bench", fmt.Sprint(n))
	cmd := exec.CommandContext(ctx, programs[name][0], args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s bench %d: %v", name, n, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var line struct {
			Op string
			N  int
			MS float64
		}
		must(t, json.Unmarshal(lines.Bytes(), &line))
		m.set(line.Op, line.N, line.MS)
	}
	s := &mlsSampler{t, n, 5 * time.Second, 3, map[string][]float64{}, nil}
	s.warmPeer(startMLSPeer(t, programs, name), crowd)
	s.keep(m)
	for _, op := range []string{"update_create", "update_process", "add_create", "add_process", "remove_create", "remove_process"} {
		m.set(op+"_warm", n, m[op+"_warm"][n]-m["state"][n])
	}
	return m
}

// warmPeer puts two clients of a peer's into a warm group of ours and times
// what they do. What the protocol of lines costs, with its list of members in
// every answer, is that of a bare request for the state.
func (s *mlsSampler) warmPeer(p *mlsPeer, crowd *mlsCrowd) {
	t := s.t
	clients := [2]string{"maker", "other"}
	call := func(client int, op string, f mlsFields) *mlsAnswer {
		t.Helper()
		f["client"], f["group"] = clients[client], []byte(mlsBenchGroup)
		a := p.call(t, op, f)
		if !a.OK {
			t.Fatalf("%s, asked for %s: %s", p.name, op, a.Error)
		}
		return a
	}
	g := crowd.warm(t, s.n-len(clients))
	var packages [][]byte
	for i := range clients {
		name := fmt.Sprintf("6f1b2c3d-0000-4000-8000-%012x:%x@example.com", 1<<30+i, 1<<30+i)
		packages = append(packages, call(i, "key_package", mlsFields{"suite": mlsBenchSuite, "identity": name}).KeyPackage)
	}
	adds, err := crowd.adds(packages...)
	must(t, err)
	made, err := commitMLS(g.a, group.CommitOptions{Proposals: adds})
	must(t, err)
	for i := range clients {
		call(i, "join", mlsFields{"welcome": made.Welcome})
	}
	for i := range clients {
		commit := call(i, "update", mlsFields{}).Commit
		call(1-i, "process", mlsFields{"message": commit})
		must(t, processMLS(g.a, commit))
	}
	both := func(kind, op string, f mlsFields) {
		s.time("state", func() error { call(0, "state", mlsFields{}); return nil })
		var commit []byte
		s.time(kind+"_create_warm", func() error { commit = call(0, op, f).Commit; return nil })
		s.time(kind+"_process_warm", func() error { call(1, "process", mlsFields{"message": commit}); return nil })
	}
	s.repeat(15, func() {
		both("update", "update", mlsFields{})
		both("add", "add", mlsFields{"key_packages": [][]byte{g.newcomer()}})
		both("remove", "remove", mlsFields{"members": []int{s.n}})
	})
}

// mlsFacts are figures of implementations that cannot be had from a package
// registry, in C++ and in Go, measured on another day on such a machine. For
// operations in a warm group that were not measured they are of a cold one.
var mlsFacts = map[string]mlsTimes{
	"mlspp": {
		"create":              {1_000: 1016, 10_000: 68319},
		"join":                {1_000: 78.1, 10_000: 832},
		"update_create_cold":  {1_000: 81.6, 10_000: 880},
		"update_process_cold": {1_000: 11.5, 10_000: 249},
		"update_create_warm":  {1_000: 10.7},
		"update_process_warm": {1_000: 8.97},
		"add_create_warm":     {1_000: 11.6, 10_000: 140},
		"add_process_warm":    {1_000: 3.10, 10_000: 81.9},
		"remove_process_warm": {1_000: 9.65, 10_000: 205},
		"encrypt_1k":          {1_000: 0.074, 10_000: 0.078},
		"decrypt_1k":          {1_000: 0.162, 10_000: 0.159},
		"update_follow_warm":  {1_000: 0.412},
	},
	"Go": {
		"create":              {1_000: 371, 10_000: 17502},
		"join":                {1_000: 91.4, 10_000: 770},
		"update_create_cold":  {1_000: 65.0, 10_000: 530},
		"update_process_cold": {1_000: 8.00, 10_000: 89.5},
		"update_create_warm":  {1_000: 17.7},
		"update_process_warm": {1_000: 17.1},
		"add_create_warm":     {1_000: 62.0, 10_000: 600},
		"add_process_warm":    {1_000: 12.1, 10_000: 82.9},
		"remove_process_warm": {1_000: 7.65, 10_000: 80.6},
		"encrypt_1k":          {1_000: 0.025, 10_000: 0.028},
		"decrypt_1k":          {1_000: 0.044, 10_000: 0.045},
	},
}
