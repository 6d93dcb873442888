package core

import "time"

// Bounds of what is kept in memory of Groups in which nothing happens.
const (
	restLook   = 10 * time.Second // between two looks for them
	restLooks  = 3                // without use, after which a Group is let go of,
	restOctets = 32 << 10         // and one more for so much of its state: a large one takes longer to load
)

// rest lets go of Groups that have not been used for half a minute: the store has
// them, and loads a small one in a millisecond when somebody speaks. Of a thousand
// idle Groups of three devices each the tree, the policy and what is read from them
// all the time were 16 KiB each in memory, and twice that as the collector sees it.
func (e *Engine) rest(now time.Time) {
	if d := now.Sub(e.looked); d >= 0 && d < restLook {
		return
	}
	e.looked = now
	for id, r := range e.rooms {
		switch {
		case r.Kind != Group:
		case r.busy:
			r.busy, r.looks = false, 0
		default:
			most := restLooks
			if r.group != nil {
				most += r.group.head.Snapshot / restOctets
			}
			if r.looks++; r.looks >= most {
				delete(e.rooms, id)
			}
		}
	}
}
