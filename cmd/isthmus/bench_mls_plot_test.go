//go:build bench

package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A mlsPlot is one drawing: the times of some operations over the size of the
// group, both axes logarithmic.
type mlsPlot struct {
	file, title string
	ops         [][2]string // operation and its name in the drawing
}

var mlsPlots = []mlsPlot{
	{"mls-log.svg", "Operations that may grow with log n", [][2]string{
		{"update_create_warm", "update, create"},
		{"update_process_warm", "update, process"},
		{"remove_process_warm", "remove, process"},
		{"add_process_warm", "add, process"},
		{"update_follow_warm", "follow without secrets"},
		{"decrypt_1k", "decrypt 1 KiB"},
		{"encrypt_1k", "encrypt 1 KiB"},
	}},
	{"mls-linear.svg", "Operations that touch every member", [][2]string{
		{"create", "create with n − 1 adds"},
		{"update_create_cold", "update, create, cold"},
		{"join", "join"},
		{"add_create_warm", "add, create, tree in it"},
		{"update_process_cold", "update, process, cold"},
		{"add_beside_create_warm", "add, create, tree beside"},
	}},
}

// The layout, in the units of the drawing.
const (
	plotWidth, plotHeight         = 820, 460
	plotLeft, plotRight           = 70, 590
	plotTop, plotBottom           = 46, 410
	plotLineGap           float64 = 17
)

const plotStyle = `<style>
svg { font: 13px system-ui, sans-serif; color: #24292f; background: #ffffff }
text { fill: currentColor } .title { font-size: 15px; font-weight: 600 } .y { text-anchor: end } .x { text-anchor: middle }
.grid { stroke: #d0d7de; stroke-width: 1 } .line { fill: none; stroke-width: 2 }
.c0 { stroke: #0969da } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df } .c4 { stroke: #bf3989 } .c5 { stroke: #9a6700 } .c6 { stroke: #57606a }
@media (prefers-color-scheme: dark) {
svg { color: #e6edf3; background: #0d1117 } .grid { stroke: #30363d }
.c0 { stroke: #58a6ff } .c1 { stroke: #f0883e } .c2 { stroke: #3fb950 } .c3 { stroke: #bc8cff } .c4 { stroke: #f778ba } .c5 { stroke: #d29922 } .c6 { stroke: #8b949e }
}
</style>
`

// plotScale maps values between two powers of ten to places between two others.
type plotScale struct{ low, high, from, to float64 }

func (s plotScale) at(x float64) float64 {
	return s.from + (math.Log10(x)-s.low)/(s.high-s.low)*(s.to-s.from)
}

type plotCurve struct {
	name   string
	points [][2]float64 // members and milliseconds
	label  float64      // y of the name
}

// curves are the operations that were measured at two sizes or more.
func (p mlsPlot) curves(m mlsTimes) []plotCurve {
	var out []plotCurve
	for _, op := range p.ops {
		c := plotCurve{name: op[1]}
		for n, ms := range m[op[0]] {
			c.points = append(c.points, [2]float64{float64(n), ms})
		}
		slices.SortFunc(c.points, func(a, b [2]float64) int { return cmp.Compare(a[0], b[0]) })
		if len(c.points) > 1 {
			out = append(out, c)
		}
	}
	return out
}

// svg draws the plot: the same times give the same octets.
func (p mlsPlot) svg(m mlsTimes) string {
	curves := p.curves(m)
	low, high, last := math.Inf(1), math.Inf(-1), 10.0
	for _, c := range curves {
		for _, q := range c.points {
			low, high, last = min(low, q[1]), max(high, q[1]), max(last, q[0])
		}
	}
	x := plotScale{math.Log10(2), math.Log10(last), plotLeft, plotRight}
	y := plotScale{math.Floor(math.Log10(low)), math.Ceil(math.Log10(high)), plotBottom, plotTop}
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%[1]d\" height=\"%[2]d\" role=\"img\">\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, "<title>%s</title>\n%s", p.title, plotStyle)
	fmt.Fprintf(&b, "<text class=\"title\" x=\"%d\" y=\"24\">%s</text>\n", plotLeft, p.title)
	for e := y.low; e <= y.high; e++ {
		v := y.at(math.Pow(10, e))
		fmt.Fprintf(&b, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text class=\"y\" x=\"%d\" y=\"%.1f\">%s</text>\n", plotLeft, v, plotRight, plotLeft-8, v+4, plotTime(e))
	}
	for _, n := range []float64{2, 10, 100, 1_000, 10_000, 100_000} {
		if n <= last {
			v := x.at(n)
			fmt.Fprintf(&b, "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text class=\"x\" x=\"%.1f\" y=\"%d\">%s</text>\n", v, plotTop, plotBottom, v, plotBottom+20, mlsThousands(int(n)))
		}
	}
	fmt.Fprintf(&b, "<text class=\"x\" x=\"%d\" y=\"%d\">members of the group</text>\n", (plotLeft+plotRight)/2, plotBottom+40)
	placeLabels(curves, y)
	for i, c := range curves {
		end := c.points[len(c.points)-1]
		fmt.Fprintf(&b, "<path class=\"line c%d\" d=\"", i)
		for j, q := range c.points {
			fmt.Fprintf(&b, "%c%.1f %.1f", "ML"[min(j, 1)], x.at(q[0]), y.at(q[1]))
		}
		fmt.Fprintf(&b, "\"/><path class=\"line c%d\" d=\"M%.1f %.1fL%d %.1f\" stroke-dasharray=\"2 3\" stroke-opacity=\".6\"/>", i, x.at(end[0]), y.at(end[1]), plotRight+22, c.label)
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%.1f\">%s</text>\n", plotRight+27, c.label+4, c.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// placeLabels puts the names beside the ends of their curves, apart enough to
// be read.
func placeLabels(curves []plotCurve, y plotScale) {
	order := make([]*plotCurve, len(curves))
	for i := range curves {
		order[i] = &curves[i]
		order[i].label = y.at(curves[i].points[len(curves[i].points)-1][1])
	}
	slices.SortStableFunc(order, func(a, b *plotCurve) int { return cmp.Compare(a.label, b.label) })
	for i := 1; i < len(order); i++ {
		order[i].label = max(order[i].label, order[i-1].label+plotLineGap)
	}
}

// plotTime names a power of ten of milliseconds.
func plotTime(e float64) string {
	switch {
	case e >= 3:
		return mlsThousands(int(math.Pow(10, e-3))) + " s"
	case e >= 0:
		return mlsThousands(int(math.Pow(10, e))) + " ms"
	case e >= -3:
		return mlsThousands(int(math.Pow(10, e+3))) + " µs"
	}
	return fmt.Sprintf("%g µs", math.Pow(10, e+3))
}
