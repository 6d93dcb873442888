package main

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptPatience bounds how long a script waits for a server to come to
// something: a Matrix homeserver takes ten seconds to start, on a busy machine
// several times that.
const scriptPatience = 90 * time.Second

// The scripts in testdata/script show the command line at work; they are meant
// to be read. Beside testscript's own commands they use:
//
//	isthmus ARGS…   run it and wait (! isthmus = it must fail)
//	code N          the last isthmus ended with this exit code
//	ready           wait until the server in the background is ready
//	signal NAME     send HUP or TERM to it
//	motd REGEXP     connect with IRC until the message of the day matches
//	get PATH        fetch from the HTTP address: the status and body become stdout
//	answers URL     wait until something answers there
//	mode FILE OCTAL the file has this mode
//	oldschema FILE  the SQLite database has the first schema
//
// $IRC and $HTTP are free addresses, $MATRIX_PORT a free port; ISTHMUS_HTTP_ADDRESS
// is set to $HTTP. $SYNAPSE_PYTHON $SYNAPSE runs a real Matrix homeserver.
func TestScripts(t *testing.T) {
	bin := filepath.Dir(built(t))
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	codes := &exitCodes{last: map[*testscript.TestScript]int{}}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
			e.Setenv("IRC", freeAddress(t))
			e.Setenv("HTTP", freeAddress(t))
			e.Setenv("ISTHMUS_HTTP_ADDRESS", e.Getenv("HTTP"))
			_, port, _ := net.SplitHostPort(freeAddress(t))
			e.Setenv("MATRIX_PORT", port)
			e.Setenv("SYNAPSE_PYTHON", filepath.Join(top, ".cache/synapse/bin/python"))
			e.Setenv("SYNAPSE", filepath.Join(top, ".ci/synapse"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"isthmus": codes.isthmus, "code": codes.check,
			"ready": scriptReady, "signal": scriptSignal, "motd": scriptMOTD, "get": scriptGet, "answers": scriptAnswers, "mode": scriptMode,
			"oldschema": scriptOldSchema,
		},
	})
}

type exitCodes struct {
	mu   sync.Mutex
	last map[*testscript.TestScript]int
}

func (c *exitCodes) isthmus(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("isthmus", args...)
	code := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	} else {
		ts.Check(err)
	}
	c.mu.Lock()
	c.last[ts] = code
	c.mu.Unlock()
	if neg && code == 0 {
		ts.Fatalf("isthmus succeeded")
	}
	if !neg && code != 0 {
		ts.Fatalf("isthmus failed with code %d", code)
	}
}

func (c *exitCodes) check(ts *testscript.TestScript, _ bool, args []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := strconv.Itoa(c.last[ts]); len(args) != 1 || got != args[0] {
		ts.Fatalf("exit code is %s, want %v", got, args)
	}
}

// eventually calls try until it returns nil.
func eventually(ts *testscript.TestScript, try func() error) {
	end := time.Now().Add(scriptPatience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("still after %v: %v", scriptPatience, err)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

func fetch(ts *testscript.TestScript, path string) (*http.Response, []byte, error) {
	r, err := http.Get("http://" + ts.Getenv("HTTP") + path)
	if err != nil {
		return nil, nil, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	return r, body, err
}

// scriptOldSchema takes migration 0002 back in an SQLite file, as the version before
// would have left it.
func scriptOldSchema(ts *testscript.TestScript, _ bool, args []string) {
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	_, err = db.Exec(`CREATE TABLE was (bucket TEXT NOT NULL, name TEXT NOT NULL, data BYTEA NOT NULL, PRIMARY KEY (bucket, name)) WITHOUT ROWID;
		INSERT INTO was SELECT bucket, name, data FROM kv; DROP TABLE kv; ALTER TABLE was RENAME TO kv;
		DELETE FROM migrations WHERE number = 2`)
	ts.Check(err)
}

func scriptReady(ts *testscript.TestScript, _ bool, _ []string) {
	eventually(ts, func() error {
		r, body, err := fetch(ts, "/readyz")
		if err == nil && r.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s %s", r.Status, body)
		}
		return err
	})
}

func scriptGet(ts *testscript.TestScript, _ bool, args []string) {
	r, body, err := fetch(ts, args[0])
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s\n%s", r.Status, body)
}

func scriptAnswers(ts *testscript.TestScript, _ bool, args []string) {
	eventually(ts, func() error {
		r, err := http.Get(args[0])
		if err == nil {
			r.Body.Close()
		}
		return err
	})
}

func scriptSignal(ts *testscript.TestScript, _ bool, args []string) {
	sig, ok := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}[args[0]]
	cmds := ts.BackgroundCmds()
	if !ok || len(cmds) != 1 {
		ts.Fatalf("signal %v to %d commands", args, len(cmds))
	}
	ts.Check(cmds[0].Process.Signal(sig))
}

func scriptMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

func scriptMOTD(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(args[0])
	eventually(ts, func() error {
		text, err := motd(ts.Getenv("IRC"))
		if err == nil && !want.MatchString(text) {
			err = fmt.Errorf("the message of the day is %q", text)
		}
		return err
	})
}

// motd registers with an IRC server and returns what it shows as its message of
// the day.
func motd(address string) (string, error) {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "NICK reader\r\nUSER reader 0 * :reader\r\nQUIT\r\n")
	var b strings.Builder
	for s := bufio.NewScanner(c); s.Scan(); {
		if f := strings.SplitN(s.Text(), " ", 4); len(f) == 4 && f[1] == "372" {
			b.WriteString(f[3] + "\n")
		}
	}
	return b.String(), nil
}
