package eval

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// Plot is a picture of a report: lines and points, or bars by category. Values
// that are not finite, and those that a logarithmic axis cannot show, are left
// out.
type Plot struct {
	Name       string // of the PNG file, without its end: letters, digits and "-"
	Title      string // also what the page tells those who do not see it
	Note       string // what to see in it, below the picture
	X, Y       string // names of the axes, with units
	Lines      []Line
	Categories []string // of bars
	Bars       []Bars
	LogX, LogY bool
	TimeX      bool        // X is in seconds since 1970, shown as dates
	RangeY     *[2]float64 // nil: what the values need
}

// Line is a curve, or points.
type Line struct {
	Label     string // "" keeps it out of the legend
	X, Y      []float64
	Low, High []float64 // a band around it; nil: none
	Dashed    bool      // for what is compared with, such as the ideal
	Points    bool      // dots in place of a curve
}

// Bars is one bar for each category.
type Bars struct {
	Label     string
	Values    []float64
	Low, High []float64 // ends of its interval; nil: none
}

// shades are the colours of a plot.
type shades struct {
	paper, ink, faint color.RGBA
	series            []color.RGBA
}

// Colours that differ for all kinds of colour blindness (Okabe and Ito, 2008),
// darkened and lightened to stand out from paper and from black. There are no more
// that everybody tells apart: what comes after them has the same colours with
// dashes, and every curve a mark of its own.
func light() shades {
	return shades{
		paper: color.RGBA{255, 255, 255, 255}, ink: color.RGBA{31, 35, 40, 255}, faint: color.RGBA{225, 228, 232, 255},
		series: []color.RGBA{{0, 98, 172, 255}, {213, 94, 0, 255}, {0, 140, 104, 255}, {190, 80, 155, 255}, {176, 132, 0, 255}, {84, 88, 94, 255}},
	}
}

func dark() shades {
	return shades{
		paper: color.RGBA{22, 27, 34, 255}, ink: color.RGBA{222, 227, 233, 255}, faint: color.RGBA{48, 54, 61, 255},
		series: []color.RGBA{{86, 172, 240, 255}, {245, 145, 60, 255}, {50, 196, 155, 255}, {230, 150, 205, 255}, {240, 214, 80, 255}, {176, 182, 190, 255}},
	}
}

// look is how a curve is drawn.
type look struct {
	colour color.RGBA
	width  vg.Length
	dashes []vg.Length
	mark   draw.GlyphDrawer
}

// look of the i-th curve. The first is what a report is about, and is stronger.
func (s shades) look(i int) look {
	l := look{colour: s.series[i%len(s.series)], width: 1.4}
	switch i / len(s.series) % 3 {
	case 1:
		l.dashes = []vg.Length{5, 2.5}
	case 2:
		l.dashes = []vg.Length{1.5, 2}
	}
	if i == 0 {
		l.width = 2.4
	}
	marks := []draw.GlyphDrawer{
		corners{sides: 24, full: true},
		corners{sides: 4, turn: math.Pi / 4, full: true},
		corners{sides: 3, turn: math.Pi / 2, full: true},
		corners{sides: 4, full: true},
		corners{sides: 3, turn: -math.Pi / 2, full: true},
		arms{turn: math.Pi / 4},
		corners{sides: 24},
		corners{sides: 4, turn: math.Pi / 4},
		corners{sides: 3, turn: math.Pi / 2},
		corners{sides: 4},
		corners{sides: 3, turn: -math.Pi / 2},
		arms{},
	}
	l.mark = marks[i%len(marks)]
	return l
}

// corners is a mark with so many corners, the first at an angle.
type corners struct {
	sides int
	turn  float64
	full  bool
}

