//go:build bench

package main_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

const (
	agreeRooms   = 10  // of ten devices: one alone would exceed its budget of 5 commits a second
	agreeCommits = 10  // in each room, by each of two devices, in each round
	etcdPuts     = 100 // in each round
	etcdValue    = 1500
	agreePace    = 5 * time.Millisecond // before each put and commit, so that what the one before left to do is done
)

// times are samples of one kind.
type times []time.Duration

func (d times) ms(q float64) float64 {
	return quantile(slices.Sorted(slices.Values(d)), q).Seconds() * 1e3
}

// benchAgree: from the request with a commit to its answer, which comes when a
// majority of three homeservers has it on disk; and to its certificate. In the same
// rounds a put into three etcd, and a commit in rooms of one homeserver.
func benchAgree(t *testing.T, ps []peer, r *report) {
	hs := homeservers(t, ours(t, ps), 3)
	e := startEtcd(t)
	owners, near, far := make([]*member, agreeRooms), make([]*member, agreeRooms), make([]*member, agreeRooms)
	alone := make([]*member, agreeRooms)
	each(t, agreeRooms, func(i int) (err error) {
		var third *member
		for _, one := range []struct {
			m    **member
			at   int
			name string
		}{{&owners[i], 0, "owner"}, {&near[i], 1, "near"}, {&third, 2, "far"}, {&alone[i], 0, "alone"}} {
			if *one.m, err = hs[one.at].enrol(fmt.Sprint(one.name, i), nil); err == nil {
				err = (*one.m).login()
			}
			if err != nil {
				return err
			}
		}
		far[i] = third
		if err := owners[i].found(fmt.Sprint("three", i), near[i], far[i]); err != nil {
			return err
		}
		if err := alone[i].found(fmt.Sprint("one", i)); err != nil {
			return err
		}
		return errors.Join(owners[i].catchUp(), near[i].catchUp(), alone[i].catchUp())
	})
	m := map[string]times{}
	for round := range rounds() {
		for range etcdPuts {
			time.Sleep(agreePace)
			d, err := e.put(etcdValue)
			if err != nil {
				t.Fatal(err)
			}
			m["etcd"] = append(m["etcd"], d)
		}
		for range agreeCommits {
			for i := range agreeRooms {
				agreeOnce(t, m, "three", owners[i], near[i], far[i])
			}
			for i := range agreeRooms {
				agreeOnce(t, m, "follower", near[i], owners[i], far[i])
			}
			for i := range agreeRooms {
				agreeOnce(t, m, "one", alone[i])
			}
		}
		t.Logf("round %d: etcd %.3g, three %.3g, to the certificate %.3g, at a follower %.3g, one %.3g ms", round+1, m["etcd"].ms(0.5),
			m["three"].ms(0.5), m["three shown"].ms(0.5), m["follower"].ms(0.5), m["one"].ms(0.5))
	}
	put50, put99 := m["etcd"].ms(0.5), m["etcd"].ms(0.99)
	r.group("commit accepted by three homeservers, p50", "ms", m["three"].ms(0.5), atMostTimes(2), put50)
	r.group("commit accepted by three homeservers, p99", "ms", m["three"].ms(0.99), goal{}, put99)
	r.group("commit to its certificate, p50", "ms", m["three shown"].ms(0.5), goal{}, put50)
	r.group("commit to its certificate, p99", "ms", m["three shown"].ms(0.99), goal{}, put99)
	r.group("the same offered where the leader is not, p50", "ms", m["follower"].ms(0.5), goal{}, put50)
	r.group("commit accepted by an authority of one, p50", "ms", m["one"].ms(0.5), atMost(3), none)
	r.group("commit accepted by an authority of one, p99", "ms", m["one"].ms(0.99), goal{}, none)
}

// agreeOnce measures one commit of m, which renews its keys, and has others follow.
func agreeOnce(t *testing.T, all map[string]times, kind string, m *member, others ...*member) {
	t.Helper()
	h, err := m.commit(nil)
	if err != nil {
		t.Fatal(err)
	}
	shown := make(chan error, 1)
	go func() { shown <- m.shown(h.Message) }() // waits already when the commit is offered
	time.Sleep(agreePace)
	began := time.Now()
	took, err := m.offer(h, nil)
	if err == nil {
		err = <-shown
	}
	whole := time.Since(began)
	for _, o := range others {
		if err == nil {
			err = o.follow(h.Message)
		}
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", kind, err, m.hs.lastWords())
	}
	all[kind] = append(all[kind], took)
	all[kind+" shown"] = append(all[kind+" shown"], whole)
}
