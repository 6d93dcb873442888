package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const modulePath = "github.com/isthmus-chat/isthmus"

// root is the repository, seen from this package's directory.
const root = "../.."

// A source is one parsed Go file of the repository.
type source struct {
	file string // slash-separated, from the root
	pkg  string // its package's directory, from the root; "" is the root
	test bool
	ast  *ast.File
	text []byte
}

func (s source) generated() bool { return ast.IsGenerated(s.ast) }

var fset = token.NewFileSet()

// tracked lists the files below the root, without what builds leave behind.
func tracked(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		if d.IsDir() {
			switch d.Name() {
			case ".git", ".cache", "node_modules", "isthmus-data":
				return filepath.SkipDir
			}
			return nil
		}
		files = append(files, filepath.ToSlash(rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// sources parses every Go file, also those that build constraints leave out.
func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") || strings.Contains(file, "/testdata/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(fset, file, text, parser.ParseComments)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		pkg := path.Dir(file)
		if pkg == "." {
			pkg = ""
		}
		out = append(out, source{file: file, pkg: pkg, test: strings.HasSuffix(file, "_test.go"), ast: f, text: text})
	}
	if len(out) == 0 {
		t.Fatal("no Go files found")
	}
	return out
}
