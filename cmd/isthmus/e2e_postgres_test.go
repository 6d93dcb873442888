package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// A postgresServer is a real PostgreSQL on loopback that a test can stop and
// start.
type postgresServer struct {
	t    *testing.T
	url  string
	dir  string
	port string
	bin  string
	cred *syscall.Credential // nil if we are not root, as whom it refuses to run
	cmd  *exec.Cmd
}

// newPostgres makes an empty server and starts it.
func newPostgres(t *testing.T) *postgresServer {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		t.Fatal("there is no PostgreSQL (make test installs it)")
	}
	dir, err := os.MkdirTemp("", "isthmus-e2e-postgres-") // not below the test's directory, which another user may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &postgresServer{t: t, dir: dir, bin: filepath.Dir(slices.Max(found))}
	if os.Geteuid() == 0 {
		p.becomePostgres()
	}
	_, p.port, _ = net.SplitHostPort(freeAddress(t))
	p.url = fmt.Sprintf("postgres://isthmus@127.0.0.1:%s/postgres?sslmode=disable", p.port)
	init := p.command("initdb", "-D", filepath.Join(dir, "data"), "-U", "isthmus", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	t.Cleanup(p.stop)
	p.start()
	return p
}

func (p *postgresServer) becomePostgres() {
	p.t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		p.t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	p.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(p.dir, uid, gid); err != nil {
		p.t.Fatal(err)
	}
}

func (p *postgresServer) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(p.bin, name), args...)
	c.Dir = p.dir
	// It must not outlive a test binary that is killed.
	c.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred, Pdeathsig: syscall.SIGQUIT}
	return c
}

func (p *postgresServer) start() {
	p.t.Helper()
	p.cmd = p.command("postgres", "-D", filepath.Join(p.dir, "data"), "-h", "127.0.0.1", "-p", p.port, "-k", p.dir)
	var out bytes.Buffer
	p.cmd.Stdout, p.cmd.Stderr = &out, &out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	for range 200 {
		if p.command("pg_isready", "-q", "-h", "127.0.0.1", "-p", p.port).Run() == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("PostgreSQL never answers: %s", out.String())
}

// socket is the server's URL for who shares no network with it, but the files.
func (p *postgresServer) socket() string {
	return fmt.Sprintf("postgres://isthmus@/postgres?host=%s&port=%s&sslmode=disable", p.dir, p.port)
}

// stop ends it as a crash would.
func (p *postgresServer) stop() {
	if p.cmd != nil {
		p.cmd.Process.Signal(syscall.SIGQUIT)
		p.cmd.Wait()
		p.cmd = nil
	}
}
