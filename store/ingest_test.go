package store_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// TestStatesAreReadWithAnyRoom reads states as a cold start does, with room for all of them, for some
// and for none.
func TestStatesAreReadWithAnyRoom(t *testing.T) {
	s := storetest.New(t, storetest.Plaintext)
	var ids []objects.MAC
	want := make(map[objects.MAC][]byte)
	for i := range 6 {
		_, id := putBlob(t, s, []byte(fmt.Sprint("blob ", i)))
		rd, _, err := s.Repository().GetState(id)
		if err != nil {
			t.Fatal(err)
		}
		if want[id], err = io.ReadAll(rd); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	size := len(want[ids[0]])
	for _, room := range []int{0, size, 10 * size, 1000 * size} {
		ordered, data, err := store.ReadStates(t.Context(), s, slices.Clone(ids), room)
		if err != nil || len(ordered) != len(ids) {
			t.Fatalf("room for %d bytes: %d states, %v", room, len(ordered), err)
		}
		for i, id := range ordered {
			if !bytes.Equal(data[i], want[id]) {
				t.Errorf("room for %d bytes: state %x has %d bytes, want %d", room, id[:4], len(data[i]), len(want[id]))
			}
		}
	}
}

// reads counts how often it is asked.
type reads struct {
	io.Reader
	n int
}

func (r *reads) Read(p []byte) (int, error) {
	r.n++
	return r.Reader.Read(p)
}

// TestStatesAreReadInLargePieces: what gives kloset the bytes of a state is asked seldom, as each
// time may be a switch of threads.
func TestStatesAreReadInLargePieces(t *testing.T) {
	s := storetest.New(t, storetest.Plaintext)
	_, id := putBlob(t, s, []byte("blob"))
	rd, version, err := s.Repository().GetState(id)
	if err != nil {
		t.Fatal(err)
	}
	counted := &reads{Reader: rd}
	if err := store.ReadState(counted, version); err != nil {
		t.Fatal(err)
	}
	if counted.n > 3 {
		t.Errorf("a state of a blob took %d reads", counted.n)
	}
}
