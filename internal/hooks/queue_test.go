package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/snapgate/gateway/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a web server that takes events, or fails as often as it is told to.
type receiver struct {
	*httptest.Server
	got chan Event

	mu      sync.Mutex // guards failing
	failing int
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{got: make(chan Event, 100)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		fail := r.failing > 0
		r.failing--
		r.mu.Unlock()
		if fail {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(req.Body)
		var e Event
		if err == nil {
			err = json.Unmarshal(body, &e)
		}
		if err != nil {
			t.Errorf("body %q: %v", body, err)
		}
		r.got <- e
	}))
	t.Cleanup(r.Close)
	return r
}

// take returns the paths of the next n events.
func (r *receiver) take(n int) string {
	var paths []string
	for range n {
		paths = append(paths, (<-r.got).Path)
	}
	return strings.Join(paths, " ")
}

func open(t *testing.T, dir string, log *logtest.Buffer, change func(*Config)) *Queue {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	cfg := Config{
		Dir: dir, Client: client, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Pause: func(int) time.Duration { return time.Millisecond },
	}
	change(&cfg)
	q, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

// serve serves a queue until the function that it returns is called.
func serve(q *Queue) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		q.Serve(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

func add(t *testing.T, q *Queue, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := q.Add(Event{Event: Upload, Share: "main", Path: p}); err != nil {
			t.Fatal(err)
		}
	}
}

// idle waits until nothing is pending.
func idle(t *testing.T, q *Queue) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		pending := 0
		for _, st := range q.Status() {
			pending += st.Pending
		}
		if pending == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still pending: %+v", q.Status())
		}
	}
}

// Events come in their order, each once when all goes well, and the file becomes empty.
func TestOrder(t *testing.T) {
	r, dir, log := newReceiver(t), t.TempDir(), &logtest.Buffer{}
	q := open(t, dir, log, func(c *Config) { c.Hooks = []Hook{{Name: "web", URL: r.URL}} })
	stop := serve(q)
	add(t, q, "/1", "/2", "/3")
	if got := r.take(3); got != "/1 /2 /3" {
		t.Errorf("got %s", got)
	}
	add(t, q, "/4")
	if got := r.take(1); got != "/4" {
		t.Errorf("got %s", got)
	}
	idle(t, q)
	stop()
	if info, err := os.Stat(filepath.Join(dir, queueName)); err != nil || info.Size() != 0 || info.Mode().Perm() != 0o600 {
		t.Errorf("the queue has %v bytes, mode %v, %v; want none, 0600", info.Size(), info.Mode(), err)
	}
	if log.String() != "" {
		t.Errorf("log: %s", log)
	}
}

// What was not taken when the process was killed comes after the next start, and what was
// taken does not; another event gets another number.
func TestKilled(t *testing.T) {
	r, dir, log := newReceiver(t), t.TempDir(), &logtest.Buffer{}
	hooks := func(c *Config) { c.Hooks = []Hook{{Name: "web", URL: r.URL}} }
	q := open(t, dir, log, hooks)
	add(t, q, "/1", "/2")
	// Not closed: as after a kill.
	q = open(t, dir, log, hooks)
	stop := serve(q)
	if got := r.take(2); got != "/1 /2" {
		t.Errorf("got %s", got)
	}
	idle(t, q)
	stop()
	q = open(t, dir, log, hooks)
	stop = serve(q)
	add(t, q, "/3")
	if got := r.take(1); got != "/3" {
		t.Errorf("after a start: got %s", got)
	}
	idle(t, q)
	stop()
	select {
	case e := <-r.got:
		t.Errorf("told again: %+v", e)
	default:
	}
}

// A line that was not written whole is cut off, and only that.
func TestTornEnd(t *testing.T) {
	r, dir, log := newReceiver(t), t.TempDir(), &logtest.Buffer{}
	hooks := func(c *Config) { c.Hooks = []Hook{{Name: "web", URL: r.URL}} }
	q := open(t, dir, log, hooks)
	add(t, q, "/1", "/2")
	file := filepath.Join(dir, queueName)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, torn := range map[string][]byte{
		"half a line":    data[:len(data)-5],
		"flipped bit":    append(append([]byte{}, data[:len(data)-8]...), append([]byte{data[len(data)-8] ^ 1}, data[len(data)-7:]...)...),
		"garbage behind": append(append([]byte{}, data...), "00000000 {}\n"...),
		"repeated":       append(append([]byte{}, data...), data...),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			want := 2
			if name == "half a line" || name == "flipped bit" {
				want = 1
			}
			q := open(t, dir, log, hooks)
			if got := q.Status()[0].Pending; got != want {
				t.Errorf("%d events, want %d", got, want)
			}
			log.Wait(t, "not written whole")
		})
	}
}

