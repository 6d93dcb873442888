package native

import "sync"

// shareOf is the part of all bodies that may be one requester's: who sends slowly, or
// nothing of what was announced, takes no more than that from the others.
const shareOf = 4

// loads count the octets of bodies that are being read or worked on.
type loads struct {
	most int64

	mu   sync.Mutex
	used int64
	by   map[string]int64 // of each requester
}

func newLoads(most int64) *loads { return &loads{most: most, by: map[string]int64{}} }

// take makes room for n octets of who; false if there is none now. A lone body finds
// room whatever its size, for its own limit bounds it.
func (l *loads) take(who string, n int64) (free func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.by[who]
	if l.used > 0 && l.used+n > l.most || own > 0 && own+n > l.most/shareOf {
		return nil, false
	}
	l.used += n
	l.by[who] = own + n
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.used -= n
		if l.by[who] -= n; l.by[who] <= 0 {
			delete(l.by, who)
		}
	}, true
}

// total is what is counted.
func (l *loads) total() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used
}
