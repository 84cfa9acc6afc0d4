package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// events renders lines "action package test" as test2json does.
func events(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		f := append(strings.Fields(line), "", "")
		fmt.Fprintf(&b, `{"Action":%q,"Package":%q,"Test":%q,"Output":"said %s\n"}`+"\n", f[0], f[1], f[2], f[2])
	}
	return b.String()
}

func TestReportCounts(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want Counts
	}{
		{"leaves only", events("run p A", "run p A/x", "run p A/y/z", "pass p A/x", "pass p A/y/z", "pass p A", "run p B", "pass p B", "pass p"), Counts{Passed: 3}},
		{"failed subtest once", events("run p A", "run p A/x", "fail p A/x", "fail p A", "fail p"), Counts{Failed: 1}},
		{"parent fails by itself", events("run p A", "run p A/x", "pass p A/x", "fail p A", "fail p"), Counts{Passed: 1, Failed: 1}},
		{"build failure", events("fail p"), Counts{Failed: 1}},
		{"package without tests", events("skip p"), Counts{}},
		{"skip", events("run p A", "output p A", "skip p A", "pass p"), Counts{Skipped: 1}},
		{"panic in a running test", events("run p A", "output p A", "fail p"), Counts{Failed: 1}},
		{"stream cut off", events("run p A", "pass p A", "run p B"), Counts{Passed: 1, Failed: 1}},
		{"other text", "go: downloading\n" + events("run p A", "pass p A", "pass p"), Counts{Passed: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			r := newReport(&out, false)
			if err := r.read(strings.NewReader(tt.in)); err != nil {
				t.Fatal(err)
			}
			if got := r.counts(); got != tt.want {
				t.Errorf("got %v, want %v\n%s", got, tt.want, out.String())
			}
		})
	}
}

func TestTotalClosingLine(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := writeCounts(a, Counts{Passed: 3}); err != nil {
		t.Fatal(err)
	}
	if err := writeCounts(b, Counts{Passed: 4, Skipped: 1}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		want string
		code int
	}{
		{"all passed", []string{"-total", a, b}, "7 passed, 0 failed", 0},
		{"failure elsewhere", []string{"-total", "-failed", "2", a}, "3 passed, 2 failed", 1},
		{"run that never ended", []string{"-total", a, filepath.Join(dir, "none")}, "3 passed, 1 failed", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			code := run(t.Context(), tt.args, &out, &errOut)
			lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
			if last := lines[len(lines)-1]; last != tt.want || code != tt.code {
				t.Errorf("got %q and status %d, want %q and %d", last, code, tt.want, tt.code)
			}
		})
	}
}

// The slowest tests are named, without those that are quick and without subtests. One whose subtests run in
// parallel takes as long as these.
func TestReportSlowest(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out, false)
	in := ""
	for _, tt := range []struct {
		name    string
		seconds float64
	}{{"A/x/y", 7}, {"A/x", 0}, {"A", 0}, {"B/x", 7}, {"B", 61.25}, {"C", 1}} {
		if top, _, _ := strings.Cut(tt.name, "/"); top != tt.name {
			in += fmt.Sprintf(`{"Action":"run","Package":"m/p","Test":%q}`+"\n", top)
		}
		in += fmt.Sprintf(`{"Action":"pass","Package":"m/p","Test":%q,"Elapsed":%g}`+"\n", tt.name, tt.seconds)
	}
	if err := r.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	r.printSlowest()
	if got, want := out.String(), "       61.2 s  p B\n        7.0 s  p A\n"; got != want {
		t.Errorf("printed\n%s, want\n%s", got, want)
	}
}
