package eval

import (
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

//go:embed report.html
var reportPage string

// Setting is a name and a value that a run had.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Set makes a setting of any value.
func Set(name string, value any) Setting { return Setting{name, fmt.Sprint(value)} }

// Run is what makes a result repeatable.
type Run struct {
	Command  string    `json:"command"`
	Version  string    `json:"version"`
	Seed     uint64    `json:"seed"`
	Files    []Source  `json:"files"`
	Settings []Setting `json:"settings"` // all of them, the defaults too
}

// Report is a page in the making: sections with tables and plots, in the order
// they are added, and at the end how it was made.
type Report struct {
	Title string
	Lede  string // what came out, in a sentence or two
	Run   Run

	sections []*section
}

type section struct {
	Heading string
	Texts   []string
	Parts   []part
}

// part is a table or a plot.
type part struct {
	Grid *Grid
	Plot *picture
}

type picture struct {
	Plot
	Light template.URL
	Dark  template.Srcset
	file  []byte
}

// Grid is a table of a report.
type Grid struct {
	Caption string
	Head    []string
	Rows    [][]string // columns whose cells are numbers stand at the right
	Bold    int        // row to point out, from 1; 0: none
}

// Section begins a section.
func (r *Report) Section(heading string, texts ...string) {
	r.sections = append(r.sections, &section{Heading: heading, Texts: texts})
}

func (r *Report) last() *section {
	if len(r.sections) == 0 {
		r.Section("Results")
	}
	return r.sections[len(r.sections)-1]
}

// Table adds a table to the section. Rows are cut or filled up to the length of
// the head.
func (r *Report) Table(g Grid) {
	for i, row := range g.Rows {
		full := make([]string, len(g.Head))
		copy(full, row)
		g.Rows[i] = full
	}
	s := r.last()
	s.Parts = append(s.Parts, part{Grid: &g})
}

// Plot draws a plot into the section.
func (r *Report) Plot(p Plot) error {
	l, err := p.png(light())
	if err != nil {
		return err
	}
	d, err := p.png(dark())
	if err != nil {
		return err
	}
	url := func(b []byte) string { return "data:image/png;base64," + base64.StdEncoding.EncodeToString(b) }
	s := r.last()
	s.Parts = append(s.Parts, part{Plot: &picture{Plot: p, Light: template.URL(url(l)), Dark: template.Srcset(url(d)), file: l}})
	return nil
}

// Write writes DIR/report.html and one DIR/NAME.png a plot, and makes DIR where
// it is not there. It returns the path of the page.
func (r *Report) Write(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("write report: %w", err)
	}
	for _, s := range r.sections {
		for _, p := range s.Parts {
			if p.Plot == nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, p.Plot.Name+".png"), p.Plot.file, 0o644); err != nil {
				return "", fmt.Errorf("write report: %w", err)
			}
		}
	}
	t, err := template.New("report").Funcs(template.FuncMap{"numeric": numeric, "inc": func(i int) int { return i + 1 }, "bytes": size}).Parse(reportPage)
	if err != nil {
		return "", fmt.Errorf("write report: %w", err)
	}
	path := filepath.Join(dir, "report.html")
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("write report: %w", err)
	}
	err = errors.Join(t.Execute(f, struct {
		*Report
		Sections []*section
	}{r, r.sections}), f.Close())
	if err != nil {
		return "", fmt.Errorf("write report: %w", err)
	}
	return path, nil
}

// numeric tells whether a cell is a figure, which stands at the right.
func numeric(cell string) bool {
	if cell == "-" {
		return true
	}
	first, _, _ := strings.Cut(strings.TrimLeft(cell, "+-−<>~≈ "), " ")
	first = strings.NewReplacer(",", "", "%", "", "..", "", "[", "", "]", "", "/", "").Replace(first)
	_, err := strconv.ParseFloat(first, 64)
	return err == nil
}

// size is a number of bytes for people.
func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
