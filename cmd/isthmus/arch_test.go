package main

import (
	"go/ast"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// importTable is that of docs/ARCHITECTURE.md: each package, and what it
// may import of ours. A package that is not here does not exist.
var importTable = map[string][]string{
	"mls":            {"mls/internal/codec", "mls/internal/hpke", "mls/internal/suite"},
	"mls/group":      {"mls", "mls/internal/codec", "mls/internal/hpke", "mls/internal/suite", "mls/internal/secret"},
	"core":           {"mls", "core/identity", "core/policy"},
	"core/identity":  {"mls"},
	"core/policy":    {"core/identity", "mls"},
	"core/wire":      {"core"},
	"core/epoch":     {"core", "core/identity"},
	"core/history":   {"core"},
	"core/client":    {"core", "core/identity", "core/policy", "core/epoch", "core/history", "core/wire", "mls", "mls/group"},
	"core/sim":       {"core", "core/identity", "core/policy", "core/epoch", "core/history", "core/wire", "core/client", "mls", "mls/group", "converter", "store"},
	"store":          {"core", "store/internal/query"},
	"converter":      {"core", "mls"},
	"bridges":        {"core"},
	"bridges/irc":    {"core", "converter", "bridges"},
	"bridges/matrix": {"core", "converter", "bridges"},
	"bridges/mimi":   {"core", "converter", "bridges"},
	"bridges/native": {"core", "converter", "bridges", "core/epoch", "core/identity", "core/wire", "core/history"},
	"configs":        {},
	"cmd/isthmus":    {"*"},

	"mls/internal/codec":   {},
	"mls/internal/suite":   {},
	"mls/internal/hpke":    {"mls/internal/suite", "mls/internal/codec"},
	"mls/internal/secret":  {"mls/internal/suite", "mls/internal/codec"},
	"store/internal/query": {},
}

// testImports are the additional arrows that tests may draw: a package is
// tested with what it is used with.
var testImports = map[string][]string{
	"core":           {"store", "mls/group"},
	"bridges":        {"store", "converter"},
	"bridges/irc":    {"store"},
	"bridges/matrix": {"store"},
	"bridges/mimi":   {"store"},
	"bridges/native": {"store", "core/client", "core/policy", "mls"},
	"core/client":    {"store"},
	"core/policy":    {"mls/group"},
	"core/epoch":     {"store", "core/policy", "mls", "mls/group"},
	"store":          {"core/history"},
}

// pure packages decide and never talk: no goroutine, clock, socket, or chance.
var pure = []string{"mls", "mls/group", "core", "core/identity", "core/policy", "core/wire", "core/epoch", "core/history", "core/client", "converter"}

// impure are the imports that a pure package's own code may not have.
var impure = []string{"net", "net/http", "os", "os/exec", "syscall", "math/rand", "math/rand/v2", "database/sql", "log", "log/slog"}

// clocks are the functions of package time that read or wait for one.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// reserved imports have one home each.
var reserved = []struct {
	prefix, why string
	home        []string
}{
	{"database/sql", "SQL stays in store", []string{"store", "store/internal/query"}},
	{"github.com/jackc/pgx", "SQL stays in store", []string{"store"}},
	{"modernc.org/sqlite", "SQL stays in store", []string{"store"}},
	{"github.com/lib/pq", "SQL stays in store", []string{"store"}},
	{"github.com/spf13/viper", "configuration stays in configs", []string{"configs"}},
	{"github.com/spf13/cobra", "the command line stays in cmd/isthmus", []string{"cmd/isthmus"}},
	{"gopkg.in/irc.v4", "IRC stays in its converter and bridge", []string{"converter", "bridges/irc"}},
	{"maunium.net/go/mautrix", "Matrix stays in its converter and bridge", []string{"converter", "bridges/matrix"}},
	{"go.etcd.io/raft", "raft stays in core/epoch", []string{"core/epoch", "core/sim", "bridges/native"}},
	{modulePath + "/mls/group", "only these may hold a member's secrets", []string{"core/client", "core/sim", "cmd/isthmus"}},
}

// topLevel is everything the repository's root may hold besides dot-files.
var topLevel = []string{"cmd", "core", "bridges", "converter", "mls", "store", "configs", "docs", "go.mod", "go.sum", "README.md", "Makefile", "LICENSE"}

func imports(s source) []string {
	var out []string
	for _, i := range s.ast.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		out = append(out, p)
	}
	return out
}

