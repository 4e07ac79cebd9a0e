package archtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// std stands in a list of allowed imports for the standard library.
const std = "std"

// layer says what the packages of one place may import, or must not. Only what
// is compiled into the product counts; tests may look behind the doors.
type layer struct {
	who   string   // pattern inside the house
	allow []string // when not empty: nothing else (own package tree excepted)
	deny  []string // never, even where allow would let it in
	why   string
}

// impure are the parts of the standard library that reach outside a process or
// depend on when a thing runs.
var impure = []string{"net/...", "os/...", "log/...", "context", "syscall", "unsafe", "testing/..."}

// services are the deployable packages; each is described by five files and
// talks to the others through topics and protobuf only.
var services = []string{"collector", "profile", "recommender", "churn", "restock"}

// libraries are all the packages directly used by rules below; a name here that
// no longer exists fails TestNamedPackagesExist.
var libraries = []string{
	"libs/domain/...", "libs/topics", "libs/stream", "libs/stream/record", "libs/stream/step", "libs/stream/broker",
	"libs/state", "libs/service", "libs/config", "libs/rpc", "libs/web", "libs/telemetry", "libs/embedded", "libs/testkit",
}

func layers() []layer {
	rules := []layer{
		{
			who: "libs/domain/...", allow: []string{std, "gonum.org/v1/gonum/..."}, deny: impure,
			why: "algorithms run anywhere and are tested without setup: values in, values out",
		},
		{
			who: "libs/topics", allow: []string{std}, deny: impure,
			why: "the catalogue is data; a command line, a document and a test read it alike",
		},
		{
			who: "libs/stream/record", allow: []string{std, "github.com/klauspost/compress/...", "github.com/pierrec/lz4/..."}, deny: impure,
			why: "a record is what the protocol, the runtime and the tests agree on",
		},
		{
			who: "libs/stream/step", allow: []string{std, "github.com/cespare/xxhash/v2", "google.golang.org/protobuf/...", house + "proto/...", house + "libs/stream/record"}, deny: impure,
			why: "the protocol is a pure state machine: what crashes it in a test is what crashes it in production",
		},
		{
			who: "libs/...", deny: []string{house + "services/..."},
			why: "services stand on libs, never the other way round",
		},
		{
			who: "proto/...", allow: []string{std, "google.golang.org/..."},
			why: "a client imports the messages with grpc and protobuf and nothing else",
		},
	}
	for _, s := range services {
		var others []string
		for _, o := range services {
			if o != s {
				others = append(others, house+"services/"+o+"/...")
			}
		}
		rules = append(rules, layer{
			who: "services/" + s + "/...", deny: append(others, house+"services/cmd/...", house+"libs/embedded/..."),
			why: "services meet in topics and protobuf, so that each can be deployed, replayed and replaced alone",
		}, layer{
			who: "services/cmd/" + s, allow: []string{"os", house + "services/" + s, house + "services/internal/host"},
			why: "a main names its service and hands over at once",
		})
	}
	return rules
}

// door says who alone may import something.
type door struct {
	what string   // pattern of import paths
	by   []string // patterns inside the house
	why  string
}

func doors() []door {
	return []door{
		{
			what: "github.com/segmentio/kafka-go/...", by: []string{"libs/stream/broker/..."},
			why: "its traps (group Reader, zero-value Writer, clients without timeout) are met once",
		},
		{
			what: "github.com/redis/go-redis/...", by: []string{"libs/state/..."},
			why: "the fenced apply is the only way to change state",
		},
		{
			what: "go.opentelemetry.io/otel/sdk/...", by: []string{"libs/telemetry/..."},
			why: "others use the API, so a library never starts an exporter",
		},
		{
			what: "go.opentelemetry.io/otel/exporters/...", by: []string{"libs/telemetry/..."},
			why: "others use the API, so a library never starts an exporter",
		},
		{
			what: "github.com/twmb/franz-go/...", by: []string{"libs/embedded/..."},
			why: "the embedded broker stands in for Kafka; the client under test is the real one",
		},
		{
			what: "github.com/alicebob/miniredis/...", by: []string{"libs/embedded/..."},
			why: "the embedded store stands in for Redis; the client under test is the real one",
		},
		{
			what: house + "libs/testkit/...", by: []string{"libs/testkit/..."},
			why: "it is for tests alone",
		},
		{
			what: house + "services/internal/lab/...", by: []string{"services/internal/lab/..."},
			why: "it is for tests alone",
		},
		{
			what: house + "libs/embedded/...", by: []string{"services/cmd/sillage/...", "services/internal/e2e/..."},
			why: "production brokers and stores are not embedded, and a service must not know the difference",
		},
	}
}

