package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/topics"
	"github.com/sillage-io/sillage/libs/web"
	"github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/collector"
	"github.com/sillage-io/sillage/services/profile"
	"github.com/sillage-io/sillage/services/recommender"
	"github.com/sillage-io/sillage/services/restock"
)

// reach is how the looking commands find broker and store.
type reach struct {
	kafka, redis   []string
	admin          string
	identitySecret string
	dataDir        string
	timezone       string
	models         string
	threshold      float64
	serviceLevel   float64
}

func (r *reach) brokerFlags(c *cobra.Command) {
	c.Flags().StringSliceVar(&r.kafka, "kafka", []string{defaultUp().EmbeddedKafka}, "host:port of the Kafka brokers; the default is that of a local up")
}

func (r *reach) storeFlags(c *cobra.Command) {
	c.Flags().StringSliceVar(&r.redis, "redis", []string{defaultUp().EmbeddedRedis}, "host:port of Redis; the default is that of a local up")
}

// statusFlags choose whom to ask how things stand: up, or, where services are
// processes of their own, broker and store.
func (r *reach) statusFlags(c *cobra.Command) {
	c.Flags().StringVar(&r.admin, "admin", "http://"+defaultUp().Process.Admin.Listen, "where up answers operators")
	c.Flags().StringSliceVar(&r.kafka, "kafka", nil, "host:port of Kafka brokers to ask in place of up, where each service is a process of its own; with --redis")
	c.Flags().StringSliceVar(&r.redis, "redis", nil, "host:port of Redis, with --kafka")
	c.MarkFlagsRequiredTogether("kafka", "redis")
	c.MarkFlagsMutuallyExclusive("admin", "kafka")
}

// status asks how things stand.
func (r *reach) status(ctx context.Context) (*status, error) {
	if len(r.kafka) == 0 {
		return getStatus(ctx, r.admin)
	}
	client, err := r.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	store, err := r.store()
	if err != nil {
		return nil, err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	s := &status{Version: web.Version()}
	s.Processors, err = stream.Survey(ctx, client, store, processors(defaultUp()))
	return s, err
}

func (r *reach) client() (*broker.Client, error) {
	cfg := broker.DefaultConfig()
	cfg.Brokers = r.kafka
	return broker.New(cfg)
}

func (r *reach) store() (*state.Store, error) {
	cfg := state.DefaultConfig()
	cfg.Addrs, cfg.Cluster = r.redis, len(r.redis) > 1
	return state.Open(cfg)
}

// getStatus asks up how it stands.
func getStatus(ctx context.Context, admin string) (*status, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, admin+"/status", nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", admin, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s (is sillage up?): %w", admin, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", admin, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask %s: %s: %s", admin, res.Status, strings.TrimSpace(string(body)))
	}
	var s status
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", admin, err)
	}
	return &s, nil
}

