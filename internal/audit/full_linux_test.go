package audit

import (
	"strings"
	"testing"
)

// A log that cannot be written says so once, counts, and goes on when it can.
func TestCannotWrite(t *testing.T) {
	l, file, log := open(t)
	if err := l.Reopen("/dev/full"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.Write(Event{Event: "login"})
	}
	if lost, err := l.Status(); lost != 3 || err == nil {
		t.Errorf("Status: %d lost, %v; want 3 and an error", lost, err)
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors are logged, want 1:\n%s", n, log)
	}
	if err := l.Reopen(file); err != nil {
		t.Fatal(err)
	}
	l.Write(Event{Event: "login"})
	if lost, err := l.Status(); lost != 3 || err != nil {
		t.Errorf("Status: %d lost, %v; want 3 and no error", lost, err)
	}
	log.Wait(t, "can be written again", "lost=3")
	if got := events(t, file); len(got) != 1 {
		t.Errorf("the file has %v", got)
	}
}
