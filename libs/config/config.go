package config

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// EnvPrefix is in front of every variable.
const EnvPrefix = "SILLAGE_"

// field is one setting.
type field struct {
	name   string
	usage  string
	secret bool
	value  reflect.Value
	from   string
}

func (f *field) env() string {
	return EnvPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(f.name))
}

// Set is a configuration bound to flags.
type Set struct {
	cfg    any
	fields []*field
	flags  *pflag.FlagSet
	file   string
}

// Bind registers a flag for each setting of cfg, a pointer to a struct with its
// defaults, and --config.file.
func Bind(flags *pflag.FlagSet, cfg any) *Set {
	s := &Set{cfg: cfg, flags: flags}
	s.walk("", reflect.ValueOf(cfg).Elem())
	for _, f := range s.fields {
		usage := f.usage
		if f.value.Kind() == reflect.Bool {
			flags.VarPF(&text{field: f}, f.name, "", usage).NoOptDefVal = "true"
			continue
		}
		flags.Var(&text{field: f}, f.name, usage)
	}
	flags.StringVar(&s.file, "config.file", "", "YAML file with settings")
	return s
}

func (s *Set) walk(prefix string, v reflect.Value) {
	t := v.Type()
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name == "-" || name == "" && options != "inline" {
			continue
		}
		full := strings.TrimPrefix(prefix+"."+name, ".")
		value := v.Field(i)
		if value.Kind() == reflect.Pointer { // nil: this process has no such settings
			if value.IsNil() {
				continue
			}
			value = value.Elem()
		}
		if value.Kind() == reflect.Struct {
			s.walk(full, value)
			continue
		}
		s.fields = append(s.fields, &field{
			name: full, usage: t.Field(i).Tag.Get("usage"), secret: t.Field(i).Tag.Get("secret") == "true", value: value, from: "default",
		})
	}
}

// text is a flag's value. It is set when flags are parsed, and taken over by
// Load, after file and environment.
type text struct {
	field *field
	given string
	set   bool
}

func (t *text) String() string {
	if t.field == nil {
		return ""
	}
	if t.field.secret {
		return ""
	}
	return format(t.field.value)
}

func (t *text) Set(v string) error {
	// Checked here, so that the flag is named; the value is put back for Load.
	old := reflect.New(t.field.value.Type()).Elem()
	old.Set(t.field.value)
	err := parse(t.field.value, v)
	t.field.value.Set(old)
	t.given, t.set = v, true
	return err
}

func (t *text) Type() string {
	switch t.field.value.Interface().(type) {
	case time.Duration:
		return "duration"
	case []string:
		return "list"
	}
	return t.field.value.Kind().String()
}

// Load fills the configuration; environ is like os.Environ. The struct's own
// Validate, where it has one, is asked last.
func (s *Set) Load(environ []string) error {
	var errs []error
	env := map[string]string{}
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, EnvPrefix) {
			env[name] = value
		}
	}
	if s.file == "" {
		s.file = env[EnvPrefix+"CONFIG_FILE"]
	}
	delete(env, EnvPrefix+"CONFIG_FILE")
	if s.file != "" {
		errs = append(errs, s.read(s.file))
	}
	for _, f := range s.fields {
		if v, ok := env[f.env()]; ok {
			if err := parse(f.value, v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", f.env(), err))
			}
			f.from = "environment"
			delete(env, f.env())
		}
	}
	unknown := make([]string, 0, len(env))
	for name := range env {
		if strings.HasPrefix(name, EnvPrefix+"TEST_") || name == EnvPrefix+"DATA" {
			continue // of the tests
		}
		unknown = append(unknown, name)
	}
	sort.Strings(unknown)
	for _, name := range unknown {
		errs = append(errs, fmt.Errorf("%s: no such setting%s", name, s.nearest(name, (*field).env)))
	}
	s.flags.VisitAll(func(flag *pflag.Flag) {
		if t, ok := flag.Value.(*text); ok && t.set {
			if err := parse(t.field.value, t.given); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", flag.Name, err))
			}
			t.field.from = "flag"
		}
	})
	if v, ok := s.cfg.(interface{ Validate() error }); ok && errors.Join(errs...) == nil {
		errs = append(errs, v.Validate())
	}
	return errors.Join(errs...)
}

