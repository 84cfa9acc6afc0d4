//go:build bench

package bench

import (
	"fmt"
	"testing"
)

// TestView runs commands that look into an encrypted store of COMMITS (1,000) snapshots of FILES (10,000)
// files, each of which changes a file, every tenth the same one: beside the server that has the store open, and
// without one.
func TestView(t *testing.T) {
	files, commits := number(t, "FILES", 10_000), number(t, "COMMITS", 1000)
	g := gateway(t, disk, "{ snapshot: { when: manual } }")
	fill(t, g, files)
	g.commit(t)
	c := g.mustLogin(t)
	one := fileName(files / 2)
	for i := range commits - 1 {
		name := fileName(i % files)
		if i%10 == 0 {
			name = one
		}
		if err := upload(c, name, fmt.Appendf(nil, "version %d", i), nil); err != nil {
			t.Fatal(err)
		}
		g.commit(t)
	}
	g.views(t, one, "beside the server")
	if err := g.g.Stop(); err != nil {
		t.Fatal(err)
	}
	g.views(t, one, "on the store alone")
}

// views runs commands; one is the path of a file with many versions.
func (s *server) views(t *testing.T, one, when string) {
	t.Helper()
	for _, args := range [][]string{
		{"snapshots"}, {"ls", "latest"}, {"ls", "-l", "latest:" + dirName(0)}, {"ls", "-R", "latest"}, {"info", "latest"},
		{"find", "latest", "*77*"}, {"find", "--all", "latest", "*77*"}, {"history", "main:" + one}, {"cat", "latest:" + one},
	} {
		var took times
		for range rounds {
			took = append(took, seconds(func() {
				if _, err := s.g.Command(t.Context(), args[0], args[1:]...); err != nil {
					t.Fatal(err)
				}
			}))
		}
		tell(t, "%s, %s: median %.2f s, first time %.2f s", args, when, took.median(), took[0])
	}
}