func statusCommand() *cobra.Command {
	var r reach
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Show how shops and processors stand", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := r.status(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(s)
			}
			return printStatus(c.OutOrStdout(), s)
		},
	}
	r.statusFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func printStatus(w io.Writer, s *status) error {
	if len(s.Parts) > 0 { // up has answered, not broker and store
		ready := "ready"
		if !s.Ready {
			ready = "NOT ready"
		}
		fmt.Fprintf(w, "sillage %s: %s\n", s.Version, ready)
		for _, p := range s.Parts {
			if !p.OK {
				fmt.Fprintf(w, "  %s: %s\n", p.Name, p.Err)
			}
			if p.Detail != "" {
				fmt.Fprintf(w, "  %s: %s\n", p.Name, p.Detail)
			}
		}
		fmt.Fprintf(w, "events since the start: %d accepted, %d rejected, %d refused, %d not acknowledged\n\n", s.Collector.Accepted, s.Collector.Rejected, s.Collector.Refused, s.Collector.Failed)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SHOP\tMODE\tSINCE\tCLOCK\tHELD BACK BY")
	for _, shop := range shopsOf(s) {
		clock, held := shopClock(s, shop.Name)
		since := "-"
		if !shop.Since.IsZero() {
			since = shop.Since.UTC().Format(time.DateTime)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", shop.Name, shop.Mode, since, clock, held)
	}
	fmt.Fprintln(t, "\nPROCESSOR\tPART\tSTATE\tLAG\tWAITING\tENTITIES\tFOLDED\tDUPLICATES\tDEAD\tPUBLISHED\tNEXT\tMARK\tBASE\tLOG")
	owned := map[string]stream.PartitionInfo{}
	for _, o := range s.Owned {
		owned[fmt.Sprintf("%s/%d", o.Processor, o.Partition)] = o
	}
	for _, p := range s.Processors {
		o, ok := owned[fmt.Sprintf("%s/%d", p.Processor, p.Partition)]
		state, base := "elsewhere", "-"
		if ok {
			state = o.State
			if o.Reason != "" {
				state += ": " + o.Reason
			}
			if !o.BaseAt.IsZero() {
				base = time.Since(o.BaseAt).Round(time.Second).String()
			}
		}
		st := p.Status
		if ok {
			st = o.Status
		}
		if p.Silent != "" && !ok {
			state += ", silent: " + string(p.Silent) + " (sillage speak ends it)"
		}
		if n := len(st.Incomplete); n > 0 {
			state += fmt.Sprintf(", INCOMPLETE since %d", st.Incomplete[n-1])
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%d-%d\n", p.Processor, p.Partition, state, p.Lag(), st.Waiting, st.Entities,
			p.Status.Counts.Folded, p.Status.Counts.Duplicates, p.Status.Counts.Dead, p.Status.Counts.Published, p.Next, p.Mark, base, p.Start, p.End)
	}
	return t.Flush()
}

// shopsOf are the shops as the collector knows them, or, where it was not asked,
// as the processors do.
func shopsOf(s *status) []collector.Shop {
	if len(s.Shops) > 0 {
		return s.Shops
	}
	modes := map[string]collector.Mode{}
	for _, p := range s.Processors {
		for name, st := range p.Status.Shops {
			modes[name] = collector.Mode(st.Mode)
		}
	}
	all := make([]collector.Shop, 0, len(modes))
	for _, name := range slices.Sorted(maps.Keys(modes)) {
		all = append(all, collector.Shop{Name: name, Mode: modes[name]})
	}
	return all
}

// shopClock is where a shop's clock stands: the lowest of all partitions, and
// what holds it there.
func shopClock(s *status, shop string) (clock, held string) {
	least, name := int64(-1), "-"
	for _, p := range s.Processors {
		st, ok := p.Status.Shops[shop]
		if !ok {
			continue
		}
		if us := int64(st.Clock); least < 0 || us < least {
			least, name = us, fmt.Sprintf("%s/%d, by partition %d of %s", p.Processor, p.Partition, st.HeldBy, topics.Events)
		}
	}
	if least <= 0 {
		return "-", name
	}
	return time.UnixMicro(least).UTC().Format(time.DateTime), name
}

func topicsCommand() *cobra.Command {
	c := &cobra.Command{Use: "topics", Short: "List the topics, or make them on a broker"}
	var asJSON bool
	list := &cobra.Command{Use: "list", Short: "List the topics and what they are for", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		if asJSON {
			return json.NewEncoder(c.OutOrStdout()).Encode(topics.All())
		}
		t := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "TOPIC\tKEY\tWRITTEN BY\tREAD BY\tKEPT\tWHAT")
		for _, topic := range topics.All() {
			kept := fmt.Sprintf("%d days", int(topic.Keep.Hours()/24))
			if topic.Compact {
				kept = "latest of each key"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", topic.Name, topic.Key, strings.Join(topic.Writers, ", "), strings.Join(topic.Readers, ", "), kept, topic.Summary)
		}
		return t.Flush()
	}}
	list.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	var r reach
	var partitions int
	apply := &cobra.Command{Use: "apply", Short: "Make the topics that are missing on a broker", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		client, err := r.client()
		if err != nil {
			return err
		}
		defer client.Close()
		if err := client.EnsureTopics(c.Context(), stream.Specs(partitions)); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%d topics with %d partitions each\n", len(topics.All()), partitions)
		return nil
	}}
	r.brokerFlags(apply)
	apply.Flags().IntVar(&partitions, "partitions", topics.DefaultPartitions, "partitions of each topic, chosen for good")
	asyncapi := &cobra.Command{Use: "asyncapi", Short: "Print the topics and their messages as an AsyncAPI document", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return writeAsyncAPI(c.OutOrStdout())
	}}
	c.AddCommand(list, apply, asyncapi)
	return c
}

