package bridges

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-chat/isthmus/core"
)

// metrics counts; no label ever holds a name of a room or user.
type metrics struct {
	accepted, duplicates prometheus.Counter
	refused              *prometheus.CounterVec // by code
	failed               prometheus.Counter
	commitSeconds        prometheus.Histogram
	groupSize            prometheus.Histogram
	delivered            *prometheus.CounterVec // by network class and result
	losses               *prometheus.CounterVec // by kind
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "isthmus", Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "isthmus", Name: name, Help: help}, labels)
	}
	m := &metrics{
		accepted:   counter("inputs_accepted_total", "Inputs decided and committed."),
		duplicates: counter("inputs_duplicate_total", "Inputs that were known already or changed nothing."),
		refused:    vec("inputs_refused_total", "Inputs refused, by error code.", "code"),
		failed:     counter("commits_failed_total", "Transactions that did not commit."),
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "isthmus", Name: "commit_seconds",
			Help: "Duration of a group's transaction.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}),
		groupSize: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "isthmus", Name: "commit_inputs",
			Help: "Inputs that shared a transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 12)}),
		delivered: vec("deliveries_total", "Events settled on links: delivered, skipped, refused or expired.", "network", "result"),
		losses:    vec("conversion_losses_total", "What a far side could not show, by kind.", "kind"),
	}
	if reg != nil {
		reg.MustRegister(m.accepted, m.duplicates, m.refused, m.failed, m.commitSeconds, m.groupSize, m.delivered, m.losses)
	}
	return m
}

func (m *metrics) commit(d time.Duration, subs []*submission) {
	n, accepted := 0, 0
	for _, s := range subs {
		n += len(s.inputs)
		for i := range s.outs {
			switch {
			case s.errs[i] != nil:
				m.refused.WithLabelValues(core.CodeOf(s.errs[i]).String()).Inc()
			case s.outs[i].Duplicate:
				m.duplicates.Inc()
			default:
				accepted++
			}
		}
	}
	m.accepted.Add(float64(accepted))
	m.commitSeconds.Observe(d.Seconds())
	m.groupSize.Observe(float64(n))
}
