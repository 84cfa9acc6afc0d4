package vfs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// kidsVersion is a kids and what it must hold.
type kidsVersion struct {
	kids  *kids
	names map[string]*node
}

func (v kidsVersion) check(t *testing.T, r *rand.Rand) {
	t.Helper()
	sorted := slices.Sorted(maps.Keys(v.names))
	for _, after := range []string{"", fmt.Sprint(r.IntN(1000)), "~"} {
		from, found := slices.BinarySearch(sorted, after)
		if found {
			from++
		}
		var got []string
		next := v.kids.after(after)
		for e, ok := next(); ok; e, ok = next() {
			got = append(got, e.name)
			if e.node != v.names[e.name] {
				t.Fatalf("%q has another node", e.name)
			}
		}
		if diff := cmp.Diff(append([]string(nil), sorted[from:]...), got); diff != "" {
			t.Fatalf("names after %q (-want +got):\n%s", after, diff)
		}
	}
	for range 100 {
		name := fmt.Sprint(r.IntN(1000))
		if v.kids.get(name) != v.names[name] {
			t.Fatalf("get %q is another node", name)
		}
	}
	v.kids.checkParts(t)
}

func (k *kids) checkParts(t *testing.T) {
	t.Helper()
	if k == nil {
		return
	}
	if len(k.names) == 0 || len(k.names) > kidsMax {
		t.Fatalf("a part of %d names", len(k.names))
	}
	for _, part := range k.below {
		part.checkParts(t)
	}
}

// Random histories hold what a map does, in order, and no change shows in an older version.
func TestKids(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		v := kidsVersion{names: map[string]*node{}}
		var old []kidsVersion
		for step := range 4000 {
			if step%500 == 0 {
				old = append(old, kidsVersion{v.kids, maps.Clone(v.names)})
			}
			name := fmt.Sprint(r.IntN(1000))
			if r.IntN(4000) > step || r.IntN(8) == 0 {
				n := &node{}
				v.kids, v.names[name] = v.kids.put(name, n), n
			} else {
				v.kids = v.kids.without(name)
				delete(v.names, name)
			}
		}
		for _, v := range append(old, v) {
			v.check(t, r)
		}
		for name := range v.names {
			v.kids = v.kids.without(name)
		}
		want(t, "empty at last", v.kids == nil, true)
	}
}

// Names that come in order fill the tree.
func TestKidsInOrder(t *testing.T) {
	var k *kids
	for i := range 10_000 {
		k = k.put(fmt.Sprintf("%05d", i), &node{})
	}
	parts := 0
	var count func(k *kids)
	count = func(k *kids) {
		parts++
		for _, below := range k.below {
			count(below)
		}
	}
	count(k)
	if parts > 10_000/kidsMax*11/10 {
		t.Errorf("%d parts for 10,000 names", parts)
	}
}
