package matrix

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts by result only: no label holds a name (rule 13).
type metrics struct {
	events   *prometheus.CounterVec // accepted, duplicate, refused, own, gateway, unlinked, paused, unsupported, dead
	answers  *prometheus.CounterVec // of the homeserver to our requests: ok or a code
	dropped  prometheus.Counter     // notices and typing that found the queue full
	requests *prometheus.CounterVec // of the homeserver to us: ok or a code
}

func newMetrics(reg prometheus.Registerer) *metrics {
	vec := func(name, help string) *prometheus.CounterVec {
		return share(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "isthmus", Subsystem: "matrix", Name: name, Help: help}, []string{"result"}))
	}
	return &metrics{
		events:   vec("events_total", "Events received, by what became of them."),
		answers:  vec("answers_total", "Answers of homeservers to our requests, by class."),
		requests: vec("requests_total", "Requests of homeservers to us, by class."),
		dropped: share(reg, prometheus.NewCounter(prometheus.CounterOpts{Namespace: "isthmus", Subsystem: "matrix", Name: "notices_dropped_total",
			Help: "Notices and typing that were not sent because too many waited."})),
	}
}

// share registers c, or returns the one that the bridge to another Matrix
// homeserver has registered: a label would have to name the homeserver.
func share[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	err := reg.Register(c)
	if known, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if other, ok := known.ExistingCollector.(C); ok {
			return other
		}
	}
	if err != nil {
		panic(err) // two different metrics of one name: a fault of this program
	}
	return c
}
