package core_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A bucket gives its burst and then one at a time; and the ones used last are
// remembered, however many there are.
func TestMeter(t *testing.T) {
	m := core.Meter{Burst: 3, Every: time.Minute}
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		key  string
		n    int
		late time.Duration
		wait time.Duration
	}{
		{"a", 2, 0, 0}, {"a", 2, 0, time.Minute}, {"a", 1, 0, 0}, {"a", 1, 0, time.Minute}, {"b", 9, 0, 0},
		{"a", 1, time.Minute, 0}, {"a", 3, 3 * time.Minute, time.Minute}, {"a", 3, 4 * time.Minute, 0},
	} {
		if got := m.Take(c.key, c.n, now.Add(c.late)); got != c.wait {
			t.Errorf("%d of %s after %v: %v, want %v", c.n, c.key, c.late, got, c.wait)
		}
	}
	if now := now.Add(-time.Hour); m.Take("a", 1, now) != time.Minute || m.Take("a", 3, now.Add(3*time.Minute)) != 0 {
		t.Error("a clock that ran backwards is waited for")
	}
	for i := range 1 << 15 {
		m.Take(strconv.Itoa(i), 3, now)
	}
	if m.Take("0", 1, now) == 0 || m.Take("b", 1, now) != 0 {
		t.Error("not the keys that were used last are remembered")
	}
}
