package native

import "github.com/prometheus/client_golang/prometheus"

// apiMetrics counts what devices ask; no label holds anybody's name.
type apiMetrics struct {
	requests *prometheus.CounterVec // by route and code
	seconds  prometheus.Histogram   // of requests that answer at once
}

func newAPIMetrics(reg prometheus.Registerer, waiting func() float64) *apiMetrics {
	m := &apiMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "isthmus", Subsystem: "api", Name: "requests_total",
			Help: "Requests of devices, by route and error code; ok if there was none, gone if nobody waited for the answer."}, []string{"route", "code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "isthmus", Subsystem: "api", Name: "request_seconds",
			Help: "Duration of requests that do not wait for news.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
	}
	streams := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "isthmus", Subsystem: "api", Name: "streams",
		Help: "Streams and polls that wait for news."}, waiting)
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, streams)
	}
	return m
}
