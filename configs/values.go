package configs

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const second = time.Second

// A Duration is a time.Duration that is written with a unit: 5 alone is refused,
// because nobody can tell what its writer meant.
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration reads, but for a bare 0.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || string(b) == "0" {
		return fmt.Errorf("%q is not a duration: write it with a unit, such as 5s, 2m or 1h", b)
	}
	if v < 0 {
		return fmt.Errorf("%q is a negative duration", b)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalYAML reads the scalar as it was written, so that a number is refused.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	return atLine(n, d.UnmarshalText([]byte(n.Value)))
}

// MarshalText writes the duration with its units.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// A Size is a number of octets that is written with a unit: B, KiB, MiB or GiB.
type Size int64

var sizeUnits = []struct {
	suffix string
	octets int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText reads 512B, 64KiB, 16MiB, 1GiB.
func (s *Size) UnmarshalText(b []byte) error {
	const most = 1 << 40 // more than any limit here can mean; keeps the product in range
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(string(b), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > most/u.octets {
			break
		}
		*s = Size(n * u.octets)
		return nil
	}
	return fmt.Errorf("%q is not a size: write it with a unit, such as 512B, 64KiB or 16MiB", b)
}

// UnmarshalYAML reads the scalar as it was written, so that a number is refused.
func (s *Size) UnmarshalYAML(n *yaml.Node) error { return atLine(n, s.UnmarshalText([]byte(n.Value))) }

// MarshalText writes the size in octets.
func (s Size) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%dB", int64(s)), nil }

// A Secret never shows itself: not in logs, not in JSON, not with %v.
type Secret string

const hidden = "[secret]"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// LogValue hides the value from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the value from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal returns the value, for the one place that must show it.
func (s Secret) Reveal() string { return string(s) }

// atLine adds the line in front, in the words that the YAML decoder uses itself.
func atLine(n *yaml.Node, err error) error {
	if err == nil {
		return nil
	}
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %v", n.Line, err)}}
}
