package pull

import (
	"testing"
	"time"
)

// A run that is killed loses little of its work, and a long one does not leave many states.
func TestKeepEvery(t *testing.T) {
	r := &run{began: time.Unix(0, 0)}
	n, kept := 0, r.began
	for kept.Sub(r.began) < 24*time.Hour {
		every := r.keepEvery(kept)
		if most := max(kept.Sub(r.began)/16, 30*time.Second); every > most || every > 10*time.Minute {
			t.Fatalf("after %v, nothing is kept for %v", kept.Sub(r.began), every)
		}
		kept = kept.Add(every)
		n++
	}
	if n > 220 {
		t.Errorf("%d times in a day", n)
	}
	r.cfg.KeepEvery = time.Second
	if every := r.keepEvery(kept); every != time.Second {
		t.Errorf("told to keep each second, it does so every %v", every)
	}
}
