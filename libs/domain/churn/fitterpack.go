package churn

import (
	"encoding/binary"
	"fmt"
	"math"
)

const fitterVersion = 1

// packer appends fields.
type packer []byte

func (p *packer) u(v uint64) { *p = binary.AppendUvarint(*p, v) }
func (p *packer) i(v int64)  { *p = binary.AppendVarint(*p, v) }
func (p *packer) f32(fs ...float32) {
	for _, f := range fs {
		*p = binary.LittleEndian.AppendUint32(*p, math.Float32bits(f))
	}
}

func (p *packer) f(fs ...float64) {
	for _, f := range fs {
		*p = binary.LittleEndian.AppendUint64(*p, math.Float64bits(f))
	}
}

func (p *packer) correction(c *Correction) {
	if c == nil {
		*p = append(*p, 0)
		return
	}
	*p = append(*p, 1)
	p.f(c.Intercept)
	p.f(c.Weights[:]...)
}

func (p *packer) setting(s *Setting) {
	p.f(s.Params.R, s.Params.Alpha, s.Params.A, s.Params.B, float64(s.Params.K), s.Value.P, s.Value.Q, s.Value.Gamma, s.ValueLevel)
	p.correction(s.Correction)
	p.correction(s.Study.Trial)
	p.u(uint64(s.Study.Halvings))
}

// AppendBinary appends the packed fitter, and never fails. With the defaults it is
// of 50 kB at most.
func (f *Fitter) AppendBinary(b []byte) ([]byte, error) {
	p := packer(append(b, fitterVersion))
	if f.lessons.learner == nil {
		return append(p, 0), nil
	}
	p = append(p, 1)
	p.setting(&f.setting)
	p.setting(&f.said)

	t := &f.lessons
	p.f(t.gain, t.spent[0], t.spent[1], t.trust[0], t.trust[1], t.learner.prior, t.learner.n)
	p.f(t.learner.mean[:]...)
	for i := range dim {
		p.f(t.learner.cov[i][i:]...) // it is symmetric
	}
	p.f(t.level.first, t.level.last.xx, t.level.last.xy, t.level.year.xx, t.level.year.xy)
	p.u(uint64(len(t.level.closed)))
	for _, c := range t.level.closed {
		p.f(c.day, c.said, c.was)
	}
	p.f(f.means[:]...)
	p.f(f.meansN, f.anchor, f.slope)
	p.i(int64(f.week))
	p.i(int64(f.over))
	for _, l := range f.open {
		p.f(l.day, l.n, l.gone, l.mean, l.gain, l.num, l.den, l.foretold, l.earned)
	}

	p.u(uint64(f.width))
	p.f(f.logGaps)
	p.u(uint64(f.halvings))
	for _, n := range f.bySample {
		p.i(n)
	}
	keys := f.keys()
	p.u(uint64(len(keys)))
	for _, k := range keys {
		p = append(p, k.x, k.recency, k.age)
		v := f.cells[k]
		for _, n := range [...]int64{v.n, v.x, v.recency, v.age} {
			p.i(n)
		}
	}
	p.u(uint64(len(f.ring)))
	p.u(uint64(f.at))
	for i := range f.ring {
		o := &f.ring[i]
		p.f32(o.day, o.mean)
		p = o.snapshot.append(p)
	}
	p.f(f.first, f.now, f.fitted, f.corrected, f.saidOn)
	for _, n := range [...]uint64{uint64(f.fittedN), uint64(f.version), uint64(f.fits), f.labels, f.unknown} {
		p.u(n)
	}
	return p, nil
}

// MarshalBinary returns the packed fitter.
func (f *Fitter) MarshalBinary() ([]byte, error) { return f.AppendBinary(nil) }

// unpacker takes fields off the front; after a mistake it gives zeros.
type unpacker struct {
	b    []byte
	what string
	err  error
}

func (u *unpacker) fail(what string) {
	if u.err == nil {
		u.err = fmt.Errorf("%w: a %s with %s", ErrState, u.what, what)
	}
	u.b = nil
}

func (u *unpacker) take(n int) []byte {
	if len(u.b) < n {
		u.fail("too few bytes")
		return make([]byte, n)
	}
	b := u.b[:n]
	u.b = u.b[n:]
	return b
}

func (u *unpacker) u(most uint64) uint64 {
	v, n := binary.Uvarint(u.b)
	if n <= 0 || v > most {
		u.fail("a number out of its range")
		return 0
	}
	u.b = u.b[n:]
	return v
}

func (u *unpacker) i() int64 {
	v, n := binary.Varint(u.b)
	if n <= 0 || v > 1<<53 || v < -1<<53 {
		u.fail("a number out of its range")
		return 0
	}
	u.b = u.b[n:]
	return v
}

func (u *unpacker) f(to ...*float64) {
	for _, v := range to {
		if *v = math.Float64frombits(binary.LittleEndian.Uint64(u.take(8))); math.IsNaN(*v) || math.Abs(*v) > 1e18 {
			u.fail("a number out of its range")
		}
	}
}

