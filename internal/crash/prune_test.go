//go:build crash

package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// TestCrashPrune kills gateway prune before and after its state is written, and the gateway that does
// it. What is left is whole every time, and the next run finishes the work.
func TestCrashPrune(t *testing.T) {
	g := proctest.NewGateway(t, proctest.Options{
		Binary: proctest.Binary(t, "gateway-failpoint"),
		Shares: map[string]string{"main": "{ snapshot: { when: manual }, keep: last 2 }"},
		Store:  "{ location: ./data/store, plaintext: true, create: true }", // deriving keys is not what is tested
		Extra:  "retention: { prune: by hand }\n",
	})
	n := 0
	fill := func() {
		t.Helper()
		for range 4 {
			n++
			c, err := g.Client.Login(t.Context(), "alice")
			if err != nil {
				t.Fatal(err)
			}
			f, err := c.Create(fmt.Sprintf("/file%d", n))
			if err == nil {
				_, err = f.Write([]byte(strings.Repeat("content", n)))
				err = errors.Join(err, f.Close())
			}
			c.Close()
			if err != nil {
				t.Fatal(err)
			}
			if out, err := g.Command(t.Context(), "snapshot", "main"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	}
	var p *proctest.Plakar
	look := func(what string, want int) {
		t.Helper()
		if p == nil {
			p = proctest.NewPlakar(t, filepath.Join(g.Dir, "data", "store"), g.PassFile)
		}
		found, err := p.Snapshots(t.Context())
		if err != nil || len(found) != want {
			t.Errorf("%s: plakar sees %d snapshots, want %d, %v", what, len(found), want, err)
		}
		if err := p.Check(t.Context(), found...); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, serving := range []bool{false, true} {
		for _, point := range []struct {
			name string
			left int
		}{{"remove-state-put-before", 4}, {"remove-state-put-after", 2}} {
			what := fmt.Sprintf("%s, serving %v", point.name, serving)
			if _, err := g.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := 2
			if n == 0 {
				before = 0
			}
			fill()
			if err := g.Stop(); err != nil {
				t.Fatal(err)
			}
			if serving {
				if _, err := g.Start(t.Context(), "GATEWAY_FAILPOINT="+point.name); err != nil {
					t.Fatal(err)
				}
				if out, err := g.Command(t.Context(), "prune"); err == nil {
					t.Errorf("%s: prune is done: %s", what, out)
				}
				<-g.Ended()
			} else {
				cmd := exec.CommandContext(t.Context(), filepath.Join(g.Dir, "sgserve"), "prune", "-c", g.Config)
				cmd.Env = append(os.Environ(), "GATEWAY_FAILPOINT="+point.name)
				out, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || !exit.Sys().(syscall.WaitStatus).Signaled() {
					t.Errorf("%s: prune was not killed: %v\n%s", what, err, out)
				}
			}
			left := point.left
			if left > 2 {
				left += before
			}
			look(what, left)
			if out, err := g.Command(t.Context(), "prune"); err != nil {
				t.Errorf("%s: once more: %v\n%s", what, err, out)
			}
			look(what+", once more", 2)
		}
	}
	// The share goes on.
	if _, err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	fill()
	for _, args := range [][]string{{"pin", "main"}, {"unpin", "main"}, {"pin", "main"}} {
		if out, err := g.Command(t.Context(), args[0], args[1:]...); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	look("after all, and with pins", 6)
}