func verifyCommand() *cobra.Command {
	var r reach
	var asJSON bool
	var snapshot string
	c := &cobra.Command{
		Use: "verify [PROCESSOR...]", Short: "Fold the log again and compare state and effects", ValidArgsFunction: completeProcessors,
		Long: `Fold the log of every partition again, offline, and compare the state in the store byte by
byte, and what was published effect by effect, dead letters among it. It reads only, and
may run beside a running system. With --from-snapshot it compares a snapshot in place of
the store.`,
		RunE: func(c *cobra.Command, args []string) error {
			ps, err := r.processors()
			if err != nil {
				return err
			}
			if _, err := named(ps, args); err != nil {
				return err
			}
			op, done, err := r.operator(snapshot == "")
			if err != nil {
				return err
			}
			defer done()
			if op.Bases, err = r.bases(); err != nil {
				return err
			}
			return verify(c.Context(), c.OutOrStdout(), ps, args, asJSON, op.Client, func(p stream.Processor, i int32) (stream.Verdict, error) {
				if snapshot != "" {
					return stream.VerifySnapshot(c.Context(), op.Client, snapshot, op.Bases, p, i)
				}
				return stream.Verify(c.Context(), op.Client, op.Store, op.Bases, p, i)
			})
		},
	}
	r.brokerFlags(c)
	r.storeFlags(c)
	r.foldFlags(c)
	c.Flags().StringVar(&snapshot, "from-snapshot", "", "directory of a snapshot to compare, in place of the store")
	_ = c.MarkFlagDirname("from-snapshot")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a partition")
	return c
}

// bases are those of a local data directory; nil where there is none.
func (r *reach) bases() (*state.Bases, error) {
	dir := filepath.Join(r.dataDir, "bases")
	if _, err := os.Stat(dir); err != nil {
		return nil, nil //nolint:nilerr,nilnil // of another machine, or on a store that keeps its own
	}
	return state.NewBases(dir)
}

// processors are all, with the settings that their folds depend on.
func (r *reach) processors() ([]stream.Processor, error) {
	cfg := defaultUp()
	cfg.DataDir, cfg.IdentitySecret, cfg.Timezone, cfg.Threshold, cfg.ServiceLevel, cfg.Models = r.dataDir, r.identitySecret, r.timezone, r.threshold, r.serviceLevel, r.models
	if cfg.IdentitySecret == "" {
		if _, err := os.Stat(cfg.DataDir); err != nil {
			return nil, fmt.Errorf("find the identity secret (give --data-dir or --identity-secret): %w", err)
		}
	}
	secret, err := identitySecret(cfg)
	if err != nil {
		return nil, err
	}
	if _, err := cfg.modelFile(); err != nil {
		return nil, err
	}
	judge, err := cfg.churn(secret).Loaded()
	if err != nil {
		return nil, err
	}
	return processorsOf(cfg, secret, judge), nil
}

// processors are all, for who asks for no more than what they are called and what
// they read and write.
func processors(cfg upConfig) []stream.Processor { return processorsOf(cfg, "", cfg.churn("")) }

func processorsOf(cfg upConfig, secret string, judge churn.Config) []stream.Processor {
	return slices.Concat(
		[]stream.Processor{profile.Processor(cfg.profile(secret)), recommender.Processor(cfg.recommender(secret))},
		churn.Processors(judge), restock.Processors(cfg.restock()),
	)
}

func verify(ctx context.Context, w io.Writer, ps []stream.Processor, only []string, asJSON bool, client *broker.Client, each func(stream.Processor, int32) (stream.Verdict, error)) error {
	bad := 0
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(t, "PROCESSOR\tPART\tRECORDS\tENTITIES\tEFFECTS\tMISSING\tUNEXPLAINED\tREPEATS\tEXPIRED\tWITHHELD\tDEAD\tDIGEST\tVERDICT")
	}
	for _, p := range ps {
		if len(only) > 0 && !slices.Contains(only, p.Name) {
			continue
		}
		n, err := client.Partitions(ctx, p.Topic)
		if err != nil {
			return err
		}
		for i := range int32(n) {
			v, err := each(p, i)
			if err != nil {
				if ctx.Err() != nil || !errors.Is(err, stream.ErrUnverifiable) {
					return err
				}
				bad++
				if asJSON {
					if err := json.NewEncoder(w).Encode(map[string]any{"Processor": p.Name, "Partition": i, "Unverifiable": err.Error()}); err != nil {
						return err
					}
					continue
				}
				fmt.Fprintf(t, "%s\t%d\t\t\t\t\t\t\t\t\t\t%v\n", p.Name, i, err)
				continue
			}
			if !v.OK() {
				bad++
			}
			if asJSON {
				if err := json.NewEncoder(w).Encode(v); err != nil {
					return err
				}
				continue
			}
			verdict := "equal"
			if v.From > 0 {
				verdict = fmt.Sprintf("equal since %d, where a base was taken", v.From)
			}
			if !v.OK() {
				verdict = "DIFFERENT: " + strings.Join(append(v.Different, v.Examples...), "; ")
			}
			fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", v.Processor, v.Partition, v.To-v.From, v.Entities, v.Effects, v.Missing, v.Unexplained, v.Repeats, v.Expired, v.Withheld, v.Dead, v.Digest, verdict)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d partitions are not what their log says", bad)
	}
	return nil
}

