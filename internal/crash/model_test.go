package crash

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTreeApply(t *testing.T) {
	start := Tree{"/c/d": {Dir: true}, "/c/d/f": file([]Layer{{Seed: 1, Size: 10}}), "/c/g": file([]Layer{{Seed: 2, Size: 20}})}
	tests := []struct {
		name string
		op   Op
		want []string // names afterwards; nil: an error
	}{
		{"put", Op{Kind: Put, Path: "/c/n", Seed: 3, Size: 5}, []string{"/c/d", "/c/d/f", "/c/g", "/c/n"}},
		{"rename of a directory", Op{Kind: Rename, Path: "/c/d", To: "/c/e"}, []string{"/c/e", "/c/e/f", "/c/g"}},
		{"rename over", Op{Kind: Replace, Path: "/c/g", To: "/c/d/f"}, []string{"/c/d", "/c/d/f"}},
		{"remove", Op{Kind: Remove, Path: "/c/g"}, []string{"/c/d", "/c/d/f"}},
		{"mkdir", Op{Kind: Mkdir, Path: "/c/h"}, []string{"/c/d", "/c/d/f", "/c/g", "/c/h"}},
		{"remove of nothing", Op{Kind: Remove, Path: "/c/none"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := start.Apply(tt.op)
			if (err != nil) != (tt.want == nil) {
				t.Fatalf("got error %v", err)
			}
			if diff := cmp.Diff(tt.want, got.names(func(string, Node) bool { return true })); diff != "" {
				t.Error(diff)
			}
			if len(start) != 3 {
				t.Error("the tree before was changed")
			}
		})
	}
}

func TestContentLayers(t *testing.T) {
	whole := Bytes(7, 100)
	got := Content([]Layer{{Seed: 7, Size: 100}, {Size: 50}, {Seed: 9, Off: 60, Size: 5}})
	want := slices.Concat(whole[:50], make([]byte, 10), Bytes(9, 5))
	if !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// TestDiffFindsPrefix makes sure that what the crash test is for would be found.
func TestDiffFindsPrefix(t *testing.T) {
	want := Tree{"/c/f": file([]Layer{{Seed: 1, Size: 100}})}
	prefix := Bytes(1, 60)
	for name, seen := range map[string]Tree{
		"prefix":  {"/c/f": {Size: 60, Sum: Sum(prefix)}},
		"zeros":   {"/c/f": {Size: 100, Sum: Sum(append(slices.Clone(prefix), make([]byte, 40)...))}},
		"missing": {},
		"extra":   {"/c/f": want["/c/f"], "/c/g": {}},
	} {
		if want.Diff(seen) == "" {
			t.Errorf("%s: no difference found", name)
		}
	}
	if diff := want.Diff(want); diff != "" {
		t.Errorf("a tree differs from itself: %s", diff)
	}
}

func TestPlannerStaysInTheModel(t *testing.T) {
	for _, whole := range []bool{false, true} {
		p := NewPlanner("/c", Tree{}, rand.New(rand.NewPCG(1, 2)))
		p.Whole = whole
		kinds := make(map[Kind]int)
		for i := range 300 {
			op, err := p.Next()
			if err != nil {
				t.Fatalf("operation %d: %v", i, err)
			}
			if op.Seq != i+1 || !strings.HasPrefix(op.Path, "/c/") {
				t.Fatalf("operation %d: %+v", i, op)
			}
			kinds[op.Kind]++
		}
		if whole && kinds[Patch]+kinds[Truncate] > 0 || !whole && len(kinds) != 8 {
			t.Errorf("whole %v: kinds of operations: %v", whole, kinds)
		}
	}
}

func TestLogRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	a, b, c := Op{Seq: 1, Kind: Put, Path: "/a"}, Op{Seq: 2, Kind: Remove, Path: "/b"}, Op{Seq: 3, Kind: Mkdir, Path: "/c"}
	for _, err := range []error{log.Begin(a), log.Ack(1), log.Begin(b), log.Refused(2, errors.New("why")), log.Begin(c)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadLog(path)
	if err != nil {
		t.Fatal(err)
	}
	want := History{Acked: []Op{a}, InFlight: &c, Refused: "remove /b: why"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := ReadLog(path + ".none"); err != nil || got.InFlight != nil {
		t.Errorf("a log that is not there: %+v, %v", got, err)
	}
	if _, err := parseLog(strings.NewReader(`{"ack":1}`)); err == nil {
		t.Error("an acknowledgement without a beginning is accepted")
	}
}

func TestFailpointsFromSource(t *testing.T) {
	root := t.TempDir()
	for name, src := range map[string]string{
		"vfs/internal/x/x.go": "package x\nconst (\n FailBefore = \"x-before\"\n Failure = \"no\"\n other = \"no\"\n)\n",
		"snapshotter/s.go":    "package s\nconst FailpointPut = \"put\"\n",
		"store/s_test.go":     "package s\nconst FailTest = \"no\"\n",
		"pull/p.go":           "package p\nconst FailElsewhere = \"no\"\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Failpoints(root, "vfs", "snapshotter", "store")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"put", "x-before"}, got); diff != "" {
		t.Error(diff)
	}
}
