package snapshotter

import (
	"context"
	"slices"
	"strings"
	"testing"
)

// A panic in the work on one item ends the search, not the process.
func TestOrderedPanic(t *testing.T) {
	items := func(yield func(int, error) bool) {
		for _, i := range []int{1, 0, 2} {
			if !yield(i, nil) {
				return
			}
		}
	}
	var got []int
	err := ordered(t.Context(), 2, items, func(_ context.Context, i int) (int, error) { return 10 / i, nil }, func(n int) error {
		got = append(got, n)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "divide by zero") || !slices.Equal(got, []int{10}) {
		t.Errorf("%v, %v", got, err)
	}
}
