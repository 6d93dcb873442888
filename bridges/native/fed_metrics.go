package native

import "github.com/prometheus/client_golang/prometheus"

// fedMetrics counts by homeserver, whose names are public and at most maxPeers; no
// label ever holds a name of a room or user.
type fedMetrics struct {
	peers          prometheus.Gauge
	sent, received *prometheus.CounterVec // by peer and kind
	dropped        *prometheus.CounterVec // by peer
	failures       *prometheus.CounterVec // by peer
	refused        *prometheus.CounterVec // by code
}

func newFedMetrics(reg prometheus.Registerer) *fedMetrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "isthmus", Subsystem: "federation", Name: name, Help: help}, labels)
	}
	m := &fedMetrics{
		peers:    prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "isthmus", Subsystem: "federation", Name: "peers", Help: "Other homeservers in use."}),
		sent:     vec("sent_total", "What a peer took: events, and messages of the agreement.", "peer", "kind"),
		received: vec("received_total", "What a peer brought: events, and messages of the agreement.", "peer", "kind"),
		dropped:  vec("dropped_total", "Messages of the agreement given up because a peer was away.", "peer"),
		failures: vec("failures_total", "Requests that a peer did not answer, or not now.", "peer"),
		refused:  vec("refused_total", "Requests of other homeservers that were refused, by error code.", "code"),
	}
	if reg != nil {
		reg.MustRegister(m.peers, m.sent, m.received, m.dropped, m.failures, m.refused)
	}
	return m
}

// forget drops what was counted of a homeserver that is no peer any more.
func (m *fedMetrics) forget(domain string) {
	for _, v := range []*prometheus.CounterVec{m.sent, m.received, m.dropped, m.failures} {
		v.DeletePartialMatch(prometheus.Labels{"peer": domain})
	}
}
