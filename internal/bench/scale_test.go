//go:build bench

package bench

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
)

// TestScale has FILES (a million) files in one share of a gateway, uploaded over SFTP: the
// upload, which commits slow down, a restart after a kill with all that is not committed in the
// journal, the commits, listing, and a restart without any. With TMPFS=1 disks cost nothing.
func TestScale(t *testing.T) {
	files := number(t, "FILES", 1_000_000)
	parent := disk
	if os.Getenv("TMPFS") != "" {
		parent = tmpfs
	}
	g := gateway(t, parent, "{ snapshot: { when: manual } }")
	g.resetPeak(t)
	var closes times
	took := seconds(func() { closes = fill(t, g, files) })
	tell(t, "%d files of 16 bytes uploaded over 16 connections: %.0f s, %.0f files/s, peak RSS %d MiB", files, took, float64(files)/took, g.peak(t))
	slices.Sort(closes)
	tell(t, "their CLOSE: median %.1f ms, p99 %.1f ms, longest %.0f ms", 1000*closes[len(closes)/2], 1000*closes[len(closes)*99/100], 1000*closes[len(closes)-1])

	if err := g.g.Kill(); err != nil {
		t.Fatal(err)
	}
	g.restart(t, "after a kill")
	g.resetPeak(t)
	took = g.commit(t)
	tell(t, "commit of what was not committed: %.2f s, peak RSS %d MiB", took, g.peak(t))

	c := g.mustLogin(t)
	names := 0
	g.resetPeak(t)
	took = seconds(func() {
		for d := range files / perDir {
			list, err := c.ReadDir(dirName(d))
			if err != nil {
				t.Fatal(err)
			}
			names += len(list)
		}
	})
	if names != files/perDir*perDir {
		t.Fatalf("%d names, want %d", names, files)
	}
	tell(t, "%d names in %d directories listed over SFTP: %.1f s, peak RSS %d MiB", names, files/perDir, took, g.peak(t))

	g.changes(t, files, "in the same process")
	if err := g.g.Stop(); err != nil {
		t.Fatal(err)
	}
	g.restart(t, "after a stop")
	g.changes(t, files, "after the restart")
}

// restart starts a gateway that has ended.
func (s *server) restart(t *testing.T, when string) {
	t.Helper()
	ready, err := s.g.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.pid = s.g.Pid()
	tell(t, "start %s: serves after %.2f s, peak RSS %d MiB, key derivation included", when, ready.Seconds(), s.peak(t))
}

// commit makes a snapshot of the share; the start of the command is counted.
func (s *server) commit(t *testing.T) float64 {
	t.Helper()
	return seconds(func() {
		if _, err := s.g.Command(t.Context(), "snapshot", "main"); err != nil {
			t.Fatal(err)
		}
	})
}

// changes commits one changed file at the first, a middle and the last place.
func (s *server) changes(t *testing.T, files int, when string) {
	t.Helper()
	c := s.mustLogin(t)
	places := []struct {
		name string
		file int
		took times
	}{{name: "first"}, {name: "middle", file: files / 2}, {name: "last", file: files - 1}}
	s.resetPeak(t)
	for round := range rounds {
		for i := range places {
			p := &places[i]
			if err := upload(c, fileName(p.file), fmt.Appendf(nil, "%s %d", when, round), nil); err != nil {
				t.Fatal(err)
			}
			p.took = append(p.took, s.commit(t))
		}
	}
	for _, p := range places {
		tell(t, "commit of one file, %s, %s: median %.2f s, first time %.2f s", when, p.name, p.took.median(), p.took[0])
	}
	tell(t, "commits of one file, %s: peak RSS %d MiB", when, s.peak(t))
}

func (s *server) mustLogin(t *testing.T) client {
	t.Helper()
	c, err := s.login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
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
