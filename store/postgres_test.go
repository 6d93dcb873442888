package store

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// A server is a real PostgreSQL that the tests start on loopback, or the one
// that ISTHMUS_TEST_POSTGRES names.
type server struct {
	url  string // of its maintenance database
	dir  string // "" if it is not ours to restart
	port int
	cred *syscall.Credential
	proc *exec.Cmd
}

const postgresBin = "/usr/lib/postgresql/15/bin"

var started *server

// postgres returns the server, starting it on first use. Without one the tests
// fail: half of the store would go untested.
var postgres = sync.OnceValues(func() (*server, error) {
	if u := os.Getenv("ISTHMUS_TEST_POSTGRES"); u != "" {
		return &server{url: u}, nil
	}
	s := &server{}
	var err error
	if s.dir, err = os.MkdirTemp("", "isthmus-postgres-"); err != nil {
		return nil, err
	}
	started = s
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		if s.cred, err = credential("postgres"); err != nil {
			return nil, err
		}
		if err := os.Chown(s.dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	init := s.command("initdb", "-D", filepath.Join(s.dir, "data"), "-U", "isthmus", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb (install postgresql-15): %w: %s", err, out)
	}
	s.url = fmt.Sprintf("postgres://isthmus@127.0.0.1:%d/postgres?sslmode=disable", s.port)
	return s, s.start()
})

func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func (s *server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(postgresBin, name), args...)
	c.Dir = s.dir
	// It must not outlive a test binary that is killed.
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Pdeathsig: syscall.SIGQUIT}
	return c
}

func (s *server) start() error {
	s.proc = s.command("postgres", "-D", filepath.Join(s.dir, "data"), "-h", "127.0.0.1", "-p", strconv.Itoa(s.port),
		"-k", s.dir, "-c", "fsync=on", "-c", "max_connections=60")
	logFile, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	s.proc.Stdout, s.proc.Stderr = logFile, logFile
	if err := s.proc.Start(); err != nil {
		return err
	}
	db, err := sql.Open("pgx", s.url)
	if err != nil {
		return err
	}
	defer db.Close()
	for range 200 { // 10 s
		if err = db.Ping(); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("PostgreSQL does not answer: %w", err)
}

// kill ends the server as a crash would.
func (s *server) kill() {
	s.proc.Process.Signal(syscall.SIGQUIT) // immediate shutdown: recovery at the next start
	s.proc.Wait()
}

var databases atomic.Int64

// database makes an empty database and returns its URL.
func (s *server) database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("isthmus_test_%d_%d", os.Getpid(), databases.Add(1))
	s.exec(t, "CREATE DATABASE "+name+" LC_COLLATE 'C.UTF-8' TEMPLATE template0")
	t.Cleanup(func() { s.exec(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func (s *server) exec(t testing.TB, q string) {
	t.Helper()
	db, err := sql.Open("pgx", s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), q); err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) {
	if u := os.Getenv("ISTHMUS_STORE_CHILD"); u != "" {
		os.Exit(child(u))
	}
	code := m.Run()
	if started != nil {
		if started.proc != nil {
			started.kill()
		}
		os.RemoveAll(started.dir)
	}
	os.Exit(code)
}
