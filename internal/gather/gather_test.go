package gather_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"

	"github.com/snapgate/gateway/internal/gather"
)

// slow is a writer whose writes wait until they are let go.
type slow struct {
	let   chan error
	sizes []int
	got   bytes.Buffer
}

func (s *slow) Write(p []byte) (int, error) {
	if err := <-s.let; err != nil {
		return 0, err
	}
	s.sizes = append(s.sizes, len(p))
	return s.got.Write(p)
}

func TestWritesAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slow{let: make(chan error)}
		w := gather.NewWriter(to)
		for _, s := range []string{"one ", "two ", "three"} {
			if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
				t.Fatal(n, err)
			}
			synctest.Wait() // the first is on its way
		}
		close(to.let)
		if err := w.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := to.got.String(); got != "one two three" || len(to.sizes) != 2 {
			t.Errorf("got %q in writes of %v bytes", got, to.sizes)
		}
	})
}

// TestMemoryIsBounded has a peer that takes nothing: whoever writes waits at last.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slow{let: make(chan error)}
		w := gather.NewWriter(to)
		given, ended := 0, make(chan error)
		go func() {
			for {
				n, err := w.Write(make([]byte, 32<<10))
				if given += n; err != nil {
					ended <- err
					return
				}
			}
		}()
		synctest.Wait()
		if given > 256<<10 {
			t.Errorf("%d bytes are in memory", given)
		}
		broken := errors.New("the peer is gone")
		to.let <- broken
		if err := <-ended; !errors.Is(err, broken) {
			t.Errorf("the writer who waited got %v", err)
		}
		if err := w.Wait(); !errors.Is(err, broken) {
			t.Errorf("Wait: %v", err)
		}
		if n, err := w.Write([]byte("more")); n != 0 || !errors.Is(err, broken) {
			t.Errorf("Write after an error: %d, %v", n, err)
		}
	})
}

func TestNothingIsLost(t *testing.T) {
	near, far := net.Pipe()
	want := make([]byte, 3<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(want)
	go func() {
		w, rest := gather.NewWriter(near), want
		for len(rest) > 0 {
			// What was given may be used again at once.
			piece := bytes.Clone(rest[:min(len(rest), 1+int(random.Uint64()%60_000))])
			rest = rest[len(piece):]
			if _, err := w.Write(piece); err != nil {
				t.Error(err)
			}
			clear(piece)
		}
		if err := w.Wait(); err != nil {
			t.Error(err)
		}
		_ = near.Close()
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}
