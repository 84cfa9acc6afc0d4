package snapshotter

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/vmihailenco/msgpack/v5"
)

// FuzzParseNode compares the nodes that parseNode takes apart with what MessagePack makes of them.
func FuzzParseNode(f *testing.F) {
	mac := func(i int) objects.MAC { return objects.MAC{byte(i), 1, 2} }
	long := &node{}
	for i := range 700 {
		long.Keys = append(long.Keys, fmt.Sprintf("/%0*d", 1+i%300, i))
		long.Values = append(long.Values, mac(i))
	}
	next := mac(9)
	for _, n := range []*node{
		{}, {Keys: []string{""}, Values: []objects.MAC{mac(1)}},
		{Keys: []string{"/a", "/\xff"}, Values: []objects.MAC{mac(1), mac(2)}, Next: &next, Version: 1 << 20},
		{Keys: []string{"/m"}, Pointers: []objects.MAC{mac(3), mac(4)}}, long,
	} {
		data, err := msgpack.Marshal(n)
		if err != nil {
			f.Fatal(err)
		}
		if _, ok := parseNode(data); !ok {
			f.Errorf("%d keys: not parsed", len(n.Keys))
		}
		f.Add(data)
		f.Add(data[:len(data)/2])
		f.Add(bytes.Replace(data, []byte("\xc4\x20"), []byte("\xc4\x21"), 1))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		raw, ok := parseNode(data)
		if !ok {
			return
		}
		want := new(node)
		if err := msgpack.Unmarshal(data, want); err != nil {
			return // of a field that parseNode does not look into
		}
		got := new(node)
		for i := range raw.keys {
			got.Keys = append(got.Keys, raw.key(i))
			if len(raw.pointers) == 0 {
				got.Values = append(got.Values, raw.value(i))
			}
		}
		for i := range len(raw.pointers) / rawMAC {
			got.Pointers = append(got.Pointers, raw.pointer(i))
		}
		if !slices.Equal(got.Keys, want.Keys) || !slices.Equal(got.Values, want.Values) || !slices.Equal(got.Pointers, want.Pointers) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
