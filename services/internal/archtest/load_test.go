package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// house is the prefix of the three modules.
const house = "github.com/sillage-io/sillage/"

// pkg is what `go list -json` says about a package, as far as the rules ask.
type pkg struct {
	ImportPath   string
	Name         string
	Dir          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// name is the import path inside the house, "libs/stream/step".
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, house) }

// tests lists the package's test files.
func (p pkg) tests() []string { return slices.Concat(p.TestGoFiles, p.XTestGoFiles) }

// generated tells whether the package is the output of a generator.
func (p pkg) generated() bool { return strings.HasPrefix(p.name(), "proto/gen/") }

// parse reads some of the package's files.
func (p pkg) parse(t *testing.T, files []string, mode parser.Mode) map[string]*ast.File {
	t.Helper()
	parsed := make(map[string]*ast.File, len(files))
	for _, f := range files {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, mode)
		if err != nil {
			t.Fatal(err)
		}
		parsed[f] = file
	}
	return parsed
}

// list runs `go list` once for all tests. Packages that do not build yet are
// listed too (-e): their imports count, the compiler reports the rest.
var list = sync.OnceValues(func() ([]pkg, error) {
	work, err := exec.Command("go", "env", "GOWORK").Output()
	if err != nil {
		return nil, err
	}
	root := filepath.Dir(strings.TrimSpace(string(work)))
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Dir,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports",
		"./libs/...", "./proto/...", "./services/...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.Join(err, errors.New(stderr.String()))
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
})

// packages returns the packages of the three modules. The workspace must be on:
// the rules are about the modules as they are here, together.
func packages(t *testing.T) []pkg {
	t.Helper()
	all, err := list()
	if err != nil {
		t.Fatalf("list the workspace's packages: %v", err)
	}
	if len(all) == 0 {
		t.Fatal("the workspace has no packages")
	}
	return all
}

// matches tells whether a path lies under a pattern: "a/b" is that package
// alone, "a/b/..." it and all below, "a/*" each one directly below.
func matches(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	if base, ok := strings.CutSuffix(pattern, "/*"); ok {
		rest, below := strings.CutPrefix(path, base+"/")
		return below && !strings.Contains(rest, "/")
	}
	return pattern == path
}

// matchesAny tells whether a path lies under one of the patterns.
func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}
