package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A package says once what it is for, in doc.go, and a command in main.go, so
// that a reader knows where to look.
func TestOnePackageComment(t *testing.T) {
	for _, p := range packages(t) {
		if p.generated() || len(p.GoFiles)+len(p.TestGoFiles) == 0 {
			continue
		}
		want := "doc.go"
		if p.Name == "main" {
			want = "main.go"
		}
		var commented []string
		for file, tree := range p.parse(t, p.GoFiles, parser.ParseComments|parser.PackageClauseOnly) {
			if tree.Doc != nil {
				commented = append(commented, file)
			}
		}
		slices.Sort(commented)
		if !slices.Equal(commented, []string{want}) {
			t.Errorf("%s: package comments in %v, want exactly one, in %s", p.name(), commented, want)
		}
	}
}

// The domain is told the time; forbidigo says so in the editor too.
func TestDomainReadsNoClock(t *testing.T) {
	clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep"}
	for _, p := range packages(t) {
		if !matches("libs/domain/...", p.name()) {
			continue
		}
		for file, tree := range p.parse(t, p.GoFiles, 0) {
			ast.Inspect(tree, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok && isName(sel.X, "time") && slices.Contains(clock, sel.Sel.Name) {
					t.Errorf("%s uses time.%s: a fold that reads a clock cannot be replayed", filepath.Join(p.name(), file), sel.Sel.Name)
				}
				return true
			})
		}
	}
}

// Who starts a goroutine waits for it, and its tests prove it.
func TestGoroutinesAreWatched(t *testing.T) {
	for _, p := range packages(t) {
		if p.generated() || len(p.tests()) == 0 {
			continue
		}
		var starts []string
		for file, tree := range p.parse(t, p.GoFiles, 0) {
			if startsGoroutine(tree) {
				starts = append(starts, file)
			}
		}
		if len(starts) == 0 {
			continue
		}
		watched := false
		for _, tree := range p.parse(t, p.tests(), 0) {
			watched = watched || callsGoleak(tree)
		}
		if !watched {
			slices.Sort(starts)
			t.Errorf("%s starts goroutines (%v) and no test file has func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }", p.name(), starts)
		}
	}
}

// startsGoroutine finds go statements and calls of a method Go, as
// sync.WaitGroup and errgroup have it.
func startsGoroutine(tree *ast.File) bool {
	found := false
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = true
		case *ast.CallExpr:
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Go" && len(n.Args) == 1 {
				found = true
			}
		}
		return !found
	})
	return found
}

// callsGoleak finds a TestMain that hands over to goleak.
func callsGoleak(tree *ast.File) bool {
	for _, d := range tree.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil || f.Name.Name != "TestMain" || f.Body == nil {
			continue
		}
		found := false
		ast.Inspect(f.Body, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && isName(sel.X, "goleak") {
				found = true
			}
			return !found
		})
		return found
	}
	return false
}

// A test that does not run says why, or nobody learns what it would need.
func TestSkipsSayWhy(t *testing.T) {
	for _, p := range packages(t) {
		if p.generated() {
			continue
		}
		for file, tree := range p.parse(t, slices.Concat(p.GoFiles, p.tests()), 0) {
			if anySilentSkip(tree) {
				t.Errorf("%s skips without a reason: give Skip or Skipf a text", filepath.Join(p.name(), file))
			}
		}
	}
}

// silentSkip finds t.SkipNow(), t.Skip() and t.Skip("") on whatever is named
// like a testing value.
func silentSkip(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || (!isName(sel.X, "t") && !isName(sel.X, "b") && !isName(sel.X, "tb") && !isName(sel.X, "f")) {
		return false
	}
	switch sel.Sel.Name {
	case "SkipNow":
		return true
	case "Skip", "Skipf":
		if len(call.Args) == 0 {
			return true
		}
		text, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			return false
		}
		s, err := strconv.Unquote(text.Value)
		return err == nil && strings.TrimSpace(s) == ""
	default:
		return false
	}
}

// anySilentSkip looks through a file.
func anySilentSkip(tree *ast.File) bool {
	found := false
	ast.Inspect(tree, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && silentSkip(call) {
			found = true
		}
		return !found
	})
	return found
}

// isName tells whether an expression is just that identifier.
func isName(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

// The detectors are checked on small sources: one that never fires would pass.
func TestDetectors(t *testing.T) {
	for _, c := range []struct {
		name, body string
		detect     func(*ast.File) bool
		want       bool
	}{
		{"go statement", "func f() { go f() }", startsGoroutine, true},
		{"go statement in a closure", "var f = func() { go func() {}() }", startsGoroutine, true},
		{"wait group", "func f() { var wg sync.WaitGroup; wg.Go(f) }", startsGoroutine, true},
		{"no goroutine", "func f() { f() }", startsGoroutine, false},
		{"goleak", "func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }", callsGoleak, true},
		{"another TestMain", "func TestMain(m *testing.M) { os.Exit(m.Run()) }", callsGoleak, false},
		{"goleak elsewhere", "func f() { goleak.Find() }", callsGoleak, false},
		{"skip now", "func f() { t.SkipNow() }", anySilentSkip, true},
		{"empty skip", "func f() { t.Skip() }", anySilentSkip, true},
		{"blank skip", "func f() { t.Skip(` `) }", anySilentSkip, true},
		{"skip with a reason", `func f() { t.Skip("needs Kafka") }`, anySilentSkip, false},
		{"skip of something else", "func f() { reader.Skip() }", anySilentSkip, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\n"+c.body, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.detect(tree); got != c.want {
				t.Errorf("detected = %t, want %t", got, c.want)
			}
		})
	}
}
