package epoch

import (
	"errors"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// maxBuckets bounds whose use is remembered. Beyond it those who used nothing
// lately are forgotten, and if there are none, new ones wait.
const maxBuckets = 1 << 14

// A budget is a token bucket for each of many.
type budget struct {
	rate Rate
	of   map[string]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newBudget(r Rate) budget { return budget{rate: r, of: map[string]bucket{}} }

// take takes a token of who, or says how long there is none.
func (b *budget) take(now time.Time, who string) time.Duration {
	k, ok := b.of[who]
	if !ok && len(b.of) >= maxBuckets {
		for name, k := range b.of {
			if b.refill(k, now).tokens >= float64(b.rate.Burst) {
				delete(b.of, name)
			}
		}
		if len(b.of) >= maxBuckets {
			return time.Second
		}
	}
	if !ok {
		k = bucket{tokens: float64(b.rate.Burst), at: now}
	}
	if k = b.refill(k, now); k.tokens < 1 {
		b.of[who] = k
		return time.Duration((1-k.tokens)/b.rate.PerSecond*float64(time.Second)) + time.Millisecond
	}
	k.tokens--
	b.of[who] = k
	return 0
}

// refill counts the tokens at now; a clock that ran backwards brings none.
func (b *budget) refill(k bucket, now time.Time) bucket {
	if d := now.Sub(k.at); d > 0 {
		k.tokens = min(k.tokens+d.Seconds()*b.rate.PerSecond, float64(b.rate.Burst))
	}
	k.at = now
	return k
}

// retryAfter is how long a refusal asks to wait.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*core.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}
