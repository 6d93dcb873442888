//go:build bench

package main_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An etcd is a cluster of three on loopback, of Debian's package: TLS between them
// as between our homeservers, plain HTTP for the client as for our devices, data on
// the same disk. Writes go to the leader over one connection that stays open.
type etcd struct {
	leader string
	client *http.Client
	count  int
}

func startEtcd(t *testing.T) *etcd {
	t.Helper()
	const members = 3
	var clients, peers, cluster []string
	for i := range members {
		clients = append(clients, fmt.Sprintf("http://127.0.0.1:%d", freePort(t)))
		peers = append(peers, fmt.Sprintf("https://127.0.0.1:%d", freePort(t)))
		cluster = append(cluster, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i := range members {
		dir := t.TempDir()
		log, err := os.Create(filepath.Join(dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		cmd := exec.Command("etcd", "--name", fmt.Sprint("m", i), "--data-dir", filepath.Join(dir, "data"), "--peer-auto-tls",
			"--listen-client-urls", clients[i], "--advertise-client-urls", clients[i],
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(cluster, ","), "--log-level", "warn")
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatalf("etcd does not start (make bench installs it): %v", err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
	e := &etcd{client: &http.Client{Timeout: 10 * time.Second}}
	for range 200 {
		for _, c := range clients {
			var s struct {
				Header struct {
					Member string `json:"member_id"`
				} `json:"header"`
				Leader string `json:"leader"`
			}
			if e.post(c+"/v3/maintenance/status", "{}", &s) == nil && s.Leader != "" && s.Leader == s.Header.Member {
				e.leader = c
				return e
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("etcd has no leader after 10 s")
	return nil
}

func (e *etcd) post(url, body string, out any) error {
	a, err := e.client.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("etcd answers %s: %s", a.Status, b)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(b, out)
	}
	return err
}

// put writes a value of n octets under a new key, and returns how long that took.
func (e *etcd) put(n int) (time.Duration, error) {
	e.count++
	key := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "bench/%08d", e.count))
	body := fmt.Sprintf(`{"key":%q,"value":%q}`, key, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(e.count)}, n)))
	began := time.Now()
	err := e.post(e.leader+"/v3/kv/put", body, nil)
	return time.Since(began), err
}
