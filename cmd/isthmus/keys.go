package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/isthmus-chat/isthmus/bridges/native"
	"github.com/isthmus-chat/isthmus/configs"
)

// secretOctets is the strength of tokens and of the cloak secret: 256 bits.
const secretOctets = 32

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
		{"key_file", cfg.Path(cfg.KeyFile), newKey},
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
// and returns which it made. An existing file is never written to.
func makeSecrets(cfg *configs.Config) (made []string, err error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, &configs.Error{Problems: []string{"data_dir: " + err.Error()}}
	}
	for _, s := range secretFiles(cfg) {
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
