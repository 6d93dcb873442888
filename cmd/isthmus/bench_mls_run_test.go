//go:build bench

package main_test

import (
	"os"
	"path/filepath"
	"testing"

	isthmus "github.com/isthmus-chat/isthmus/cmd/isthmus"
)

// benchMLS has the measures of MLS, which use what the command has inside, and
// whose table is one of its own.
func benchMLS(t *testing.T, _ []peer, r *report) {
	r.mls = isthmus.BenchMLS(t)
	t.Logf("%s\n%s", r.mls.Speed, r.mls.Table)
	if folder := os.Getenv("BENCH_MLS_PLOTS"); folder != "" {
		writePlots(t, r.mls, folder)
	}
}

// writePlots writes the drawings into a folder.
func writePlots(t *testing.T, f *isthmus.MLSFigures, folder string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, drawing := range f.Plots {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(drawing), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