// DrawGlyph implements draw.GlyphDrawer.
func (g corners) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	var path vg.Path
	radius := float64(style.Radius)
	if g.sides < 5 {
		radius *= 1.3 // of the same weight as a disc
	}
	for k := range g.sides {
		sin, cos := math.Sincos(g.turn + 2*math.Pi*float64(k)/float64(g.sides))
		p := vg.Point{X: at.X + vg.Length(radius*cos), Y: at.Y + vg.Length(radius*sin)}
		if k == 0 {
			path.Move(p)
		} else {
			path.Line(p)
		}
	}
	path.Close()
	c.SetColor(style.Color)
	if g.full {
		c.Fill(path)
		return
	}
	c.SetLineStyle(draw.LineStyle{Color: style.Color, Width: 1.1})
	c.Stroke(path)
}

// arms is a cross, turned by an angle.
type arms struct{ turn float64 }

// DrawGlyph implements draw.GlyphDrawer.
func (g arms) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	line := draw.LineStyle{Color: style.Color, Width: 1.3}
	for _, turn := range []float64{g.turn, g.turn + math.Pi/2} {
		sin, cos := math.Sincos(turn)
		dx, dy := vg.Length(1.2*cos)*style.Radius, vg.Length(1.2*sin)*style.Radius
		c.StrokeLine2(line, at.X-dx, at.Y-dy, at.X+dx, at.Y+dy)
	}
}

// size of a picture, and dots an inch: sharp on dense screens.
const (
	plotWidth  = 7.6 * vg.Inch
	plotHeight = 4.1 * vg.Inch
	plotDPI    = 180
)

// png draws the plot.
func (p Plot) png(s shades) (data []byte, err error) {
	defer func() { // the plotting library panics on ranges that it cannot divide
		if r := recover(); r != nil {
			err = fmt.Errorf("plot %s: %v", p.Name, r)
		}
	}()
	pl := plot.New()
	p.frame(pl, s)
	if len(p.Bars) > 0 {
		err = p.bars(pl, s)
	} else {
		err = p.lines(pl, s)
	}
	if err != nil {
		return nil, fmt.Errorf("plot %s: %w", p.Name, err)
	}
	if p.RangeY != nil {
		pl.Y.Min, pl.Y.Max = p.RangeY[0], p.RangeY[1]
	}
	c := vgimg.NewWith(vgimg.UseWH(plotWidth, plotHeight), vgimg.UseDPI(plotDPI), vgimg.UseBackgroundColor(s.paper))
	area := draw.Crop(draw.New(c), .1*vg.Inch, -.16*vg.Inch, .08*vg.Inch, -.1*vg.Inch)
	// The legend stands beside the plot, where it hides nothing.
	legend := pl.Legend
	pl.Legend = plot.NewLegend()
	size := legend.Rectangle(area)
	if wide := size.Max.X - size.Min.X; wide > 0 {
		legend.YOffs = -.35 * vg.Inch
		legend.Draw(area)
		area = draw.Crop(area, 0, -wide-.1*vg.Inch, 0, 0)
	}
	p.drawLabels(pl, &area)
	pl.Draw(area)
	var b bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: c}).WriteTo(&b); err != nil {
		return nil, fmt.Errorf("plot %s: %w", p.Name, err)
	}
	return b.Bytes(), nil
}

// drawLabels draws the names of logarithmic axes: the library would reserve room
// for them as if the middle of the range stood in the middle of the axis.
func (p Plot) drawLabels(pl *plot.Plot, area *draw.Canvas) {
	const gap = 4
	if p.LogX {
		style := pl.X.Label.TextStyle
		style.XAlign, style.YAlign = draw.XCenter, draw.YBottom
		area.FillText(style, vg.Point{X: area.Center().X, Y: area.Min.Y}, p.X)
		*area = draw.Crop(*area, 0, 0, style.Height(p.X)+gap, 0)
		pl.X.Label.Text = ""
	}
	if p.LogY {
		style := pl.Y.Label.TextStyle
		style.Rotation, style.XAlign, style.YAlign = math.Pi/2, draw.XCenter, draw.YTop
		area.FillText(style, vg.Point{X: area.Min.X, Y: area.Center().Y}, p.Y)
		*area = draw.Crop(*area, style.Height(p.Y)+gap, 0, 0, 0)
		pl.Y.Label.Text = ""
	}
}

