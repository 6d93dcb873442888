package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/store"
)

// Where a device keeps what, below its profile's directory.
const (
	profileName    = "profile.json"
	profileStore   = "chat.db"
	profileHolder  = "holder.json"
	maxProfile     = 64 << 10
	maxProfiles    = 1000
	chatPassphrase = "ISTHMUS_CHAT_PASSPHRASE"
	chatKeySize    = 32
)

// A chatProfile is a device on this machine: what is kept in the clear. One user
// of one homeserver has one profile in one directory.
type chatProfile struct {
	User    core.UserURI `json:"user"`
	Server  string       `json:"server"`             // https://a.example
	CA      string       `json:"ca,omitempty"`       // file with further certificate authorities
	KeyFile string       `json:"key_file,omitempty"` // opens the store; "" = a passphrase does

	dir string
}

// chatFlags are what all verbs of isthmus chat share.
type chatFlags struct {
	dir, as, keyFile string
	wait             time.Duration
}

// chatBase returns the directory of the profiles: --dir, or isthmus-chat below
// $XDG_DATA_HOME (https://specifications.freedesktop.org/basedir-spec).
func (c *cli) chatBase(f *chatFlags) (string, error) {
	if f.dir != "" {
		return filepath.Abs(f.dir)
	}
	env := envList(c.environ)
	if x := env.Getenv("XDG_DATA_HOME"); filepath.IsAbs(x) {
		return filepath.Join(x, "isthmus-chat"), nil
	}
	if home := env.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "share", "isthmus-chat"), nil
	}
	return "", core.Errorf(core.Invalid, "there is no home directory: name one with --dir")
}

// profileDir is where the profile of a user lies.
func profileDir(base string, user core.UserURI) string {
	return filepath.Join(base, url.PathEscape(strings.Join(user.Path(), "/"))+"@"+url.PathEscape(user.Domain()))
}

// chatProfile finds the profile to use: that of --as, or the only one.
func (c *cli) chatProfile(f *chatFlags) (*chatProfile, error) {
	base, err := c.chatBase(f)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(base, "*", profileName))
	if err != nil || len(files) > maxProfiles {
		return nil, core.Errorf(core.Invalid, "%s cannot be read as a directory of profiles", base)
	}
	var found []*chatProfile
	var names []string
	for _, file := range files {
		p, err := readProfile(file)
		if err != nil {
			return nil, err
		}
		name := shortUser(p.User, "")
		if f.as != "" && f.as != name && f.as != string(p.User) && f.as != strings.Join(p.User.Path(), "/") {
			continue
		}
		found, names = append(found, p), append(names, name)
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && f.as == "":
		return nil, core.Errorf(core.NotFound, "no device yet: `isthmus chat login alice@a.example` makes one")
	case len(found) == 0:
		return nil, core.Errorf(core.NotFound, "there is no device of %s here: `isthmus chat login` makes one", screenLine(f.as))
	}
	return nil, core.Errorf(core.Conflict, "choose with --as: %s", strings.Join(names, ", "))
}

func readProfile(file string) (*chatProfile, error) {
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxProfile {
		err = fs.ErrInvalid
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file)
	}
	p := &chatProfile{dir: filepath.Dir(file)}
	if err == nil {
		err = json.Unmarshal(text, p)
	}
	if err == nil {
		_, err = core.ParseUserURI(string(p.User))
	}
	if err != nil {
		return nil, core.Errorf(core.Invalid, "%s: %w", file, err)
	}
	return p, nil
}

// write keeps the profile: whole or not at all.
func (p *chatProfile) write() error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return core.Errorf(core.Unavailable, "profile: %w", err)
	}
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return core.Errorf(core.Internal, "profile: %w", err)
	}
	file := filepath.Join(p.dir, profileName)
	if err := os.WriteFile(file+".new", append(text, '\n'), 0o600); err != nil {
		return core.Errorf(core.Unavailable, "profile: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return core.Errorf(core.Unavailable, "profile: %w", err)
	}
	return nil
}

