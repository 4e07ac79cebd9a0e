package config_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/sillage-io/sillage/libs/config"
)

type sub struct {
	Name string   `yaml:"name" usage:"a name"`
	List []string `yaml:"list" usage:"some names"`
	On   bool     `yaml:"on" usage:"a switch"`
}

type settings struct {
	Wait   time.Duration `yaml:"wait" usage:"how long"`
	Count  int           `yaml:"count" usage:"how many"`
	Share  float64       `yaml:"share" usage:"what part"`
	Secret string        `yaml:"secret" usage:"a secret" secret:"true"`
	Sub    sub           `yaml:"sub-part"`
	Hidden func()        `yaml:"-"`
}

func (s settings) Validate() error {
	if s.Count < 0 {
		return errors.New("count: below 0")
	}
	return nil
}

func load(t *testing.T, yaml string, env []string, args ...string) (settings, *config.Set, error) {
	t.Helper()
	cfg := settings{Wait: time.Second, Count: 3, Share: .5, Sub: sub{Name: "default"}}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	set := config.Bind(flags, &cfg)
	if yaml != "" {
		name := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(name, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config.file="+name)
	}
	if err := flags.Parse(args); err != nil {
		return cfg, set, err
	}
	err := set.Load(env)
	return cfg, set, err
}

func TestWeights(t *testing.T) {
	yaml := "wait: 2s\ncount: 4\nsub-part:\n  name: file\n  list: [a, 'b,c']\n"
	for _, test := range []struct {
		name string
		yaml string
		env  []string
		args []string
		want settings
	}{
		{"defaults", "", nil, nil, settings{Wait: time.Second, Count: 3, Share: .5, Sub: sub{Name: "default"}}},
		{"file over defaults", yaml, nil, nil, settings{Wait: 2 * time.Second, Count: 4, Share: .5, Sub: sub{Name: "file", List: []string{"a", "b,c"}}}},
		{
			"environment over file", yaml,
			[]string{"SILLAGE_COUNT=5", "SILLAGE_SUB_PART_ON=true", "HOME=x"},
			nil,
			settings{Wait: 2 * time.Second, Count: 5, Share: .5, Sub: sub{Name: "file", List: []string{"a", "b,c"}, On: true}},
		},
		{
			"flags over all", yaml,
			[]string{"SILLAGE_COUNT=5", "SILLAGE_SUB_PART_NAME=env"},
			[]string{"--count=6", "--sub-part.on", "--sub-part.list=x,y", "--share=.25"},
			settings{Wait: 2 * time.Second, Count: 6, Share: .25, Sub: sub{Name: "env", List: []string{"x", "y"}, On: true}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := load(t, test.yaml, test.env, test.args...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, _, err := load(t, "wait: soon\ncuont: 3\n", []string{"SILLAGE_SHARE=half", "SILLAGE_CUONT=1"})
	for _, want := range []string{"wait", "soon", "cuont: no such setting (is it count?)", "SILLAGE_SHARE", "half", "SILLAGE_CUONT: no such setting (is it SILLAGE_COUNT?)"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
	if _, _, err := load(t, "", nil, "--count=x"); err == nil || !strings.Contains(err.Error(), "--count") {
		t.Errorf("a flag: %v", err)
	}
	if _, _, err := load(t, "", nil, "--count=-1"); err == nil || err.Error() != "count: below 0" {
		t.Errorf("the struct's own check: %v", err)
	}
}

func TestPrintShowsOriginAndNoSecret(t *testing.T) {
	_, set, err := load(t, "count: 4\n", []string{"SILLAGE_SECRET=hush"}, "--sub-part.list=a,b")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := set.Print(&b); err != nil {
		t.Fatal(err)
	}
	want := `wait: 1s # how long (default)
count: 4 # how many (file)
share: 0.5 # what part (default)
secret: REDACTED # a secret (environment)
sub-part:
  name: default # a name (default)
  list: [a,b] # some names (flag)
  on: false # a switch (default)
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestInlineAndPointedSettings(t *testing.T) {
	type inline struct {
		Depth int `yaml:"depth" usage:"how deep"`
	}
	cfg := struct {
		Inline  inline `yaml:",inline"`
		Pointer *sub   `yaml:"pointer"`
		Absent  *sub   `yaml:"absent"`
	}{Pointer: &sub{Name: "default"}}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	set := config.Bind(flags, &cfg)
	if err := flags.Parse([]string{"--depth=2", "--pointer.name=flag"}); err != nil {
		t.Fatal(err)
	}
	if err := set.Load([]string{"SILLAGE_POINTER_ON=true"}); err != nil {
		t.Fatal(err)
	}
	if cfg.Inline.Depth != 2 || cfg.Pointer.Name != "flag" || !cfg.Pointer.On {
		t.Errorf("depth %d, pointer %+v", cfg.Inline.Depth, *cfg.Pointer)
	}
	if flags.Lookup("absent.name") != nil {
		t.Error("a flag for a setting that this process does not have")
	}
}
