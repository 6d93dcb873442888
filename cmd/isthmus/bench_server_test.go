//go:build bench

package main_test

import (
	"bytes"
	"embed"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"
)

// Servers run as processes of their own, so that their processor time and
// memory are theirs alone.

//go:embed testdata/bench
var benchFiles embed.FS

// A peer says how to start one kind of server.
type peer struct {
	name     string
	binary   string
	args     []string // {{.Dir}} and {{.Config}} are replaced
	config   string   // template in testdata/bench
	parallel int      // registrations at once; 0 = all
}

// The peers are Debian's packages with their throttles off. InspIRCd finishes
// registrations on a tick of one second, so it gets all clients at once; ngIRCd
// listens with a backlog of 10, so it gets few at once.
func peers(isthmus string) []peer {
	return []peer{
		{name: "isthmus", binary: isthmus, args: []string{"serve", "--config", "{{.Config}}"}, config: "isthmus.yaml", parallel: 64},
		{name: "ngIRCd", binary: "/usr/sbin/ngircd", args: []string{"-n", "-f", "{{.Config}}"}, config: "ngircd.conf", parallel: 8},
		{name: "InspIRCd", binary: "/usr/sbin/inspircd", args: []string{"--nofork", "--nopid", "--runasroot", "--config", "{{.Config}}"}, config: "inspircd.conf", parallel: 1000},
	}
}

// A server is a running one.
type server struct {
	peer
	port int // IRC, on 127.0.0.1
	http int // isthmus only
	dir  string
	cmd  *exec.Cmd
	gone chan struct{}
}

// A setup is what one measure wants of a server.
type setup struct {
	sink   string           // URL of a Matrix homeserver, "" for none
	before func(dir string) // puts files into its directory before it starts
	vars   map[string]any   // further ones for the configuration
	env    []string         // further environment
}

// start runs p on free ports with a directory of its own, and waits until it
// accepts connections. The test fails if the server is not installed.
func start(t testing.TB, p peer, o setup) *server {
	t.Helper()
	s := &server{peer: p, port: freePort(t), http: freePort(t), dir: t.TempDir(), gone: make(chan struct{})}
	vars := map[string]any{"Dir": s.dir, "Port": s.port, "HTTP": s.http, "Config": filepath.Join(s.dir, p.config), "Sink": o.sink}
	maps.Copy(vars, o.vars)
	if o.before != nil {
		o.before(s.dir)
	}
	text, err := benchFiles.ReadFile("testdata/bench/" + p.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vars["Config"].(string), expand(t, string(text), vars), 0o600); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, a := range p.args {
		args = append(args, string(expand(t, a, vars)))
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(p.binary, args...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, log, log
	s.cmd.Env = append(os.Environ(), o.env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("%s does not start (make bench-deps installs the peers): %v", p.name, err)
	}
	go func() { s.cmd.Wait(); close(s.gone) }()
	t.Cleanup(s.stop)
	s.ready(t)
	return s
}

func expand(t testing.TB, text string, vars map[string]any) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := template.Must(template.New("").Option("missingkey=error").Parse(text)).Execute(&b, vars); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (s *server) ready(t testing.TB) {
	t.Helper()
	for range 200 {
		if c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", s.port)); err == nil {
			c.Close()
			return
		}
		select {
		case <-s.gone:
			t.Fatalf("%s ended: %s", s.name, s.lastWords())
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not listen after 10 s: %s", s.name, s.lastWords())
}

func (s *server) lastWords() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(b[max(0, len(b)-2000):])
}

func (s *server) stop() {
	s.cmd.Process.Kill()
	<-s.gone
}

// cpu is the processor time the server has used, in user and kernel.
func (s *server) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:])) // from field 3 of proc(5)
	utime, _ := strconv.Atoi(f[11])
	stime, _ := strconv.Atoi(f[12])
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	return time.Duration(utime+stime) * tick
}

// ownCPU is the processor time of the generator itself.
func ownCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// rss is the server's resident memory in KiB.
func (s *server) rss() float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	kib, _ := strconv.ParseFloat(f[0], 64)
	return kib
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
