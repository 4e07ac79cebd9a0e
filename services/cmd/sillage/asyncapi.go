package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"gopkg.in/yaml.v3"

	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	churnv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/churn/v1"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
	restockv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/restock/v1"
)

// messages are the types of the topics (ce_type).
var messages = map[string]func() proto.Message{
	step.TypeEvent: func() proto.Message { return &eventv1.Event{} }, step.TypeTick: func() proto.Message { return &eventv1.Tick{} },
	step.TypeImport: func() proto.Message { return &eventv1.ImportMark{} }, step.TypeShop: func() proto.Message { return &eventv1.ShopMark{} },
	topics.TypeActivity: func() proto.Message { return &profilev1.Activity{} }, topics.TypeMerged: func() proto.Message { return &profilev1.Merged{} },
	topics.TypeSupply: func() proto.Message { return &profilev1.Supply{} }, topics.TypeProduct: func() proto.Message { return &profilev1.Product{} },
	topics.TypeDelta: func() proto.Message { return &recommenderv1.Delta{} },
	topics.TypeAlert: func() proto.Message { return &churnv1.Alert{} }, topics.TypeSignal: func() proto.Message { return &restockv1.Signal{} },
	topics.TypeChurnStat: func() proto.Message { return &churnv1.Stat{} }, topics.TypeChurnModel: func() proto.Message { return &churnv1.Model{} },
	topics.TypeRestockStat: func() proto.Message { return &restockv1.Stat{} }, topics.TypeRestockLayer: func() proto.Message { return &restockv1.Layer{} },
}

// The parts of an AsyncAPI 3.0 document that are used here, in its order.
type (
	asyncAPI struct {
		AsyncAPI    string                  `yaml:"asyncapi"`
		Info        asyncInfo               `yaml:"info"`
		ContentType string                  `yaml:"defaultContentType"`
		Channels    map[string]asyncChannel `yaml:"channels"`
		Operations  map[string]asyncAction  `yaml:"operations"`
		Components  asyncComponents         `yaml:"components"`
	}
	asyncInfo struct {
		Title       string    `yaml:"title"`
		Version     string    `yaml:"version"`
		Description string    `yaml:"description"`
		License     yaml.Node `yaml:"license"`
	}
	asyncChannel struct {
		Address     string              `yaml:"address"`
		Description string              `yaml:"description"`
		Messages    map[string]asyncRef `yaml:"messages"`
		Bindings    map[string]any      `yaml:"bindings"`
		Key         string              `yaml:"x-key"`
		Writers     []string            `yaml:"x-written-by"`
		Readers     []string            `yaml:"x-read-by,omitempty"`
		Dedupe      string              `yaml:"x-dedupe-horizon,omitempty"`
	}
	asyncRef struct {
		Ref string `yaml:"$ref"`
	}
	asyncAction struct {
		Action  string   `yaml:"action"`
		Channel asyncRef `yaml:"channel"`
		Summary string   `yaml:"summary"`
	}
	asyncComponents struct {
		Messages      map[string]asyncMessage `yaml:"messages"`
		MessageTraits map[string]any          `yaml:"messageTraits"`
		Schemas       map[string]any          `yaml:"schemas"`
	}
	asyncMessage struct {
		Name        string     `yaml:"name"`
		ContentType string     `yaml:"contentType"`
		Description string     `yaml:"description"`
		Traits      []asyncRef `yaml:"traits"`
		Payload     any        `yaml:"payload"`
	}
)

// asyncDescription is what a subscriber may rely on.
const asyncDescription = `What Sillage reads and says, topic by topic. churn.alerts.v1 and restock.signals.v1, with their compacted states,
are for other systems; the rest is between the services and may change with any version.

What an effect promises: it comes at least once; a repeat has the same id (ce_id) and the same payload. Effects of one
key come in order. A subscriber that remembers ids for the time in x-dedupe-horizon acts once. Every effect says when it
was due by the event clock, and when it is of no more use. One that is withdrawn or superseded is followed by a new
record that names its id. The *.state.v1 topics always hold the latest effect of each key, so that a new subscriber can
start from them. What an import of history causes is marked historical: no action should follow.`

