package core

import (
	"container/list"
	"time"
)

// maxRecent bounds how many keys a recent remembers: 5 MB of them.
const maxRecent = 1 << 15

// recent remembers the keys that were used last.
type recent[V any] struct {
	rows  map[string]*list.Element
	order list.List // of *entry[V], the last used in front
}

type entry[V any] struct {
	key   string
	value V
}

// get returns what is remembered of key, which is zero if nothing is.
func (m *recent[V]) get(key string) (v V) {
	if el := m.rows[key]; el != nil {
		v = el.Value.(*entry[V]).value
	}
	return v
}

// put remembers v; the key that was not put for longest makes room.
func (m *recent[V]) put(key string, v V) {
	if el := m.rows[key]; el != nil {
		m.order.MoveToFront(el)
		el.Value.(*entry[V]).value = v
		return
	}
	if m.rows == nil {
		m.rows = map[string]*list.Element{}
	}
	if len(m.rows) >= maxRecent {
		delete(m.rows, m.order.Remove(m.order.Back()).(*entry[V]).key)
	}
	m.rows[key] = m.order.PushFront(&entry[V]{key, v})
}

// drop forgets key.
func (m *recent[V]) drop(key string) {
	if el := m.rows[key]; el != nil {
		m.order.Remove(el)
		delete(m.rows, key)
	}
}

// A Meter is a token bucket per key: Burst at once, then one Every so often. It
// remembers the 32,768 keys that were charged last. It is not for concurrent use.
type Meter struct {
	Burst int // 1 at least
	Every time.Duration
	full  recent[time.Time] // when the bucket of a key is full again
}

// Take charges n, or Burst if n is more, to key and returns 0; or says how long to wait
// and charges nothing.
func (m *Meter) Take(key string, n int, now time.Time) (wait time.Duration) {
	full := m.full.get(key)
	if full.Before(now) {
		full = now
	} else if most := now.Add(time.Duration(m.Burst) * m.Every); full.After(most) {
		full = most // the clock ran backwards
		m.full.put(key, full)
	}
	then := full.Add(time.Duration(min(n, m.Burst)) * m.Every)
	if wait = then.Sub(now) - time.Duration(m.Burst)*m.Every; wait > 0 {
		return wait
	}
	m.full.put(key, then)
	return 0
}

// give takes back what Take charged.
func (m *Meter) give(key string, n int) {
	m.full.put(key, m.full.get(key).Add(-time.Duration(min(n, m.Burst))*m.Every))
}

// A charge is so much to a key of a meter.
type charge struct {
	m   *Meter
	key string
	n   int
}

// takeAll takes every charge, or none and says how long to wait.
func takeAll(all []charge, now time.Time) time.Duration {
	for i, c := range all {
		if wait := c.m.Take(c.key, c.n, now); wait > 0 {
			giveBack(all[:i])
			return wait
		}
	}
	return 0
}

func giveBack(all []charge) {
	for _, c := range all {
		c.m.give(c.key, c.n)
	}
}