func (u *unpacker) fs(to []float64) {
	for i := range to {
		u.f(&to[i])
	}
}

func (u *unpacker) f32() float32 {
	v := math.Float32frombits(binary.LittleEndian.Uint32(u.take(4)))
	if math.IsNaN(float64(v)) || math.Abs(float64(v)) > 1e18 {
		u.fail("a number out of its range")
	}
	return v
}

func (u *unpacker) snapshot() (s Snapshot) {
	r := reader(u.take(snapshotBytes))
	s.read(&r)
	return s
}

// end tells what was wrong, and whether something is left.
func (u *unpacker) end() error {
	if u.err == nil && len(u.b) > 0 {
		u.fail("too many bytes")
	}
	return u.err
}

func (u *unpacker) correction() *Correction {
	switch u.take(1)[0] {
	case 0:
		return nil
	case 1:
		c := &Correction{}
		u.f(&c.Intercept)
		u.fs(c.Weights[:])
		return c
	}
	u.fail("a correction of another kind")
	return nil
}

func (u *unpacker) setting() Setting {
	var s Setting
	var k float64
	u.f(&s.Params.R, &s.Params.Alpha, &s.Params.A, &s.Params.B, &k, &s.Value.P, &s.Value.Q, &s.Value.Gamma, &s.ValueLevel)
	s.Params.K = int(k)
	s.Correction = u.correction()
	s.Study.Trial = u.correction()
	s.Study.Halvings = int(u.u(MaxHalvings))
	return s
}

// UnmarshalBinary restores a packed fitter. It refuses what none can be, and then
// leaves f alone.
func (f *Fitter) UnmarshalBinary(b []byte) error {
	u := &unpacker{b: b, what: "fitter"}
	if version := u.take(1)[0]; version != fitterVersion {
		return fmt.Errorf("%w: a fitter of version %d, want %d", ErrState, version, fitterVersion)
	}
	var n Fitter
	switch u.take(1)[0] {
	case 0:
	case 1:
		n.unpack(u)
	default:
		u.fail("an unknown beginning")
	}
	if err := u.end(); err != nil {
		return err
	}
	*f = n
	return nil
}

func (f *Fitter) unpack(u *unpacker) {
	f.setting, f.said = u.setting(), u.setting()
	l, v := &Learner{}, &Level{}
	t := &f.lessons
	t.learner, t.level = l, v
	u.f(&t.gain, &t.spent[0], &t.spent[1], &t.trust[0], &t.trust[1], &l.prior, &l.n)
	u.fs(l.mean[:])
	for i := range dim {
		u.fs(l.cov[i][i:])
		for j := range i {
			l.cov[i][j] = l.cov[j][i]
		}
	}
	u.f(&v.first, &v.last.xx, &v.last.xy, &v.year.xx, &v.year.xy)
	for range u.u(10_000) {
		var c closedLevel
		u.f(&c.day, &c.said, &c.was)
		v.closed = append(v.closed, c)
	}
	u.fs(f.means[:])
	u.f(&f.meansN, &f.anchor, &f.slope)
	f.week, f.over = int(u.i()), int(u.i())
	for i := range f.open {
		l := &f.open[i]
		u.f(&l.day, &l.n, &l.gone, &l.mean, &l.gain, &l.num, &l.den, &l.foretold, &l.earned)
	}

	f.width = int(u.u(maxWidth))
	u.f(&f.logGaps)
	f.halvings = int(u.u(MaxHalvings))
	for i := range f.bySample {
		f.bySample[i] = u.i()
	}
	f.cells = map[cellKey]cell{}
	for range u.u(1e6) {
		k := u.take(3)
		f.cells[cellKey{k[0], k[1], k[2]}] = cell{u.i(), u.i(), u.i(), u.i()}
		if u.err != nil {
			return
		}
	}
	size, at := u.u(1e5), u.u(1e5)
	for range size {
		f.ring = append(f.ring, opening{day: u.f32(), mean: u.f32(), snapshot: u.snapshot()})
		if u.err != nil {
			return
		}
	}
	if f.at = int(at); at > size {
		u.fail("a ring without an end")
	}
	u.f(&f.first, &f.now, &f.fitted, &f.corrected, &f.saidOn)
	f.fittedN, f.version, f.fits = int64(u.u(1<<53)), uint32(u.u(math.MaxUint32)), uint32(u.u(math.MaxUint32))
	f.labels, f.unknown = u.u(1<<53), u.u(1<<53)
	if err := f.check(); err != nil {
		u.fail(err.Error())
	}
}

// check refuses what learning cannot go on from.
func (f *Fitter) check() error {
	if err := f.setting.Params.Validate(); err != nil {
		return err
	}
	for i := range dim {
		if f.lessons.learner.cov[i][i] < 0 {
			return fmt.Errorf("a variance of %g", f.lessons.learner.cov[i][i])
		}
	}
	if !(f.now > 0 && f.first > 0 && f.now < 1e6 && f.meansN >= 0 && f.lessons.learner.prior > 0) {
		return fmt.Errorf("day %g of %g", f.now, f.first)
	}
	return nil
}
