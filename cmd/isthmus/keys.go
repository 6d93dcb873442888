package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/isthmus-chat/isthmus/bridges/native"
	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

// secretOctets is the strength of tokens and of the cloak secret: 256 bits.
const secretOctets = 32

// keyFileKey is the configuration key that names the file with the homeserver's key.
const keyFileKey = "key_file"

// A secretFile is a file that the configuration names and that isthmus makes.
type secretFile struct {
	key  string // the configuration key that names it
	path string
	make func() ([]byte, error)
}

// secretFiles lists what cfg needs: the homeserver's key, the cloak secret, and
// each Matrix homeserver's tokens, unless they stand in the configuration.
func secretFiles(cfg *configs.Config) []secretFile {
	files := []secretFile{
		{keyFileKey, cfg.Path(cfg.KeyFile), newKey},
		{"irc.cloak_secret_file", cfg.Path(cfg.IRC.CloakSecretFile), newToken},
	}
	if a := cfg.API; a.Registration == native.RegistrationToken && a.RegistrationToken == "" {
		files = append(files, secretFile{"api.registration_token_file", cfg.Path(a.RegistrationTokenFile), newToken})
	}
	for i, m := range cfg.Matrix {
		if m.ASToken == "" {
			files = append(files, secretFile{fmt.Sprintf("matrix[%d].as_token_file", i), cfg.Path(m.ASTokenFile), newToken})
		}
		if m.HSToken == "" {
			files = append(files, secretFile{fmt.Sprintf("matrix[%d].hs_token_file", i), cfg.Path(m.HSTokenFile), newToken})
		}
	}
	return files
}

// makeSecrets makes the data directory and those secret files that do not exist,
// and returns which it made. An existing file is never written to, and no key is made
// for a homeserver that has had one: Denied says to put that back. Where the database
// cannot be asked now, the key is left for later.
func makeSecrets(ctx context.Context, cfg *configs.Config) (made []string, err error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, &configs.Error{Problems: []string{"data_dir: " + err.Error()}}
	}
	asked := missingKey(ctx, cfg)
	if asked != nil && core.CodeOf(asked) != core.Unavailable {
		return nil, asked
	}
	for _, s := range secretFiles(cfg) {
		if s.key == keyFileKey && asked != nil {
			continue
		}
		text, err := s.make()
		if err != nil {
			return made, err
		}
		err = writeNew(s.path, text, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return made, &configs.Error{Problems: []string{s.key + ": " + err.Error()}}
		}
		made = append(made, s.path)
	}
	return made, nil
}

// writeNew writes a file that does not exist yet, whole or not at all: a crash
// must not leave half a key behind.
func writeNew(path string, text []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".isthmus-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, werr := tmp.Write(text)
	if err := errors.Join(werr, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Link(tmp.Name(), path) // unlike a rename, refuses to replace
}

const keyType = "PRIVATE KEY"

func newKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), nil
}

func newToken() ([]byte, error) {
	b := make([]byte, secretOctets)
	rand.Read(b) // never fails: it ends the program if the system has no randomness
	return []byte(base64.RawURLEncoding.EncodeToString(b) + "\n"), nil
}

// missingKey returns nil if the file with the homeserver's key is there, or if it is
// missing because there was no key yet.
func missingKey(ctx context.Context, cfg *configs.Config) error {
	if _, err := os.Stat(cfg.Path(cfg.KeyFile)); !errors.Is(err, fs.ErrNotExist) || !hasDatabase(cfg) {
		return nil
	}
	db, err := openStore(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer db.Close()
	return checkKey(ctx, cfg, db)
}

// checkKey holds the homeserver's key against its record in the database, if it has one.
func checkKey(ctx context.Context, cfg *configs.Config, db *store.DB) error {
	if db.Schema() == "" {
		return nil
	}
	var known []ed25519.PublicKey
	err := db.View(ctx, func(r core.Reader) error {
		chain, err := core.HomeserverOf(r, cfg.Domain)
		if core.CodeOf(err) == core.NotFound {
			return nil // it has never served
		}
		if err != nil {
			return err
		}
		for _, k := range chain.Head().Keys {
			known = append(known, k.Key)
		}
		return nil
	})
	if err != nil || known == nil {
		return err
	}
	return compareKey(cfg, known...)
}

// compareKey is Denied unless the key in the file is one of known.
func compareKey(cfg *configs.Config, known ...ed25519.PublicKey) error {
	file := absolute(cfg.Path(cfg.KeyFile))
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return core.Errorf(core.Denied, "%s is missing, and no new key would do: the database has a record of the key of %s. Put the old file back", file, cfg.Domain)
	}
	key, err := readKey(cfg)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(known, func(k ed25519.PublicKey) bool { return k.Equal(key.Public()) }) {
		return core.Errorf(core.Denied, "%s is not the key of %s that the database has a record of: put the old file back", file, cfg.Domain)
	}
	return nil
}

// readKey reads the homeserver's key.
func readKey(cfg *configs.Config) (ed25519.PrivateKey, error) {
	text, err := cfg.ReadSecret("", cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	bad := &configs.Error{Problems: []string{"key_file: not an Ed25519 key in PKCS #8 PEM"}}
	block, _ := pem.Decode([]byte(text.Reveal()))
	if block == nil || block.Type != keyType {
		return nil, bad
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := k.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, bad
	}
	return key, nil
}
