package group

import (
	"flag"
	"os"
	"testing"
)

// A check of a random group is a whole story of dozens of steps, each with
// every member: a few of them are a test, and more are a matter of the flag.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		if err := flag.Set("rapid.checks", "10"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