// tailOptions choose what tail shows.
type tailOptions struct {
	from, until, shop string
	json, csv         bool
}

func tailCommand() *cobra.Command {
	var r reach
	var o tailOptions
	c := &cobra.Command{
		Use: "tail TOPIC", Short: "Show a topic's records, decoded", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, t := range topics.All() {
				names = append(names, t.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			if _, ok := topics.Lookup(args[0]); !ok {
				return fmt.Errorf("no topic is called %s: sillage topics list names them", args[0])
			}
			client, err := r.client()
			if err != nil {
				return err
			}
			defer client.Close()
			return tail(c.Context(), c.OutOrStdout(), client, args[0], o)
		},
	}
	r.brokerFlags(c)
	c.Flags().StringVar(&o.from, "from", "end", "start, end, an offset, or a time of append such as 2026-01-31T12:00:00Z")
	c.Flags().StringVar(&o.until, "until", "", "end: stop where the log ends now; empty: go on")
	c.Flags().StringVar(&o.shop, "shop", "", "only records of this shop")
	c.Flags().BoolVar(&o.json, "json", false, "one JSON object a line: id, type, subject, time, data")
	c.Flags().BoolVar(&o.csv, "csv", false, "CSV, of the outgoing topics")
	return c
}

// errEnd ends a tail.
var errEnd = errors.New("end of the log")

func tail(ctx context.Context, w io.Writer, client *broker.Client, topic string, o tailOptions) error {
	n, err := client.Partitions(ctx, topic)
	if err != nil {
		return err
	}
	next, ends := map[stream.Place]int64{}, map[stream.Place]int64{}
	left := 0
	for i := range int32(n) {
		at := stream.Place{Topic: topic, Partition: i}
		start, end, err := client.Bounds(ctx, topic, i)
		if err != nil {
			return err
		}
		if next[at], err = tailStart(ctx, client, at, o.from, start, end); err != nil {
			return err
		}
		if ends[at] = end; next[at] < end {
			left++
		}
	}
	if o.until != "" && o.until != "end" {
		return fmt.Errorf("--until %q: only end is known", o.until)
	}
	if o.until == "end" && left == 0 {
		return nil
	}
	p := printer{w: w, json: o.json}
	if o.csv {
		p.csv = csv.NewWriter(w)
		defer p.csv.Flush()
	}
	done := map[stream.Place]bool{}
	var mu sync.Mutex
	view := stream.NewView(client, slog.New(slog.DiscardHandler), stream.FromEnd, func(rec record.Record) error {
		mu.Lock()
		defer mu.Unlock()
		at := stream.Place{Topic: topic, Partition: rec.Partition}
		if o.until == "end" && rec.Offset >= ends[at] {
			return nil
		}
		if o.shop == "" || shopOf(&rec) == o.shop {
			if err := p.print(&rec); err != nil {
				return err
			}
		}
		if o.until == "end" && rec.Offset == ends[at]-1 && !done[at] {
			done[at] = true
			if left--; left == 0 {
				return errEnd
			}
		}
		return nil
	}, topic)
	view.Seek(next)
	if err := view.Run(ctx); err != nil && !errors.Is(err, errEnd) {
		return err
	}
	return nil
}

func shopOf(r *record.Record) string {
	if s := r.Header(record.HeaderShop); s != nil {
		return string(s)
	}
	shop, _, _ := strings.Cut(string(r.Key), "/")
	return shop
}

func tailStart(ctx context.Context, client *broker.Client, at stream.Place, from string, start, end int64) (int64, error) {
	switch from {
	case "start":
		return start, nil
	case "end", "":
		return end, nil
	}
	if n, err := strconv.ParseInt(from, 10, 64); err == nil {
		return min(max(n, start), end), nil
	}
	when, err := time.Parse(time.RFC3339, from)
	if err != nil {
		return 0, fmt.Errorf("--from %q is none of start, end, an offset, a time such as 2026-01-31T12:00:00Z", from)
	}
	off, err := client.OffsetAt(ctx, at.Topic, at.Partition, when.UnixMilli())
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return end, nil
	}
	return off, nil
}