// read takes over a YAML file.
func (s *Set) read(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return fmt.Errorf("read settings of %s: %w", name, err)
	}
	flat := map[string]string{}
	flatten("", tree, flat)
	var errs []error
	for _, f := range s.fields {
		v, ok := flat[f.name]
		if !ok {
			continue
		}
		delete(flat, f.name)
		if err := parse(f.value, v); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", name, f.name, err))
		}
		f.from = "file"
	}
	unknown := make([]string, 0, len(flat))
	for k := range flat {
		unknown = append(unknown, k)
	}
	sort.Strings(unknown)
	for _, k := range unknown {
		errs = append(errs, fmt.Errorf("%s: %s: no such setting%s", name, k, s.nearest(k, func(f *field) string { return f.name })))
	}
	return errors.Join(errs...)
}

func flatten(prefix string, v any, flat map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, sub := range v {
			flatten(strings.TrimPrefix(prefix+"."+k, "."), sub, flat)
		}
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, fmt.Sprint(e))
		}
		flat[prefix] = list(all)
	case nil:
		flat[prefix] = ""
	default:
		flat[prefix] = fmt.Sprint(v)
	}
}

// nearest names the setting that was likely meant.
func (s *Set) nearest(name string, of func(*field) string) string {
	best, least := "", 4
	for _, f := range s.fields {
		if d := distance(name, of(f)); d < least {
			best, least = of(f), d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (is it %s?)", best)
}

// distance is how many letters have to change (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func list(all []string) string {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.Write(all) // a buffer takes everything
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

func format(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case []string:
		return list(x)
	}
	return fmt.Sprint(v.Interface())
}

func parse(v reflect.Value, s string) error {
	switch v.Interface().(type) {
	case time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is no duration such as 1m30s", s)
		}
		v.SetInt(int64(d))
		return nil
	case []string:
		if s == "" {
			v.Set(reflect.Zero(v.Type()))
			return nil
		}
		all, err := csv.NewReader(strings.NewReader(s)).Read()
		if err != nil {
			return fmt.Errorf("%q is no list such as a,b", s)
		}
		v.Set(reflect.ValueOf(all))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is no whole number", s)
		}
		v.SetInt(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%q is no number", s)
		}
		v.SetFloat(n)
	default:
		return fmt.Errorf("a %s cannot be set", v.Type())
	}
	return nil
}

// Print writes the configuration as YAML, with where each setting comes from;
// secrets are not shown.
func (s *Set) Print(w io.Writer) error {
	var b bytes.Buffer
	var open []string
	for _, f := range s.fields {
		path := strings.Split(f.name, ".")
		dir := path[:len(path)-1]
		same := 0
		for same < len(dir) && same < len(open) && dir[same] == open[same] {
			same++
		}
		for i := same; i < len(dir); i++ {
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", i), dir[i])
		}
		open = dir
		value := format(f.value)
		if f.secret && value != "" {
			value = "REDACTED"
		}
		line, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("print settings: %w", err)
		}
		if _, ok := reflect.TypeAssert[string](f.value); !ok && !f.secret {
			line = []byte(value + "\n")
			if _, ok := reflect.TypeAssert[[]string](f.value); ok {
				line = []byte("[" + value + "]\n")
			}
		}
		fmt.Fprintf(&b, "%s%s: %s # %s (%s)\n", strings.Repeat("  ", len(dir)), path[len(path)-1], strings.TrimSuffix(string(line), "\n"), f.usage, f.from)
	}
	_, err := w.Write(b.Bytes())
	return err
}