// A hook that fails is tried again and gets its events in order; another one does not wait
// for it.
func TestRetry(t *testing.T) {
	slow, quick, log := newReceiver(t), newReceiver(t), &logtest.Buffer{}
	slow.failing = 5
	block := make(chan struct{})
	q := open(t, t.TempDir(), log, func(c *Config) {
		c.Hooks = []Hook{{Name: "slow", URL: slow.URL}, {Name: "quick", URL: quick.URL}}
		c.Pause = func(failures int) time.Duration {
			if failures == 2 {
				<-block // until the other one has all
			}
			return time.Millisecond
		}
	})
	stop := serve(q)
	defer stop()
	add(t, q, "/1", "/2")
	if got := quick.take(2); got != "/1 /2" {
		t.Errorf("quick got %s", got)
	}
	close(block)
	if got := slow.take(2); got != "/1 /2" {
		t.Errorf("slow got %s", got)
	}
	log.Wait(t, "hook=slow", "try=5", "503 Service Unavailable: not now")
	idle(t, q)
	if st := q.Status(); st[0].Tries != 0 || st[0].Error != "" || st[0].Success.IsZero() {
		t.Errorf("status %+v", st[0])
	}
}

// An event that nobody takes is given up in the end, with an error in the log.
func TestGiveUp(t *testing.T) {
	r, log := newReceiver(t), &logtest.Buffer{}
	r.failing = 3
	q := open(t, t.TempDir(), log, func(c *Config) {
		c.Hooks = []Hook{{Name: "web", URL: r.URL}}
		c.GiveUp = time.Nanosecond
	})
	stop := serve(q)
	defer stop()
	add(t, q, "/1", "/2", "/3", "/4")
	if got := r.take(1); got != "/4" {
		t.Errorf("got %s", got)
	}
	log.Wait(t, "level=ERROR", "given up", "hook=web")
	if n := q.Status()[0].GivenUp; n != 3 {
		t.Errorf("%d given up, want 3", n)
	}
}

