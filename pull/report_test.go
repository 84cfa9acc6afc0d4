package pull

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	var r Report
	r.Begin(then)
	var wg sync.WaitGroup
	for _, p := range []string{"/b", "/a/\xff\n", "/a", "/a b", "/dev"} {
		wg.Go(func() {
			kind := KindPermission
			if p == "/dev" {
				kind = KindSpecial
			}
			r.note(p, fail("read", p, kind, errors.New("no")))
		})
	}
	wg.Wait()
	r.files.Add(3)
	r.bytes.Add(5000)
	r.End(then.Add(90 * time.Second))
	list, omitted := r.Problems()
	var got []string
	for _, p := range list {
		got = append(got, p.Path)
	}
	if want := []string{"/a", "/a/\xff\n", "/a b", "/b", "/dev"}; !slices.Equal(got, want) || omitted != 0 || r.Failed() != 4 {
		t.Errorf("problems %q, %d failed", got, r.Failed())
	}
	var text bytes.Buffer
	if err := r.WriteText(&text, 3); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3 files", "4.9 KiB", "5 problems", "  /a: read /a: permission denied: no\n", `"/a/\xff\n"`, "and 2 more"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in\n%s", want, text.String())
		}
	}
	data, err := json.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Seconds  float64 `json:"seconds"`
		Files    int64   `json:"files"`
		Problems int64   `json:"problems"`
		Failed   int64   `json:"failed"`
		Errors   []struct {
			Path  string `json:"path"`
			Bytes []byte `json:"path_bytes"`
			Kind  string `json:"kind"`
		} `json:"errors"`
	}
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if back.Seconds != 90 || back.Files != 3 || back.Problems != 5 || back.Failed != 4 || len(back.Errors) != 5 ||
		string(back.Errors[1].Bytes) != "/a/\xff\n" || back.Errors[0].Kind != "permission denied" || back.Errors[0].Bytes != nil {
		t.Errorf("%s", data)
	}
}

// A million problems do not take the memory of a million texts; none is lost from the count.
func TestReportBounded(t *testing.T) {
	var r Report
	for i := range maxProblems + 10 {
		r.note(fmt.Sprint("/", i), errLine("/", "x"))
	}
	list, omitted := r.Problems()
	if len(list) != maxProblems || omitted != 10 || r.Counts().Problems != maxProblems+10 {
		t.Errorf("%d problems and %d omitted", len(list), omitted)
	}
}

// TestLostBehindOtherProblems loses the connection after more problems than are kept: the snapshot is
// tagged for all that.
func TestLostBehindOtherProblems(t *testing.T) {
	var r Report
	run := &run{cfg: RunConfig{Partial: true, Report: &r}}
	for range maxProblems {
		r.note("/", errLine("/", "x"))
	}
	if run.partial() {
		t.Error("partial before the connection is lost")
	}
	r.note("/a", fail("list", "/a", KindConnection, errors.New("gone")))
	if !run.partial() {
		t.Error("not partial when the connection is lost")
	}
	run.cfg.Partial = false
	if run.partial() {
		t.Error("partial when that was not asked for")
	}
}

// The texts of a report do nothing to a terminal, whatever the errors of a server have in them.
func TestReportTame(t *testing.T) {
	var r Report
	r.note("/a", fail("connect", "", KindPermission, errors.New("valid for \x1b]0;x\x07\n\u202eb, not for \"c\"")))
	var b strings.Builder
	if err := r.WriteText(&b, 10); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.ContainsAny(got, "\x1b\x07\u202e") || !strings.Contains(got, `x1b]0;x`) {
		t.Errorf("%q", got)
	}
}
