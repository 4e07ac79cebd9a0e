package archtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"gopkg.in/yaml.v3"
)

// root is the project's folder.
const root = "../../.."

// compose reads docker-compose.yml as docker compose does.
func compose(t *testing.T, env ...string) (*types.Project, error) {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")}, cli.WithEnv(env), cli.WithName("sillage"))
	if err != nil {
		t.Fatal(err)
	}
	return o.LoadProject(context.WithoutCancel(t.Context()))
}

// The containers are not started here: what can be checked without an engine is
// that the file is one, that it runs every service, and that every service takes
// the settings that it is given.
func TestComposeRunsEveryService(t *testing.T) {
	if _, err := compose(t); err == nil || !strings.Contains(err.Error(), "SILLAGE_IDENTITY_SECRET") {
		t.Errorf("without an identity secret: %v, want an error that names it", err)
	}
	p, err := compose(t, "SILLAGE_IDENTITY_SECRET=sixteen characters")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range services {
		s, err := p.GetService(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.Build == nil || s.Build.Args["SERVICE"] == nil || *s.Build.Args["SERVICE"] != name {
			t.Errorf("%s: build args %+v, want SERVICE=%s", name, s.Build, name)
			continue
		}
		if s.Build.Dockerfile != "deploy/docker/Dockerfile" {
			t.Errorf("%s: dockerfile %q", name, s.Build.Dockerfile)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is published beyond loopback", name, port.Published)
			}
		}
		check := exec.Command("go", "run", "./services/cmd/"+name, "--config.check")
		check.Dir = root
		check.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "SILLAGE_") })
		for key, value := range s.Environment {
			if value != nil {
				check.Env = append(check.Env, key+"="+*value)
			}
		}
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s does not take its settings: %v\n%s", name, err, out)
		}
	}
	for _, s := range p.Services {
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s mounts what is not there: %v", s.Name, err)
				}
			}
		}
	}
}

// Prometheus has to find the services where compose puts them.
func TestPrometheusScrapesEveryService(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, "deploy/compose/prometheus.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var cfg struct {
		Jobs []struct {
			Static []struct {
				Targets []string `yaml:"targets"`
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(data, &cfg); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, j := range cfg.Jobs {
		for _, s := range j.Static {
			got = append(got, s.Targets...)
		}
	}
	for _, s := range services {
		if !slices.Contains(got, s+":8081") {
			t.Errorf("%s:8081 is not scraped, only %v", s, got)
		}
	}
}
