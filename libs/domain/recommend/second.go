package recommend

import (
	"math"
	"math/rand/v2"
)

// The second stage looks again at the candidates that the linear ranker puts
// first, with one hidden layer that can join features ("a strong walk counts
// less where sessions agree"). What it says is added to the linear score, so that
// it begins as nothing and learns what is left over.
const (
	secondTop = 50 // candidates it looks at
	hidden    = 16
	inputs    = int(features) + contexts
)

// Contexts are inputs that are the same for all candidates of an answer.
const (
	always = iota
	longer
	reloading
	repeating
	knownness
	confidence
	leading
	contexts
)

// network is the second stage with its gate.
type network struct {
	in, inGrad   [inputs][hidden]float32
	out, outGrad [hidden]float32

	// The gate compares both stages on what they are about to learn: the decayed
	// mean of the difference of reciprocal ranks, and of its square.
	lessons      uint64
	mean, square float64
	on           bool
}

// look is the second stage's view of one candidate.
type look struct {
	place uint32 // among the candidates
	in    [inputs]float32
	layer [hidden]float32
	logit float32
}

func (n *network) reset() {
	*n = network{}
	r := rand.New(rand.NewPCG(0x5eed, 0x11a6e))
	scale := math.Sqrt(2 / float64(inputs))
	for f := range n.in {
		for h := range n.in[f] {
			n.in[f][h] = float32(r.NormFloat64() * scale)
		}
	}
}

// lookAgain prepares what the second stage sees: the heads of the linear order,
// best first. The heap loses them.
func (x *Index) lookAgain(s *Scratch) {
	s.looks = s.looks[:0]
	best := float32(0)
	cur := &x.items[s.query[0].item]
	var context [contexts]float32
	context[always] = 1
	context[longer] = min(1, float32(len(s.query))*(1./8))
	context[reloading] = min(1, float32(s.reloads)*.5)
	context[repeating] = min(1, float32(s.repeats)*.25)
	context[knownness] = log2(1+float32(cur.sessions)) * (1. / 16)
	for k := range s.cands {
		best = max(best, s.cands[k].from[fromSessions])
	}
	context[confidence] = min(1, max(0, log2(best+1e-6)*(1./16)+.5))
	for len(s.looks) < secondTop && len(s.heap) > 0 {
		r := s.pop()
		s.looks = s.looks[:len(s.looks)+1]
		l := &s.looks[len(s.looks)-1]
		l.place = r.place
		l.logit = s.logits[r.place]
		copy(l.in[:features], s.feats[r.place][:])
		context[leading] = max(0, 1+(l.logit-s.logits[s.looks[0].place])*.25)
		copy(l.in[features:], context[:])
	}
}

// refine adds what the network says to the linear logits.
func (n *network) refine(looks []look) {
	for k := range looks {
		l := &looks[k]
		l.layer = [hidden]float32{}
		for f, v := range l.in {
			if v == 0 {
				continue
			}
			w := &n.in[f]
			for h := range w {
				l.layer[h] += v * w[h]
			}
		}
		sum := float32(0)
		for h, v := range l.layer {
			if v < 0 {
				l.layer[h] = 0
				continue
			}
			sum += v * n.out[h]
		}
		l.logit += sum
	}
}

// gateLessons is over how many lessons the gate's means are taken.
const gateLessons = 4000

// teach takes a lesson: the target stood at place target of looks, in linear
// order. First it is judged, then it learns.
func (n *network) teach(looks []look, target int, rate float32) {
	n.refine(looks)
	rank := 0
	top := looks[0].logit
	for k := range looks {
		if looks[k].logit > looks[target].logit || looks[k].logit == looks[target].logit && k < target {
			rank++
		}
		top = max(top, looks[k].logit)
	}
	n.judge(1/float64(rank+1) - 1/float64(target+1))

	sum := float32(0)
	var p [secondTop]float32
	for k := range looks {
		p[k] = float32(math.Exp(float64(looks[k].logit - top)))
		sum += p[k]
	}
	var in [inputs][hidden]float32
	var out [hidden]float32
	for k := range looks {
		d := p[k] / sum
		if k == target {
			d--
		}
		if d < 1e-4 && d > -1e-4 {
			continue
		}
		l := &looks[k]
		var back [hidden]float32
		for h, v := range l.layer {
			if v > 0 {
				out[h] += d * v
				back[h] = d * n.out[h]
			}
		}
		for f, v := range l.in {
			if v == 0 {
				continue
			}
			g := &in[f]
			for h := range g {
				g[h] += v * back[h]
			}
		}
	}
	for f := range in {
		for h, d := range in[f] {
			if d != 0 {
				n.inGrad[f][h] += d * d
				n.in[f][h] -= rate * d / float32(math.Sqrt(float64(n.inGrad[f][h])+1e-2))
			}
		}
	}
	for h, d := range out {
		n.outGrad[h] += d * d
		n.out[h] -= rate * d / float32(math.Sqrt(float64(n.outGrad[h])+1e-2))
	}
}

// judge moves the gate: open when the second stage has been better by two
// standard errors, closed when it is no longer better at all.
func (n *network) judge(gain float64) {
	n.lessons++
	a := max(1/float64(n.lessons), 1./gateLessons)
	n.mean += a * (gain - n.mean)
	n.square += a * (gain*gain - n.square)
	size := min(float64(n.lessons), 2*gateLessons) // of a decayed mean
	se := math.Sqrt(max(n.square-n.mean*n.mean, 0) / size)
	switch {
	case n.mean <= 0:
		n.on = false
	case n.lessons >= gateLessons/4 && n.mean > 2*se:
		n.on = true
	}
}