func TestNamedPackagesExist(t *testing.T) {
	named := slices.Clone(libraries)
	for _, l := range layers() {
		named = append(named, l.who)
	}
	named = append(named, "services/cmd/sillage")
	slices.Sort(named)
	for _, pattern := range slices.Compact(named) {
		if !slices.ContainsFunc(packages(t), func(p pkg) bool { return matches(pattern, p.name()) }) {
			t.Errorf("%s: no such package; a rule about it guards nothing", pattern)
		}
	}
}

func TestLayers(t *testing.T) {
	for _, l := range layers() {
		for _, p := range packages(t) {
			if !matches(l.who, p.name()) {
				continue
			}
			for _, bad := range breaches(l, p.Imports) {
				t.Errorf("%s imports %s: %s", p.name(), bad, l.why)
			}
		}
	}
}

// breaches returns those imports that the layer does not allow.
func breaches(l layer, imports []string) []string {
	var bad []string
	for _, path := range imports {
		own := matches(house+strings.TrimSuffix(l.who, "/...")+"/...", path)
		allowed := len(l.allow) == 0 || own || matchesAny(l.allow, path) || (slices.Contains(l.allow, std) && isStd(path))
		if !allowed || matchesAny(l.deny, path) {
			bad = append(bad, path)
		}
	}
	return bad
}

// isStd tells the standard library by its first element, which has no dot.
func isStd(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func TestDoors(t *testing.T) {
	for _, d := range doors() {
		for _, p := range packages(t) {
			if matchesAny(d.by, p.name()) {
				continue
			}
			for _, path := range p.Imports {
				if matches(d.what, path) && path != p.ImportPath {
					t.Errorf("%s imports %s, which only %v may: %s", p.name(), path, d.by, d.why)
				}
			}
		}
	}
}

// Tests may open the doors, but not a neighbour: what a service's test needs of
// another service belongs into a topic or into a test of the whole.
func TestServicesDoNotMeetInTests(t *testing.T) {
	for _, p := range packages(t) {
		for _, s := range services {
			if !matches("services/"+s+"/...", p.name()) {
				continue
			}
			for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
				for _, o := range services {
					if o != s && matches(house+"services/"+o+"/...", path) {
						t.Errorf("the tests of %s import %s: a test over several services belongs to services/internal/e2e", p.name(), path)
					}
				}
			}
		}
	}
}

// The table itself is checked: a rule that lets everything pass would look like
// a clean house.
func TestBreaches(t *testing.T) {
	find := func(who string) layer {
		t.Helper()
		for _, l := range layers() {
			if l.who == who {
				return l
			}
		}
		t.Fatalf("no rule for %s", who)
		return layer{}
	}
	for _, c := range []struct {
		who, path string
		bad       bool
	}{
		{"libs/domain/...", "math", false},
		{"libs/domain/...", "gonum.org/v1/gonum/stat", false},
		{"libs/domain/...", house + "libs/domain/commerce", false},
		{"libs/domain/...", "net/http", true},
		{"libs/domain/...", "os", true},
		{"libs/domain/...", "context", true},
		{"libs/domain/...", house + "libs/stream", true},
		{"libs/domain/...", "github.com/google/uuid", true},
		{"libs/stream/step", house + "libs/stream/record", false},
		{"libs/stream/step", house + "libs/stream/broker", true},
		{"libs/...", house + "services/churn", true},
		{"proto/...", "google.golang.org/grpc", false},
		{"proto/...", house + "libs/domain/commerce", true},
		{"services/churn/...", house + "services/profile", true},
		{"services/churn/...", house + "libs/embedded", true},
		{"services/churn/...", house + "libs/stream", false},
	} {
		t.Run(fmt.Sprintf("%s imports %s", c.who, c.path), func(t *testing.T) {
			if got := len(breaches(find(c.who), []string{c.path})) > 0; got != c.bad {
				t.Errorf("breach = %t, want %t", got, c.bad)
			}
		})
	}
}
