package pull

import (
	"testing"
	"time"
)

// A call that has lost its connection has the next one for itself, but not for as long as it likes.
func TestBreaksTakeTurns(t *testing.T) {
	b := &breaks{r: newFake(), most: time.Millisecond}
	began, other := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 2)
	call := func(again func()) {
		n := 0
		_, err := b.do(t.Context(), func() (bool, error) {
			if n++; n == 1 {
				return false, fail("read", "/x", KindConnection, nil)
			}
			again()
			return true, nil
		})
		ended <- err
	}
	go call(func() { close(began); <-other })
	<-began
	go call(func() { close(other) })
	for range 2 {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("one waits for the other")
		}
	}
}