// printer writes records for people, scripts or spreadsheets.
type printer struct {
	w      io.Writer
	json   bool
	csv    *csv.Writer
	header []string
}

// data is a record's value as JSON.
func data(r *record.Record) json.RawMessage {
	if string(r.Header(record.HeaderContentType)) == "application/json" && json.Valid(r.Value) {
		return r.Value
	}
	if make, ok := messages[string(r.Header(record.HeaderType))]; ok {
		m := make()
		if proto.Unmarshal(r.Value, m) == nil {
			if b, err := (protojson.MarshalOptions{UseProtoNames: true}).Marshal(m); err == nil {
				var compact json.RawMessage
				if json.Unmarshal(b, &compact) == nil {
					return compact
				}
			}
		}
	}
	raw, err := json.Marshal(map[string][]byte{"raw": r.Value})
	if err != nil {
		return json.RawMessage("null")
	}
	return raw
}

func (p *printer) print(r *record.Record) error {
	when := string(r.Header(record.HeaderTime))
	if ms, err := strconv.ParseInt(when, 10, 64); err == nil {
		when = time.UnixMilli(ms).UTC().Format(time.RFC3339Nano)
	}
	id, kind, subject := string(r.Header(record.HeaderID)), string(r.Header(record.HeaderType)), string(r.Header(record.HeaderSubject))
	value := data(r)
	switch {
	case p.csv != nil:
		return p.row(r, value)
	case p.json:
		line := map[string]any{"topic": r.Topic, "partition": r.Partition, "offset": r.Offset, "key": string(r.Key), "id": id, "type": kind, "subject": subject, "time": when, "data": value}
		if reason := r.Header(record.HeaderReason); reason != nil {
			line["reason"] = string(reason)
		}
		if string(r.Header(record.HeaderHistorical)) == "1" {
			line["historical"] = true
		}
		return json.NewEncoder(p.w).Encode(line)
	}
	reason := ""
	if v := r.Header(record.HeaderReason); v != nil {
		reason = " REASON " + string(v)
	}
	_, err := fmt.Fprintf(p.w, "%s/%d@%d %s %s %s%s\n    %s\n", r.Topic, r.Partition, r.Offset, when, kind, r.Key, reason, value)
	return err
}

// row writes the flat fields of a payload; the first record decides which.
func (p *printer) row(r *record.Record, value json.RawMessage) error {
	var fields map[string]any
	if err := json.Unmarshal(value, &fields); err != nil {
		return fmt.Errorf("%s/%d@%d: not a JSON object: %w", r.Topic, r.Partition, r.Offset, err)
	}
	if p.header == nil {
		switch r.Topic {
		case topics.ChurnAlerts, topics.ChurnState:
			p.header = columnsOf(churn.Payload{})
		case topics.RestockSignals, topics.RestockState:
			p.header = columnsOf(restock.Payload{})
		default:
			return errors.New("--csv is for the topics that leave the system: " + topics.ChurnAlerts + ", " + topics.ChurnState + ", " + topics.RestockSignals + ", " + topics.RestockState)
		}
		if err := p.csv.Write(p.header); err != nil {
			return err
		}
	}
	row := make([]string, len(p.header))
	for i, name := range p.header {
		switch v := fields[name].(type) {
		case nil:
		case string:
			row[i] = v
		case float64:
			row[i] = strconv.FormatFloat(v, 'f', -1, 64)
		default:
			b, err := json.Marshal(v)
			if err != nil {
				return err
			}
			row[i] = string(b)
		}
	}
	return p.csv.Write(row)
}

// columnsOf lists the fields of a payload in their order.
func columnsOf(payload any) []string {
	t := reflect.TypeOf(payload)
	names := make([]string, t.NumField())
	for i := range names {
		names[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return names
}
