package main

import (
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
)

// An agreement is what others may know of the machine that decides while the loop
// works. Machines come and go, one for each transaction that failed; it adds them up.
type agreement struct {
	log    *slog.Logger
	awake  atomic.Bool
	stats  atomic.Pointer[epoch.Stats]
	before epoch.Stats // of the machines that are gone; the loop's own
}

func newAgreement(log *slog.Logger, reg prometheus.Registerer) *agreement {
	a := &agreement{log: log}
	a.stats.Store(new(epoch.Stats))
	gauge := func(name, help string, of func(*epoch.Stats) int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "isthmus", Subsystem: "agreement", Name: name, Help: help},
			func() float64 { return float64(of(a.stats.Load())) }))
	}
	count := func(name, help string, of func(*epoch.Stats) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "isthmus", Subsystem: "agreement", Name: name, Help: help},
			func() float64 { return float64(of(a.stats.Load())) }))
	}
	gauge("rooms", "Groups in memory.", func(s *epoch.Stats) int { return s.Resident })
	gauge("rooms_awake", "Groups with something in flight.", func(s *epoch.Stats) int { return s.Awake })
	count("entries_total", "Handshakes agreed and applied.", func(s *epoch.Stats) uint64 { return s.Decided })
	count("epochs_total", "Epochs opened.", func(s *epoch.Stats) uint64 { return s.Opened })
	count("certificates_total", "Epochs that enough homeservers approved.", func(s *epoch.Stats) uint64 { return s.Certified })
	count("elections_total", "Elections won.", func(s *epoch.Stats) uint64 { return s.Elections })
	count("ignored_total", "Messages that no honest peer sends, or of strangers.", func(s *epoch.Stats) uint64 { return s.Ignored })
	count("forged_total", "Approvals with a wrong signature.", func(s *epoch.Stats) uint64 { return s.Forged })
	count("proofs_total", "Proofs that a homeserver approved two commits for one epoch.", func(s *epoch.Stats) uint64 { return s.Proofs })
	count("faults_total", "Groups loaded anew after a message that raft could not bear.", func(s *epoch.Stats) uint64 { return s.Faults })
	return a
}

// decider returns a fresh engine, with the agreement of other homeservers around it.
func (a *agreement) decider(cfg core.Config) bridges.Decider {
	m := epoch.New(epoch.Config{Homeserver: cfg.Homeserver, Key: cfg.Key, Rooms: core.NewEngine(cfg)})
	a.before = *a.stats.Load()
	a.awake.Store(m.Awake())
	return decider{m, a}
}

type decider struct {
	*epoch.Machine
	agreement *agreement
}

// Seal implements bridges.Decider.
func (d decider) Seal(tx core.Tx) error {
	err := d.Machine.Seal(tx)
	d.agreement.note(d.Machine)
	return err
}

func (a *agreement) note(m *epoch.Machine) {
	a.awake.Store(m.Awake())
	s, b := m.Stats(), &a.before
	s.Decided, s.Opened, s.Certified, s.Elections = s.Decided+b.Decided, s.Opened+b.Opened, s.Certified+b.Certified, s.Elections+b.Elections
	s.Ignored, s.Forged, s.Proofs, s.Faults = s.Ignored+b.Ignored, s.Forged+b.Forged, s.Proofs+b.Proofs, s.Faults+b.Faults
	if s.Proofs > a.stats.Load().Proofs {
		a.log.Error("a homeserver approved two commits for one epoch: `isthmus peer evidence` shows the proof")
	}
	a.stats.Store(&s)
}
