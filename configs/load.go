package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration or secret file: a hundred times what one with
// all keys needs, and too little to hurt when a name points at a disk image.
const maxFile = 1 << 20

// EnvPrefix begins every environment variable that sets a key.
const EnvPrefix = "ISTHMUS_"

// envOther are variables with our prefix that set no key: CONFIG names the file,
// CHAT_PASSPHRASE opens what isthmus chat keeps, the others tell the tests where
// their vectors and peers are.
var envOther = regexp.MustCompile(`^ISTHMUS_(CONFIG|CHAT_PASSPHRASE|VECTORS|SYNAPSE|POSTGRES|TEST_.*)$`)

// An Error says what is wrong with a configuration, one line per problem; each
// line names the file and line, or the key.
type Error struct{ Problems []string }

func (e *Error) Error() string { return strings.Join(e.Problems, "\n") }

func problem(format string, args ...any) error {
	return &Error{Problems: []string{fmt.Sprintf(format, args...)}}
}

// Load reads the default, then file ("" = none), then the variables of environ
// ("NAME=value") that begin with ISTHMUS_, then applies set, and checks the
// whole. Every failure is an *Error.
func Load(file string, environ []string, set ...func(*Config)) (*Config, error) {
	if file == "" {
		return Parse("", nil, environ, set...)
	}
	text, err := readBounded(file)
	if err != nil {
		return nil, problem("%s: %v", file, reason(err))
	}
	return Parse(file, text, environ, set...)
}

// Parse is Load of a text that stands, or will stand, in file.
func Parse(file string, text []byte, environ []string, set ...func(*Config)) (*Config, error) {
	v := viper.New()
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(Default)); err != nil {
		return nil, problem("default.yaml: %v", err)
	}
	if err := Check(file, text); err != nil {
		return nil, err
	}
	if err := v.MergeConfig(bytes.NewReader(text)); err != nil {
		return nil, problem("%s: %v", file, err)
	}
	if err := overlay(v, environ); err != nil {
		return nil, err
	}
	c, err := decode(v)
	if err != nil {
		return nil, err
	}
	for _, f := range set {
		f(c)
	}
	c.fill()
	return c, c.Validate()
}

// Check decodes text strictly: unknown and repeated keys, wrong kinds of value
// and missing units are problems, each with its line.
func Check(file string, text []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	err := dec.Decode(new(Config))
	if errors.Is(err, io.EOF) {
		return nil // nothing but comments: all defaults
	}
	if err == nil {
		if err = dec.Decode(new(yaml.Node)); errors.Is(err, io.EOF) {
			return nil
		}
		return problem("%s: more than one YAML document", file)
	}
	typed, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		return &Error{Problems: []string{inWords(file, strings.TrimPrefix(err.Error(), "yaml: "))}}
	}
	e := new(Error)
	for _, s := range typed.Errors {
		e.Problems = append(e.Problems, inWords(file, s))
	}
	return e
}

var (
	atLineText   = regexp.MustCompile(`^line (\d+): (?s)(.*)$`)
	unknownField = regexp.MustCompile(`^field (.*) not found in type \S+$`)
	wrongKind    = regexp.MustCompile("^cannot unmarshal !!\\w+ (?:`(.*)` )?into (.*)$")
)

// inWords turns a decoder's message into file:line: what an operator can act on.
func inWords(file, s string) string {
	line := ""
	if m := atLineText.FindStringSubmatch(s); m != nil {
		line, s = ":"+m[1], m[2]
	}
	if m := unknownField.FindStringSubmatch(s); m != nil {
		s = fmt.Sprintf("unknown key %q", m[1])
	} else if m := wrongKind.FindStringSubmatch(s); m != nil {
		s = fmt.Sprintf("%q is not a %s", m[1], kindWords(m[2]))
	}
	return file + line + ": " + s
}

func kindWords(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return "list"
	case strings.HasPrefix(goType, "configs."):
		return "section with keys"
	case goType == "int":
		return "whole number"
	case goType == "bool":
		return "true or false"
	}
	return goType
}

// overlay sets the keys that environ names. A variable that names no key is
// refused like an unknown key, for the same reason.
func overlay(v *viper.Viper, environ []string) error {
	known := map[string]string{}
	for _, key := range v.AllKeys() {
		known[EnvPrefix+strings.ToUpper(strings.ReplaceAll(key, ".", "_"))] = key
	}
	e := new(Error)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		key, ok := known[name]
		switch {
		case ok && isList(v.Get(key)):
			e.Problems = append(e.Problems, fmt.Sprintf("%s: %s is a list; it is set in the file", name, key))
		case ok:
			v.Set(key, value)
		case strings.HasPrefix(name, EnvPrefix) && !envOther.MatchString(name):
			e.Problems = append(e.Problems, fmt.Sprintf("%s: no key has this name", name))
		}
	}
	if len(e.Problems) == 0 {
		return nil
	}
	slices.Sort(e.Problems)
	return e
}

func isList(v any) bool { return v != nil && reflect.TypeOf(v).Kind() == reflect.Slice }

func decode(v *viper.Viper) (*Config, error) {
	c := new(Config)
	err := v.UnmarshalExact(c, func(d *mapstructure.DecoderConfig) {
		d.TagName = "yaml"
		d.DecodeHook = mapstructure.TextUnmarshallerHookFunc()
	})
	if err == nil {
		return c, nil
	}
	// The files were checked before: what is left are values from the environment.
	e := new(Error)
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); strings.Contains(line, "'") {
			e.Problems = append(e.Problems, "environment: "+strings.TrimPrefix(line, "* "))
		}
	}
	if len(e.Problems) == 0 {
		return nil, problem("environment: %v", err)
	}
	return nil, e
}

// ReadSecret returns value if it is set, else what stands in the file, without
// the white space around it. The file is one of c's, or absolute.
func (c *Config) ReadSecret(value Secret, file string) (Secret, error) {
	if value != "" || file == "" {
		return value, nil
	}
	b, err := readBounded(c.Path(file))
	if err != nil {
		return "", problem("%s: %v", c.Path(file), reason(err))
	}
	return Secret(bytes.TrimSpace(b)), nil
}

// DatabaseURL returns the database's URL; "" is SQLite in the data directory.
func (c *Config) DatabaseURL() (Secret, error) {
	if c.Database.URLFile == "" {
		return c.Database.URL, nil
	}
	return c.ReadSecret("", c.Database.URLFile)
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("larger than %d octets", maxFile)
	}
	return b, err
}

// reason strips the operation and name that the os package puts in front: the
// caller names the file.
func reason(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}