// frame sets title, axes, grid and legend.
func (p Plot) frame(pl *plot.Plot, s shades) {
	sans := func(size vg.Length) font.Font { return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size} }
	pl.BackgroundColor = s.paper
	pl.Title.Text = p.Title
	pl.Title.TextStyle.Font, pl.Title.TextStyle.Color, pl.Title.Padding = sans(12), s.ink, 6
	for _, a := range []*plot.Axis{&pl.X, &pl.Y} {
		a.Label.TextStyle.Font, a.Label.TextStyle.Color, a.Label.Padding = sans(10), s.ink, 4
		a.Tick.Label.Font, a.Tick.Label.Color = sans(9), s.ink
		a.Color, a.Tick.Color = s.ink, s.ink
		a.Width, a.Tick.Width = .6, .6
	}
	pl.X.Label.Text, pl.Y.Label.Text = p.X, p.Y
	pl.X.Tick.Marker, pl.Y.Tick.Marker = plot.TickerFunc(roundTicks), plot.TickerFunc(roundTicks)
	if p.LogX {
		pl.X.Scale, pl.X.Tick.Marker = plot.LogScale{}, plot.TickerFunc(decadeTicks)
	}
	if p.LogY {
		pl.Y.Scale, pl.Y.Tick.Marker = plot.LogScale{}, plot.TickerFunc(decadeTicks)
	}
	if p.TimeX {
		pl.X.Tick.Marker = plot.TickerFunc(dayTicks)
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = s.faint, s.faint
	grid.Horizontal.Width, grid.Vertical.Width = .5, .5
	if len(p.Bars) > 0 {
		grid.Vertical.Width = 0
		grid.Vertical.Color = nil
	}
	pl.Add(grid)
	pl.Legend.TextStyle.Font, pl.Legend.TextStyle.Color = sans(9), s.ink
	pl.Legend.Top, pl.Legend.Padding, pl.Legend.ThumbnailWidth = true, 3.5, 26
}

// roundTicks are at most eight labels at multiples of 1, 2 or 5.
func roundTicks(lo, hi float64) []plot.Tick {
	if !(hi > lo) {
		return nil
	}
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/7)))
	for _, m := range []float64{1, 2, 5, 10} {
		if (hi-lo)/(m*step) <= 7 {
			step *= m
			break
		}
	}
	digits := max(0, int(math.Ceil(-math.Log10(step)-1e-9)))
	var ticks []plot.Tick
	for k := math.Ceil(lo/step - 1e-9); k*step <= hi+1e-9*step; k++ {
		ticks = append(ticks, plot.Tick{Value: k * step, Label: strconv.FormatFloat(k*step+0, 'f', digits, 64)})
	}
	return ticks
}

