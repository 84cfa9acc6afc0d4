package vfs

import (
	"fmt"
	"sync"
	"testing"
)

// Reloads at the same time open a new share once, and none opens one after the end.
func TestReloadNewShare(t *testing.T) {
	sys, _ := fullTestSystem(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := sys.Reload(t.Context(), []ShareConfig{{Name: "s", When: WhenManual}, {Name: "new", When: WhenManual}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want(t, "recovered", len(sys.recovered), 2)
	closeSystem(t, sys)
	for i := range 2 {
		err := sys.Reload(t.Context(), []ShareConfig{{Name: fmt.Sprint("late", i)}})
		wantKind(t, "after the end", err, KindClosed)
	}
}
