package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// report follows a stream of events.
type report struct {
	out   io.Writer
	show  bool // print the output of tests that pass as well
	pkgs  map[string]*pkg
	build map[string][]string // output of builds, by import path
	done  Counts
	took  []duration // of tests that are no subtests
}

// duration is how long a test took.
type duration struct {
	pkg, test string
	seconds   float64
}

// Of the slowest tests so many are named, which took so many seconds at least.
const (
	slowest = 12
	slow    = 5
)

// pkg is a test binary that has not ended yet.
type pkg struct {
	tests  map[string]*test
	failed bool           // a test has failed
	output []string       // of the package itself
	skips  map[string]int // skipped tests, by reason
}

// test is a test, subtest, example or fuzz target.
type test struct {
	parent bool // has subtests; these are counted instead
	failed bool // or a subtest has
	output []string

	longest float64 // seconds that a subtest took: the test's own do not count those that run in parallel
}

func newReport(out io.Writer, show bool) *report {
	return &report{out: out, show: show, pkgs: make(map[string]*pkg), build: make(map[string][]string)}
}

// counts returns what was counted, with packages that never ended as failures.
func (r *report) counts() Counts {
	c := r.done
	c.Failed += len(r.pkgs)
	return c
}

// read takes events until the stream ends. Lines that are no events are passed through.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var ev event
			if json.Unmarshal(line, &ev) == nil {
				r.handle(ev)
			} else {
				_, _ = r.out.Write(line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading go test's output: %w", err)
		}
	}
}

func (r *report) handle(ev event) {
	if ev.Action == "build-output" {
		r.build[ev.ImportPath] = append(r.build[ev.ImportPath], ev.Output)
		return
	}
	if ev.Package == "" {
		return
	}
	p := r.pkgs[ev.Package]
	if p == nil {
		p = &pkg{tests: make(map[string]*test), skips: make(map[string]int)}
		r.pkgs[ev.Package] = p
	}
	if ev.Test == "" {
		r.handlePackage(p, ev)
		return
	}
	t := p.tests[ev.Test]
	if t == nil {
		t = &test{}
		p.tests[ev.Test] = t
		if parent := p.parent(ev.Test); parent != nil {
			parent.parent = true
		}
	}
	r.handleTest(p, t, ev)
}

// parent returns the test that name is a subtest of, nil when it is none. Subtests' own
// names may contain slashes.
func (p *pkg) parent(name string) *test {
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		if t := p.tests[name[:i]]; t != nil {
			return t
		}
	}
	return nil
}

// handleTest counts a test when it ends. A test with subtests is counted by them, unless it
// fails while all of them pass.
func (r *report) handleTest(p *pkg, t *test, ev event) {
	switch ev.Action {
	case "output":
		t.output = append(t.output, ev.Output)
		return
	case "pass":
		if !t.parent {
			r.done.Passed++
		}
		if r.show {
			r.printf("%s", strings.Join(t.output, ""))
		}
	case "skip":
		if !t.parent {
			r.done.Skipped++
		}
		p.skips[skipReason(t.output)]++
	case "fail":
		if !t.failed {
			r.done.Failed++
		}
		p.failed = true
		if parent := p.parent(ev.Test); parent != nil {
			parent.failed = true
		}
		r.printf("FAIL  %s %s (%.1fs)\n%s", ev.Package, ev.Test, ev.Elapsed, strings.Join(t.output, ""))
	default:
		return
	}
	t.output = nil
	took := max(ev.Elapsed, t.longest)
	if parent := p.parent(ev.Test); parent != nil {
		parent.longest = max(parent.longest, took)
	} else if took >= slow {
		r.took = append(r.took, duration{ev.Package, ev.Test, took})
	}
}

// printSlowest names the tests that took longest, so that whoever needs time knows where it goes.
func (r *report) printSlowest() {
	slices.SortStableFunc(r.took, func(a, b duration) int { return cmp.Compare(b.seconds, a.seconds) })
	for _, d := range r.took[:min(slowest, len(r.took))] {
		r.printf("      %5.1f s  %s %s\n", d.seconds, path.Base(d.pkg), d.test)
	}
}

// handlePackage prints a package's line when it ends. One that fails without a failed test
// (it did not build, it panicked, it ran out of time) is a failure of its own.
func (r *report) handlePackage(p *pkg, ev event) {
	switch ev.Action {
	case "output":
		p.output = append(p.output, ev.Output)
		return
	case "pass":
		r.printf("ok    %s (%.1fs)\n", ev.Package, ev.Elapsed)
	case "skip":
		// No test files.
		delete(r.pkgs, ev.Package)
		return
	case "fail":
		running := p.running()
		if !p.failed {
			r.done.Failed++
		}
		r.printf("FAIL  %s (%.1fs)\n", ev.Package, ev.Elapsed)
		for name, out := range r.build {
			if strings.HasPrefix(name, ev.Package) {
				r.printf("%s", strings.Join(out, ""))
				delete(r.build, name)
			}
		}
		r.printf("%s%s", strings.Join(running, ""), strings.Join(p.output, ""))
	default:
		return
	}
	for _, reason := range slices.Sorted(maps.Keys(p.skips)) {
		r.printf("      %d skipped: %s\n", p.skips[reason], reason)
	}
	delete(r.pkgs, ev.Package)
}

// running returns the output of tests that had not ended when their package did.
func (p *pkg) running() []string {
	var out []string
	for _, t := range p.tests {
		out = append(out, t.output...)
	}
	return out
}

func (r *report) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(r.out, format, args...)
}

// skipReason finds what a test said when it skipped.
func skipReason(output []string) string {
	for i := len(output) - 1; i >= 0; i-- {
		line := strings.TrimSpace(output[i])
		if line != "" && !strings.HasPrefix(line, "--- ") && !strings.HasPrefix(line, "=== ") {
			return line
		}
	}
	return "no reason given"
}