// chatSecret asks for what opens the store. One that is made now is asked for
// twice; a key file that is not there yet is made.
func (c *cli) chatSecret(f *chatFlags, p *chatProfile, fresh bool) (client.Secret, error) {
	if f.keyFile != "" {
		file, err := filepath.Abs(f.keyFile)
		if err != nil {
			return client.Secret{}, core.Errorf(core.Invalid, "--key-file: %w", err)
		}
		p.KeyFile = file
	}
	if p.KeyFile != "" {
		key, err := keyFile(p.KeyFile, fresh)
		return client.Secret{Key: key}, err
	}
	if pass := envList(c.environ).Getenv(chatPassphrase); pass != "" {
		return client.Secret{Passphrase: []byte(pass)}, nil
	}
	in, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return client.Secret{}, core.Errorf(core.Invalid, "no passphrase: set %s, or give --key-file", chatPassphrase)
	}
	fmt.Fprintf(c.err, "The passphrase protects your keys and messages on this machine.\n")
	ask := func(prompt string) (string, error) {
		fmt.Fprint(c.err, prompt)
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(c.err)
		return string(b), err
	}
	pass, err := ask("Passphrase: ")
	if err == nil && fresh {
		var again string
		if again, err = ask("Again: "); err == nil && again != pass {
			err = core.Errorf(core.Invalid, "the two passphrases differ")
		}
	}
	if err == nil && pass == "" {
		err = core.Errorf(core.Invalid, "an empty passphrase protects nothing")
	}
	return client.Secret{Passphrase: []byte(pass)}, err
}

// keyFile reads a key of 32 octets; with fresh it makes one if there is none.
func keyFile(file string, fresh bool) ([]byte, error) {
	key, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && fresh {
		key = make([]byte, chatKeySize)
		rand.Read(key) // never fails: it ends the program if the system has no randomness
		var w *os.File
		if w, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			_, err = w.Write(key)
			err = errors.Join(err, w.Sync(), w.Close())
		}
	}
	if err != nil {
		return nil, core.Errorf(core.NotFound, "key file: %w", err)
	}
	if len(key) != chatKeySize {
		return nil, core.Errorf(core.Invalid, "%s is no key file: it has %d octets, not %d", file, len(key), chatKeySize)
	}
	return key, nil
}

// A holder is a process that has a device for long: others do not wait for it.
type holder struct {
	PID  int    `json:"pid"`
	What string `json:"what"`
}

// What a holder is, and how long it is waited for: it may be about to end.
const (
	holdScreen = "screen"
	holdTail   = "tail"
	holdWait   = time.Second
)

// hold says to other processes what this one is that has the device, until release.
func (p *chatProfile) hold(what string) (release func(), err error) {
	text, err := json.Marshal(holder{os.Getpid(), what})
	file := filepath.Join(p.dir, profileHolder)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		return nil, core.Errorf(core.Unavailable, "profile: %w", err)
	}
	return func() { os.Remove(file) }, nil // one that stays names a process that is gone
}

// held says who has the device for long, "" if nobody is known to. Only its store
// says that it is in use at all: this says by whom.
func (p *chatProfile) held() string {
	text, err := os.ReadFile(filepath.Join(p.dir, profileHolder))
	var h holder
	if err != nil || json.Unmarshal(text, &h) != nil || h.PID <= 0 {
		return ""
	}
	process, err := os.FindProcess(h.PID)
	if err == nil { // asks whether it is there, and sends nothing
		err = process.Signal(syscall.Signal(0))
	}
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return ""
	}
	switch h.What {
	case holdScreen:
		return fmt.Sprintf("the full-screen client of this device is running (process %d): end it first, or type there what is to be done (/help)", h.PID)
	case holdTail:
		return fmt.Sprintf("`isthmus chat tail` is running with this device (process %d): end it first", h.PID)
	}
	return ""
}

// open opens the profile's store. Another process that has it is waited for, unless
// it has it for long: two at once would use the same keys twice.
func (p *chatProfile) open(ctx context.Context, secret client.Secret, wait time.Duration) (*store.DB, client.KV, error) {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, nil, core.Errorf(core.Unavailable, "profile: %w", err)
	}
	o := store.Options{URL: "sqlite:" + filepath.Join(p.dir, profileStore), Homeserver: p.User.Domain(), Log: slog.New(slog.DiscardHandler)}
	db, err := store.Open(ctx, o)
	begun := time.Now()
	for core.CodeOf(err) == core.Unavailable && err != nil && time.Since(begun) < wait {
		if wait == chatWait && time.Since(begun) >= holdWait && p.held() != "" {
			break // with another --wait one wants to
		}
		select {
		case <-ctx.Done():
			return nil, nil, core.Errorf(core.Unavailable, "interrupted")
		case <-time.After(50 * time.Millisecond):
		}
		db, err = store.Open(ctx, o)
	}
	if core.CodeOf(err) == core.Unavailable && err != nil {
		text := cmp.Or(p.held(), "another isthmus chat uses this device: end it, or wait longer with --wait")
		return nil, nil, &core.Error{Code: core.Unavailable, Err: err, Text: text}
	}
	if err != nil {
		return nil, nil, err
	}
	kv, err := client.Seal(ctx, db, secret, rand.Reader)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, kv, nil
}