func TestArchImportTable(t *testing.T) {
	for _, s := range sources(t) {
		allowed, known := importTable[s.pkg]
		if !known {
			t.Errorf("%s: package %q is not in the import table", s.file, s.pkg)
			continue
		}
		for _, p := range imports(s) {
			ours, isOurs := strings.CutPrefix(p, modulePath+"/")
			if !isOurs || ours == s.pkg || slices.Contains(allowed, "*") || slices.Contains(allowed, ours) {
				continue
			}
			if s.test && slices.Contains(testImports[s.pkg], ours) {
				continue
			}
			t.Errorf("%s: %s may not import %s", s.file, s.pkg, ours)
		}
	}
}

func TestArchReservedImports(t *testing.T) {
	for _, s := range sources(t) {
		if s.test { // tests use real peers' client libraries, and look into databases
			continue
		}
		for _, p := range imports(s) {
			for _, r := range reserved {
				if (p == r.prefix || strings.HasPrefix(p, r.prefix+"/")) && !slices.Contains(r.home, s.pkg) {
					t.Errorf("%s: imports %s: %s", s.file, p, r.why)
				}
			}
		}
	}
}

func TestArchPurePackages(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || !slices.Contains(pure, s.pkg) {
			continue
		}
		for _, p := range imports(s) {
			if slices.Contains(impure, p) {
				t.Errorf("%s: a pure package imports %s", s.file, p)
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%v: a pure package starts a goroutine", fset.Position(n.Pos()))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && x.Obj == nil && slices.Contains(clocks, n.Sel.Name) {
					t.Errorf("%v: a pure package uses time.%s", fset.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
}

// TestArchOrdered: what the Makefile keeps from the race detector starts no goroutine, and its
// tests neither, so that there is nothing to detect.
func TestArchOrdered(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "\nORDERED := ")
	list, _, _ = strings.Cut(list, "\n")
	ordered := strings.Fields(list)
	if len(ordered) == 0 {
		t.Fatal("the Makefile names no such packages")
	}
	for _, s := range sources(t) {
		if !slices.Contains(ordered, "./"+s.pkg) {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%v: a goroutine that the race detector never sees", fset.Position(n.Pos()))
			case *ast.SelectorExpr:
				if s.test && (n.Sel.Name == "Go" || n.Sel.Name == "Parallel") {
					t.Errorf("%v: %s starts a goroutine that the race detector never sees", fset.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestArchTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || name == "isthmus" || name == "isthmus-data" || strings.HasSuffix(name, ".test") || strings.HasSuffix(name, ".prof") {
			continue // dot-files, and what .gitignore names
		}
		if !slices.Contains(topLevel, name) {
			t.Errorf("%s does not belong at the top level", name)
		}
	}
}

// The rules above are only worth something if they see what they forbid.
func TestArchSeesViolations(t *testing.T) {
	if slices.Contains(importTable["bridges/irc"], "mls/group") || slices.Contains(importTable["store"], "mls") || slices.Contains(importTable["converter"], "mls/group") {
		t.Error("a bridge, converter or store could decrypt")
	}
	for pkg, allowed := range importTable {
		for _, a := range allowed {
			if _, ok := importTable[a]; !ok && a != "*" {
				t.Errorf("%s may import %s, which is not in the table", pkg, a)
			}
			if a == "cmd/isthmus" {
				t.Errorf("%s may import cmd/isthmus", pkg)
			}
		}
	}
	for _, p := range pure {
		if _, ok := importTable[p]; !ok {
			t.Errorf("pure package %s is not in the table", p)
		}
		for _, a := range importTable[p] {
			if !slices.Contains(pure, a) && !strings.HasPrefix(a, "mls/internal/") {
				t.Errorf("pure package %s may import %s, which is not pure", p, a)
			}
		}
	}
}
