package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sillage runs the command line in this process.
func sillage(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	c := root()
	var out, errs bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&errs)
	c.SetArgs(args)
	err = c.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

// sessionFile is a shop where b follows a, and d follows c.
func sessionFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shop.csv")
	var b strings.Builder
	b.WriteString("split,session_no,items\n")
	for range 20 {
		b.WriteString("train,1,a b\ntrain,2,c d\n")
	}
	b.WriteString("test,3,a b\ntest,4,c d\n")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEvalRecommendForScripts(t *testing.T) {
	path := sessionFile(t)
	for method, lines := range map[string]int{"hybrid": 1, "vmis": 1, "vstan": 1, "markov": 1, "covisit": 1, "popular": 1, "all": 6} {
		for _, mode := range []string{"frozen", "online"} {
			out, errs, err := sillage(t, "eval", "recommend", "--sessions", path, "--mode", mode, "--method", method, "--json")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(out, "\n") != lines || errs != "" {
				t.Errorf("%s %s: %d lines, want %d; stderr %q", method, mode, strings.Count(out, "\n"), lines, errs)
			}
			for line := range strings.Lines(out) {
				var r struct {
					Dataset, Mode, Method, Current string
					Cases                          int
					HR20                           *float64
					Run                            struct {
						Command, Version string
						Seed             uint64
						Files            []struct{ SHA256 string }
						Settings         []struct{ Name, Value string }
					}
				}
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatal(err)
				}
				if r.Dataset != "shop" || r.Mode != mode || r.Current != "keep" || r.Cases != 2 || r.HR20 == nil || method != "all" && r.Method != method {
					t.Errorf("%s %s: %+v", method, mode, r)
				}
				if r.Run.Seed != 1 || len(r.Run.Files) != 1 || len(r.Run.Files[0].SHA256) != 64 || len(r.Run.Settings) < 5 || r.Run.Version == "" {
					t.Errorf("run %+v", r.Run)
				}
			}
		}
	}
}

func TestEvalRecommendForPeople(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "report")
	out, errs, err := sillage(t, "eval", "recommend", "--sessions", sessionFile(t), "--report", dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hybrid", "vmis", "HR@20", "hybrid against vmis"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if !strings.Contains(errs, filepath.Join(dir, "report.html")) {
		t.Errorf("stderr %q does not say where the report is", errs)
	}
	for _, name := range []string{"report.html", "methods.png", "prefix.png", "ranks.png", "latency.png"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is wrong is told at once, and says which flag helps.
func TestEvalRecommendRefuses(t *testing.T) {
	path := sessionFile(t)
	for _, c := range []struct {
		args string
		want []string
	}{
		{"", []string{"--sessions"}},
		{"--sessions " + path + " --mode sideways --method best --baseline worst --current maybe --tz Mars --map x --test-days -1 --resamples 1", []string{"mode", "method", "baseline", "current", "--tz", "--map", "test-days", "resamples"}},
		{"--sessions /nowhere.csv", []string{"/nowhere.csv"}},
		{"--sessions " + path + " --map items=things", []string{"things", "split, session_no, items"}},
		{"--sessions " + path + " --map user=items", []string{"nothing is called user", "session_no"}},
		{"--sessions " + path + " --test-split valid", []string{"no row has split valid", "40 train"}},
	} {
		_, _, err := sillage(t, append([]string{"eval", "recommend"}, strings.Fields(c.args)...)...)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v does not say %q", c.args, err, want)
			}
		}
	}
}

func TestCommandLine(t *testing.T) {
	got := commandLine([]string{"/usr/bin/sillage", "eval", "--map", "a=b c", "it's", ""})
	if want := `sillage eval --map 'a=b c' 'it'\''s' ''`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Told to stop, an evaluation says that it was, and leaves nothing behind.
func TestEvalIsInterrupted(t *testing.T) {
	path := sessionFile(t)
	dir := filepath.Join(t.TempDir(), "report")
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := root()
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	c.SetArgs([]string{"eval", "recommend", "--sessions", path, "--hold", "10", "--report", dir})
	if err := c.ExecuteContext(ctx); err == nil || !strings.Contains(err.Error(), "interrupted") || errors.Is(err, context.Canceled) {
		t.Errorf("error %v does not say that it was interrupted", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a report was written")
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
