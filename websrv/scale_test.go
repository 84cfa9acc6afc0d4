//go:build soak

package websrv

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// pageLimit is how long a page may take, whatever the size of a share and the number of snapshots.
const pageLimit = time.Second

// TestScale asks for pages of a directory of FILES names (100,000) and of a share with COMMITS
// snapshots (1,000), each three times, and prints how long the quickest took.
func TestScale(t *testing.T) {
	s := startSite(t, nil)
	s.user("alice", vfs.PermFull, at("/line", "main", "/"), at("/wide", "other", "/"), at("/part", "main", "/d"))
	files, commits := number(t, "FILES", 100_000), number(t, "COMMITS", 1000)
	for i := range files {
		if err := s.away.Symlink(t.Context(), "x", fmt.Sprintf("/name %07d.txt", i)); err != nil {
			t.Fatal(err)
		}
	}
	wide := s.commitOf("other")
	var names []string
	for i := range commits {
		s.put("/d/f.txt", fmt.Sprint(i))
		names = append(names, s.commit())
	}
	b := s.as("alice")
	middle := fmt.Sprintf("?after=name+%07d.txt", files/2)
	for _, path := range []string{
		"/", "/browse/wide", "/browse/wide" + middle, "/browse/wide/.snapshots/" + wide, "/browse/wide/.snapshots/" + wide + middle,
		"/search/wide?q=*" + fmt.Sprintf("%07d.txt", files/2), "/search/wide?q=*1.txt", "/snapshots/line", "/snapshots/part", "/snapshots/line?from=" + names[commits/2],
		"/history/line/d/f.txt", "/search/line?q=f*", "/search/line?q=f*&all=1", "/search/line?q=nothing&all=1",
		"/diff/line?from=" + names[0] + "&to=" + names[commits-1], "/view/line/.snapshots/" + names[0] + "/d/f.txt", "/activity",
	} {
		best := time.Hour
		for range 3 {
			began := time.Now()
			b.want(path)
			best = min(best, time.Since(began))
		}
		t.Logf("%8.3f s  %s", best.Seconds(), path)
		if best > pageLimit {
			t.Errorf("%s: %v, want %v", path, best, pageLimit)
		}
	}
}

// number is a number from the environment.
func number(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
