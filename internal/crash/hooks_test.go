//go:build crash

package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/hooks"
	"github.com/snapgate/gateway/internal/proctest"
)

// heard is what a hook was told.
type heard struct {
	mu  sync.Mutex // guards what follows
	ids map[string]int
	of  map[string]bool // paths of uploads and ids of snapshots
	bad []string
}

// ServeHTTP takes an event.
func (h *heard) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var e hooks.Event
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || r.Header.Get("X-Snapgate-Signature") != "sha256="+hooks.Sign([]byte("the key"), r.Header.Get("X-Snapgate-Timestamp"), body) {
		h.bad = append(h.bad, fmt.Sprintf("%q, %v", body, err))
		return
	}
	h.ids[e.ID]++
	h.of[e.Path+e.Snapshot] = true
}

// missing lists what it was not told of.
func (h *heard) missing(all []string) (list []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range all {
		if !h.of[s] {
			list = append(list, s)
		}
	}
	return list
}

// TestCrashHooks kills a gateway while clients upload and it commits, at the moments around commits and
// at others, and a hook is told in the end of every upload that was acknowledged and of every snapshot.
func TestCrashHooks(t *testing.T) {
	h := &heard{ids: map[string]int{}, of: map[string]bool{}}
	server := httptest.NewServer(h)
	defer server.Close()
	g := proctest.NewGateway(t, proctest.Options{
		Binary: proctest.Binary(t, "gateway-failpoint"),
		Store:  "{ location: ./data/store, plaintext: true, create: true }", // deriving keys is not what is tested
		Extra:  fmt.Sprintf("hooks: { test: { on: [upload, snapshot], url: %q, secret_env: HOOK_KEY } }\n", server.URL),
	})
	t.Setenv("HOOK_KEY", "the key")
	var mu sync.Mutex // guards acked
	var acked []string
	upload := func(c *proctest.SFTP, name string) error {
		f, err := c.Create(name)
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, strings.Repeat(name, 100))
		if err = errors.Join(err, f.Close()); err == nil {
			mu.Lock()
			defer mu.Unlock()
			acked = append(acked, name)
		}
		return err
	}
	const perClient = 12 // uploads, after which the gateway is killed anyhow
	for round, env := range [][]string{
		nil, {"GATEWAY_FAILPOINT=state-put-after"}, {"GATEWAY_FAILPOINT=journal-after-sync:9"}, {"GATEWAY_FAILPOINT=commit-done:2"}, {"GATEWAY_FAILPOINT=commit-header-after:3"},
	} {
		// At a failpoint it may die while it starts: what it has recovered is committed at once.
		if _, err := g.Start(t.Context(), env...); err != nil && env == nil {
			t.Fatal(err)
		}
		var clients sync.WaitGroup
		for i := range 2 {
			clients.Go(func() {
				c, err := g.Client.Login(t.Context(), "alice")
				if err != nil {
					return // killed before
				}
				defer c.Close()
				for n := range perClient {
					if upload(c, fmt.Sprintf("/%d-%d-%d", round, i, n)) != nil {
						return
					}
				}
			})
		}
		clients.Wait()
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if len(acked) < perClient {
		t.Fatalf("only %d uploads were acknowledged", len(acked))
	}
	if _, err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := g.Command(t.Context(), "snapshot", "main"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := g.Command(t.Context(), "snapshots", "--json")
	if err != nil {
		t.Fatal(err)
	}
	all := append([]string(nil), acked...)
	for line := range strings.Lines(out) {
		var s struct{ ID string }
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s.ID)
	}
	if _, err := proctest.Wait(t.Context(), time.Minute, func() bool { return len(h.missing(all)) == 0 }); err != nil {
		t.Errorf("%d acknowledged uploads, %d snapshots; not told: %v", len(acked), len(all)-len(acked), h.missing(all))
	}
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
	twice := 0
	for _, n := range h.ids {
		if n > 1 {
			twice++
		}
	}
	if len(h.bad) > 0 {
		t.Errorf("bad requests: %v", h.bad)
	}
	t.Logf("%d uploads and %d snapshots, %d events of which came twice", len(acked), len(all)-len(acked), twice)
}