// decadeTicks are powers of ten with labels, and their multiples without; where
// there is only one power, multiples of 2 and 5 have labels too.
func decadeTicks(lo, hi float64) []plot.Tick {
	if !(lo > 0) || !(hi > lo) {
		return nil
	}
	wide := hi/lo > 30
	var ticks []plot.Tick
	for e := math.Floor(math.Log10(lo)); e <= math.Log10(hi); e++ {
		for m := 1; m <= 9; m++ {
			v := float64(m) * math.Pow(10, e)
			if v < lo*(1-1e-9) || v > hi*(1+1e-9) {
				continue
			}
			t := plot.Tick{Value: v}
			if m == 1 || !wide && (m == 2 || m == 5) {
				t.Label = strconv.FormatFloat(v, 'f', max(0, int(-e)), 64)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

// dayTicks are at most six dates, at midnight UTC.
func dayTicks(lo, hi float64) []plot.Tick {
	const day = 86400
	step := float64(day)
	for _, days := range []float64{1, 2, 7, 14, 28, 91, 182, 365, 3650} {
		step = days * day
		if (hi-lo)/step <= 5 {
			break
		}
	}
	var ticks []plot.Tick
	for at := math.Ceil(lo/day) * day; at <= hi && len(ticks) < 50; at += step {
		ticks = append(ticks, plot.Tick{Value: at, Label: time.Unix(int64(at), 0).UTC().Format(time.DateOnly)})
	}
	if len(ticks) < 2 { // within a day
		ticks = []plot.Tick{{Value: lo, Label: time.Unix(int64(lo), 0).UTC().Format("2006-01-02 15:04")}, {Value: hi, Label: time.Unix(int64(hi), 0).UTC().Format("2006-01-02 15:04")}}
	}
	return ticks
}

// shown tells whether a point can stand on the axes.
func (p Plot) shown(x, y float64) bool {
	finite := !math.IsNaN(x) && !math.IsInf(x, 0) && !math.IsNaN(y) && !math.IsInf(y, 0)
	return finite && (!p.LogX || x > 0) && (!p.LogY || y > 0)
}

func (p Plot) lines(pl *plot.Plot, s shades) error {
	drawn, methods := 0, 0
	for _, l := range p.Lines {
		style := look{colour: s.ink, width: 1, dashes: []vg.Length{1.5, 2.5}} // what is compared with has no colour
		if !l.Dashed {
			style = s.look(methods)
			methods++
		}
		var xy, low, high plotter.XYs
		for k := range min(len(l.X), len(l.Y)) {
			if !p.shown(l.X[k], l.Y[k]) {
				continue
			}
			xy = append(xy, plotter.XY{X: l.X[k], Y: l.Y[k]})
			if k < len(l.Low) && k < len(l.High) && p.shown(l.X[k], l.Low[k]) && p.shown(l.X[k], l.High[k]) {
				low = append(low, plotter.XY{X: l.X[k], Y: l.Low[k]})
				high = append(high, plotter.XY{X: l.X[k], Y: l.High[k]})
			}
		}
		if len(xy) == 0 {
			continue
		}
		drawn++
		if len(low) > 1 {
			slices.Reverse(high)
			band, err := plotter.NewPolygon(append(low, high...))
			if err != nil {
				return err
			}
			band.Color = color.NRGBA{style.colour.R, style.colour.G, style.colour.B, 45}
			band.Width = 0
			pl.Add(band)
		}
		if err := addLine(pl, l, xy, style, drawn); err != nil {
			return err
		}
	}
	if drawn == 0 {
		pl.X.Min, pl.X.Max, pl.Y.Min, pl.Y.Max = 1, 10, 1, 10
		pl.Title.Text += " (nothing to show)"
		return nil
	}
	if !p.LogY { // a curve does not run along the frame
		room := .04 * (pl.Y.Max - pl.Y.Min)
		if pl.Y.Min != 0 {
			pl.Y.Min -= room
		}
		pl.Y.Max += room
	}
	if pl.X.Max <= pl.X.Min || p.LogX && pl.X.Max < 1.01*pl.X.Min {
		pl.X.Min, pl.X.Max = pl.X.Min-.5*math.Abs(pl.X.Min)-.01, pl.X.Max+.5*math.Abs(pl.X.Max)+.01
		if p.LogX {
			pl.X.Min = pl.X.Max / 10
		}
	}
	if p.LogY && pl.Y.Max < 1.01*pl.Y.Min {
		pl.Y.Min, pl.Y.Max = pl.Y.Min/2, pl.Y.Max*2
	}
	return nil
}

// marksPerCurve is how many marks a curve has, at least where it has the points.
const marksPerCurve = 7

// addLine adds a curve with marks on some of its points, on others than those of
// the curve before it, or only the points.
func addLine(pl *plot.Plot, l Line, xy plotter.XYs, style look, phase int) error {
	points := xy
	if every := len(xy) / marksPerCurve; !l.Points && every > 1 {
		points = nil
		for k := phase % every; k < len(xy); k += every {
			points = append(points, xy[k])
		}
	}
	var thumbs []plot.Thumbnailer
	if !l.Points && len(xy) > 1 {
		line, err := plotter.NewLine(xy)
		if err != nil {
			return err
		}
		line.Color, line.Width, line.Dashes = style.colour, style.width, style.dashes
		pl.Add(line)
		thumbs = append(thumbs, line)
	}
	if style.mark == nil && len(thumbs) == 0 {
		style.mark = corners{sides: 24}
	}
	if style.mark != nil {
		dots, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		dots.Color, dots.Radius, dots.Shape = style.colour, 2.6, style.mark
		pl.Add(dots)
		thumbs = append(thumbs, dots)
	}
	if l.Label != "" {
		pl.Legend.Add(l.Label, thumbs...)
	}
	return nil
}

func (p Plot) bars(pl *plot.Plot, s shades) error {
	if len(p.Categories) == 0 {
		return fmt.Errorf("bars without categories")
	}
	sets := len(p.Bars)
	width := (plotWidth - 2.2*vg.Inch) / vg.Length(len(p.Categories)) * .8 / vg.Length(sets)
	width = min(width, .6*vg.Inch)
	for i, b := range p.Bars {
		values := make(plotter.Values, len(p.Categories))
		for k := range values {
			if k < len(b.Values) && p.shown(1, b.Values[k]) {
				values[k] = b.Values[k]
			}
		}
		chart, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		shift := vg.Length(float64(i)-float64(sets-1)/2) * width
		chart.Color, chart.LineStyle.Width, chart.Offset = s.series[i%len(s.series)], 0, shift
		pl.Add(chart)
		if b.Label != "" && sets > 1 {
			pl.Legend.Add(b.Label, chart)
		}
		if len(b.Low) > 0 && len(b.High) > 0 {
			pl.Add(&whiskers{bars: b, shift: shift, colour: s.ink})
		}
	}
	pl.NominalX(p.Categories...)
	if len(p.Categories) > 7 {
		pl.X.Tick.Label.Rotation = math.Pi / 6
		pl.X.Tick.Label.XAlign = draw.XRight
		pl.X.Tick.Label.YAlign = draw.YCenter
	}
	pl.Y.Max += .04 * (pl.Y.Max - min(pl.Y.Min, 0))
	pl.X.Min, pl.X.Max = -.6, float64(len(p.Categories))-.4
	return nil
}

// whiskers are the intervals of bars.
type whiskers struct {
	bars   Bars
	shift  vg.Length
	colour color.Color
}

// Plot implements plot.Plotter.
func (w *whiskers) Plot(c draw.Canvas, pl *plot.Plot) {
	x, y := pl.Transforms(&c)
	style := draw.LineStyle{Color: w.colour, Width: 1}
	for k := range min(len(w.bars.Low), len(w.bars.High)) {
		lo, hi := w.bars.Low[k], w.bars.High[k]
		if math.IsNaN(lo) || math.IsNaN(hi) || math.IsInf(lo, 0) || math.IsInf(hi, 0) {
			continue
		}
		at := x(float64(k)) + w.shift
		c.StrokeLine2(style, at, y(lo), at, y(hi))
		c.StrokeLine2(style, at-3, y(lo), at+3, y(lo))
		c.StrokeLine2(style, at-3, y(hi), at+3, y(hi))
	}
}

// DataRange implements plot.DataRanger.
func (w *whiskers) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, xmax = 0, float64(len(w.bars.Values)-1)
	ymin, ymax = math.Inf(1), math.Inf(-1)
	for _, v := range slices.Concat(w.bars.Low, w.bars.High) {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			ymin, ymax = min(ymin, v), max(ymax, v)
		}
	}
	return xmin, xmax, ymin, ymax
}