// writeAsyncAPI writes the catalogue as an AsyncAPI document. It says nothing
// of the running version, so that it changes only with the contract.
func writeAsyncAPI(w io.Writer) error {
	doc := asyncAPI{
		AsyncAPI: "3.0.0", ContentType: "application/protobuf",
		Info:     asyncInfo{Title: "Sillage", Version: "1", Description: asyncDescription},
		Channels: map[string]asyncChannel{}, Operations: map[string]asyncAction{},
		Components: asyncComponents{
			Messages: map[string]asyncMessage{}, Schemas: map[string]any{},
			MessageTraits: map[string]any{"cloudEvent": headersTrait()},
		},
	}
	if err := doc.Info.License.Encode(map[string]string{"name": "Apache-2.0"}); err != nil {
		return fmt.Errorf("write the license: %w", err)
	}
	for _, t := range topics.All() {
		c := asyncChannel{Address: t.Name, Description: t.Summary, Messages: map[string]asyncRef{}, Key: "shop/" + t.Key, Writers: t.Writers, Readers: t.Readers}
		policy := map[string]any{"cleanup.policy": []string{"delete"}, "retention.ms": t.Keep.Milliseconds()}
		if t.Compact {
			policy = map[string]any{"cleanup.policy": []string{"compact"}}
		}
		c.Bindings = map[string]any{"kafka": map[string]any{"partitions": topics.DefaultPartitions, "topicConfiguration": policy}}
		for _, kind := range t.Types {
			c.Messages[kind] = asyncRef{"#/components/messages/" + kind}
			doc.message(kind, t.Outside)
		}
		if t.Outside {
			c.Dedupe = fmt.Sprintf("P%dD", int(topics.DedupeHorizon.Hours()/24))
			doc.Operations["receive "+t.Name] = asyncAction{Action: "send", Channel: asyncRef{"#/channels/" + t.Name}, Summary: "Sillage sends; " + strings.Join(t.Readers, " and ") + " subscribe."}
		}
		doc.Channels[t.Name] = c
	}
	fmt.Fprintln(w, "# Generated by `sillage topics asyncapi` (make docs) from libs/topics and the protobuf messages.")
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(doc); err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	return e.Close()
}

// headersTrait are the headers that every record has.
func headersTrait() any {
	header := func(what string) any { return map[string]any{"type": "string", "description": what} }
	return map[string]any{"headers": map[string]any{"type": "object", "properties": map[string]any{
		"ce_specversion": header("1.0"), "ce_id": header("Equal on a repeat; what is derived is named by what it is derived from."),
		"ce_type": header("The message's type."), "ce_source": header("Who wrote it."), "ce_time": header("Event time."),
		"content-type": header("application/protobuf, or application/json where it leaves the system."), "traceparent": header("W3C trace context, where there is one."),
	}}}
}

// message adds a type and the schema of its data.
func (d *asyncAPI) message(kind string, outside bool) {
	desc := messages[kind]().ProtoReflect().Descriptor()
	m := asyncMessage{Name: kind, ContentType: "application/protobuf", Description: string(desc.FullName()), Traits: []asyncRef{{"#/components/messageTraits/cloudEvent"}}}
	if outside {
		m.ContentType = "application/json"
		m.Payload = asyncRef{"#/components/schemas/" + string(desc.FullName())}
		d.schema(desc)
	} else {
		m.Payload = map[string]any{
			"schemaFormat": "application/vnd.google.protobuf;version=3",
			"schema":       asyncRef{"../proto/" + desc.ParentFile().Path() + "#" + string(desc.Name())},
		}
	}
	d.Components.Messages[kind] = m
}

// schema adds the JSON schema of a message and of those inside it, as
// outsideJSON writes them.
func (d *asyncAPI) schema(m protoreflect.MessageDescriptor) {
	name := string(m.FullName())
	if _, ok := d.Components.Schemas[name]; ok {
		return
	}
	properties := map[string]any{}
	d.Components.Schemas[name] = map[string]any{"type": "object", "properties": properties}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		var s any
		switch f.Kind() {
		case protoreflect.MessageKind, protoreflect.GroupKind:
			d.schema(f.Message())
			s = asyncRef{"#/components/schemas/" + string(f.Message().FullName())}
		case protoreflect.EnumKind:
			s = map[string]any{"type": "string", "enum": enumNames(f.Enum())}
		case protoreflect.BoolKind:
			s = map[string]any{"type": "boolean"}
		case protoreflect.StringKind, protoreflect.BytesKind:
			s = map[string]any{"type": "string"}
		case protoreflect.FloatKind, protoreflect.DoubleKind:
			s = map[string]any{"type": "number"}
		default:
			s = map[string]any{"type": "integer"}
		}
		if f.IsList() {
			s = map[string]any{"type": "array", "items": s}
		}
		properties[string(f.Name())] = s
	}
}

func enumNames(e protoreflect.EnumDescriptor) []string {
	prefix := ""
	var names []string
	for i := range e.Values().Len() {
		name := string(e.Values().Get(i).Name())
		if i == 0 {
			prefix = strings.TrimSuffix(name, "UNSPECIFIED")
			continue
		}
		names = append(names, strings.ToLower(strings.TrimPrefix(name, prefix)))
	}
	return slices.Clip(names)
}
