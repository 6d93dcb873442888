package main

import (
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
)

// Ports for the servers of tests lie below those that the kernel gives to whoever does not
// ask for one, and none is given out twice: a server finds its port free when it starts, and
// when it starts again.
const firstPort, lastPort = 10_000, 32_000

var ports = struct {
	sync.Mutex
	next int
}{next: firstPort + os.Getpid()*40%(lastPort-firstPort)}

// freePorts returns the first of n ports at which nothing listens; n divides it.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range lastPort - firstPort {
		first := (ports.next + n - 1) / n * n
		if ports.next = first + n; ports.next > lastPort {
			ports.next = firstPort
			continue
		}
		if allFree(first, n) {
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

func allFree(first, n int) bool {
	for port := range n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

func freeAddress(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1))
}