// A hook gets the events and shares that it wants; one that is new gets those from now on.
func TestWants(t *testing.T) {
	all, some, late, dir, log := newReceiver(t), newReceiver(t), newReceiver(t), t.TempDir(), &logtest.Buffer{}
	hooks := []Hook{{Name: "all", URL: all.URL}, {Name: "some", URL: some.URL, Events: []string{Snapshot}, Shares: []string{"b"}}}
	q := open(t, dir, log, func(c *Config) { c.Hooks = hooks })
	for _, e := range []Event{{Event: Upload, Share: "b", Path: "/1"}, {Event: Snapshot, Share: "a", Path: "/2"}, {Event: Snapshot, Share: "b", Path: "/3"}} {
		if err := q.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	q = open(t, dir, log, func(c *Config) { c.Hooks = append(hooks, Hook{Name: "late", URL: late.URL}) })
	add(t, q, "/4")
	stop := serve(q)
	defer stop()
	if diff := cmp.Diff([]string{"/1 /2 /3 /4", "/3", "/4"}, []string{all.take(4), some.take(1), late.take(1)}); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	idle(t, q)
}

// Many add at once, and all of it comes.
func TestConcurrent(t *testing.T) {
	r, log := newReceiver(t), &logtest.Buffer{}
	q := open(t, t.TempDir(), log, func(c *Config) { c.Hooks = []Hook{{Name: "web", URL: r.URL}} })
	stop := serve(q)
	defer stop()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				if err := q.Add(Event{Event: Upload, Path: fmt.Sprintf("/%d/%d", i, j)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for range 80 {
		seen[r.take(1)] = true
	}
	if len(seen) != 80 {
		t.Errorf("%d events came, want 80", len(seen))
	}
}

// A full queue refuses events rather than fill the disk.
func TestFull(t *testing.T) {
	q := open(t, t.TempDir(), &logtest.Buffer{}, func(c *Config) {
		c.Hooks, c.MaxBytes = []Hook{{Name: "web", URL: "http://127.0.0.1:1/"}}, 100
	})
	add(t, q, "/1")
	if err := q.Add(Event{Event: Upload, Path: "/2"}); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want %v", err, ErrFull)
	}
}

func TestOpen(t *testing.T) {
	web := Hook{Name: "web", URL: "http://localhost/"}
	for name, hooks := range map[string][]Hook{
		"no name": {{URL: "http://localhost/"}}, "a path": {{Name: "a/b", URL: "http://localhost/"}},
		"nothing to do": {{Name: "x"}}, "two things": {{Name: "x", URL: "u", Command: []string{"c"}}},
		"twice": {web, web}, "timeout": {{Name: "x", URL: "u", Timeout: -1}},
	} {
		if _, err := Open(Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Hooks: hooks}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A hook that is always a little behind does not fill the queue: what was had makes room, in order,
// and a restart goes on from there.
func TestCompact(t *testing.T) {
	dir := t.TempDir()
	change := func(c *Config) { c.Hooks, c.MaxBytes = []Hook{{Name: "web", URL: "http://127.0.0.1:1/"}}, 4096 }
	q := open(t, dir, &logtest.Buffer{}, change)
	const behind = 3
	for i := range 100 {
		add(t, q, fmt.Sprintf("/%d", i))
		if i < behind {
			continue
		}
		e, ok, _ := q.next("web")
		if !ok {
			t.Fatal("nothing to take")
		}
		if ev, _, err := q.read(e); err != nil || ev.Path != fmt.Sprintf("/%d", i-behind) {
			t.Fatalf("event %d: %q, %v", i-behind, ev.Path, err)
		}
		takeOne(t, q)
		if i == 50 {
			_ = q.Close()
			q = open(t, dir, &logtest.Buffer{}, change)
		}
	}
	if got, want := strings.Join(pending(t, q), " "), "/97 /98 /99"; got != want {
		t.Errorf("pending %s, want %s", got, want)
	}
	if info, err := os.Stat(filepath.Join(dir, queueName)); err != nil || info.Size() > 4096 {
		t.Errorf("the file: %v, %v", info, err)
	}
}

// Only what a hook wants is put into the queue; what cannot be is counted.
func TestWanted(t *testing.T) {
	q := open(t, t.TempDir(), &logtest.Buffer{}, func(c *Config) {
		c.Hooks, c.MaxBytes = []Hook{{Name: "web", URL: "http://127.0.0.1:1/", Events: []string{Alarm}, Shares: []string{"main"}}}, 100
	})
	for _, e := range []Event{{Event: Upload, Share: "main"}, {Event: Alarm, Share: "other"}, {Event: Alarm}, {Event: Alarm, Share: "main", Text: "x"}} {
		if err := q.Add(e); err != nil {
			t.Error(err)
		}
	}
	if err := q.Add(Event{Event: Alarm, Share: "main"}); !errors.Is(err, ErrFull) {
		t.Errorf("full: got %v, want %v", err, ErrFull)
	}
	if st := q.Status()[0]; st.Pending != 1 || st.Dropped != 1 {
		t.Errorf("%d pending and %d dropped, want 1 and 1", st.Pending, st.Dropped)
	}
}

// An error does not show the URL: it may have a token in it.
func TestSecretURL(t *testing.T) {
	client, err := NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := Hook{Name: "x", URL: "http://127.0.0.1:1/secret-token"}
	err = h.Deliver(t.Context(), client, Event{Event: Test})
	if err == nil || strings.Contains(err.Error(), "secret-token") {
		t.Errorf("got %v, want an error without the URL", err)
	}
	if _, err := NewClient([]byte("no certificate")); err == nil {
		t.Error("a file without a certificate is taken")
	}
}

// An event that a hook cannot take does not hold up those behind it for long.
func TestPoison(t *testing.T) {
	log, got := &logtest.Buffer{}, make(chan string, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var e Event
		if err := json.NewDecoder(req.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		if e.Path == "/bad" {
			http.Error(w, "never", http.StatusBadRequest)
			return
		}
		got <- e.Path
	}))
	defer srv.Close()
	q := open(t, t.TempDir(), log, func(c *Config) { c.Hooks = []Hook{{Name: "web", URL: srv.URL}} })
	add(t, q, "/1")
	add(t, q, "/bad")
	stop := serve(q)
	defer stop()
	log.Wait(t, "try=20") // nothing is behind it: it may be the hook
	add(t, q, "/2")
	log.Wait(t, "level=ERROR", "which is given up", "400 Bad Request: never")
	add(t, q, "/3")
	idle(t, q)
	close(got)
	var paths []string
	for p := range got {
		if len(paths) == 0 || paths[len(paths)-1] != p {
			paths = append(paths, p)
		}
	}
	if d := cmp.Diff([]string{"/1", "/2", "/3"}, paths); d != "" {
		t.Errorf("taken (-want +got):\n%s", d)
	}
	if st := q.Status()[0]; st.GivenUp != 1 || st.Pending != 0 {
		t.Errorf("%+v, want one given up", st)
	}
}
