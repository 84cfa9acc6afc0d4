package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/snapshotter"
)

// viewed is a gateway with two snapshots of the share main, which serves nothing but its control
// socket, and that only when asked to.
type viewed struct {
	t      *testing.T
	file   string // the configuration
	s      *serving
	served atomic.Int64 // requests
}

const viewedLarge = 8 << 20 // more than the socket holds

func newViewed(t *testing.T) *viewed {
	t.Helper()
	dir := t.TempDir()
	v := &viewed{t: t, file: filepath.Join(dir, "config.yaml")}
	large := make([]byte, viewedLarge)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(large)
	v.write("config.yaml", "version: 1\ndata_dir: ./data\nstore: { plaintext: true, create: true }\nshares: { main: {} }\n")
	v.write("tree/a.txt", "one\n")
	v.write("tree/docs/b.txt", "b\n")
	v.write("tree/docs/bad\xffname", "bytes\n")
	v.write("tree/large", string(large))
	v.importTree()
	v.write("tree/a.txt", "one\ntwo\n") // of another size: it may be within the same second
	v.importTree()

	cfg, err := config.Load(v.file)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	g, err := v.program(nil, nil).openGateway(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	v.s = &serving{gateway: g, program: v.program(nil, nil), views: newViewServing(cfg)}
	v.s.inForce.Store(cfg)
	return v
}

func (v *viewed) write(name, text string) {
	v.t.Helper()
	path := filepath.Join(filepath.Dir(v.file), name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		v.t.Fatal(err)
	}
}

// importTree imports the tree, in another process: a child of another test that is about to be
// executed may have a lock for a moment that was given back here.
func (v *viewed) importTree() {
	v.t.Helper()
	self, err := os.Executable()
	if err != nil {
		v.t.Fatal(err)
	}
	cmd := exec.CommandContext(v.t.Context(), self, "import", "tree", "main")
	cmd.Args[0], cmd.Dir = "gateway", filepath.Dir(v.file) // TestMain's command of that name
	if out, err := cmd.CombinedOutput(); err != nil {
		v.t.Fatalf("import: %v\n%s", err, out)
	}
}

func (v *viewed) program(stdout, stderr *bytes.Buffer) *program {
	if stdout == nil {
		stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	}
	return &program{stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, configFile: v.file, cheapKDF: true}
}

// run runs a command and returns what it prints.
func (v *viewed) run(status int, args ...string) (stdout, stderr string) {
	v.t.Helper()
	var out, errs bytes.Buffer
	if got := v.program(&out, &errs).run(v.t.Context(), append([]string{"-c", v.file}, args...)); got != status {
		v.t.Errorf("%q: status %d, want %d\n%s", args, got, status, errs.String())
	}
	return out.String(), errs.String()
}

// serve answers on the control socket until end is called.
func (v *viewed) serve(answer control.Handler) (end func()) {
	v.t.Helper()
	server, err := control.Listen(v.s.cfg.DataDir, v.s.log)
	if err != nil {
		v.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- server.Serve(ctx, func(ctx context.Context, req control.Request, send func(control.Reply) error) control.Reply {
			v.served.Add(1)
			return answer(ctx, req, send)
		})
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			v.t.Error(err)
		}
	}
}

// TestViewServed runs commands that look into snapshots with and without a running gateway: they
// print the same, and end with the same status.
func TestViewServed(t *testing.T) {
	t.Parallel()
	v := newViewed(t)
	first, _ := v.run(statusOK, "snapshots", "--json")
	lines := strings.Split(strings.TrimSpace(first), "\n")
	if len(lines) != 2 {
		t.Fatalf("snapshots: %s", first)
	}
	_, old, _ := strings.Cut(lines[1], `"id":"`)
	old = old[:16]
	for _, tt := range []struct {
		status int
		args   []string
	}{
		{statusOK, []string{"ls", "main"}},
		{statusOK, []string{"ls", "-l", "-R", "main"}},
		{statusOK, []string{"ls", "--json", "-R", "--", "main:/docs"}},
		{statusOK, []string{"tree", "-L", "1", "main"}},
		{statusOK, []string{"tree", "main"}},
		{statusOK, []string{"cat", "main:/a.txt", old + ":/a.txt"}},
		{statusOK, []string{"cat", "main:/docs/bad\xffname"}},
		{statusOK, []string{"cat", "main:/large"}},
		{statusOK, []string{"info", "--json", "main"}},
		{statusOK, []string{"info", "--json", "main:/large"}},
		{statusOK, []string{"find", "main", "*.txt"}},
		{statusOK, []string{"find", "--all", "-l", "main", "**/a*"}},
		{statusOK, []string{"find", "--size", "+1MiB", "main"}},
		{statusOK, []string{"history", "main:/a.txt"}},
		{statusOK, []string{"diff", old, "main"}},
		{statusOK, []string{"diff", "--text", old, "main", "/a.txt"}},
		{statusOK, []string{"check"}},
		{statusOK, []string{"check", "--sample", "100%", "main"}},
		{statusOK, []string{"get", "--tar", "main:/docs"}},
		{statusFailure, []string{"ls", "main:/nothing"}},
		{statusFailure, []string{"ls", "nosuch"}},
		{statusFailure, []string{"ls", "main@nonsense"}},
		{statusFailure, []string{"cat", "main:/docs"}},
		{statusFailure, []string{"cat", "main:/a.txt", "main:/none"}}, // after something was printed
		{statusFailure, []string{"history", "main"}},
		{statusFailure, []string{"find", "*.txt"}},
		{statusFailure, []string{"check", "--share", "nobody"}},
	} {
		aloneOut, aloneErr := v.run(tt.status, tt.args...)
		before := v.served.Load()
		end := v.serve(v.s.answer)
		out, errs := v.run(tt.status, tt.args...)
		end()
		if v.served.Load() != before+1 {
			t.Errorf("%q: the running gateway was not asked", tt.args)
		}
		if out != aloneOut || errs != aloneErr {
			t.Errorf("%q: by the running gateway:\n%.2000s%s\nwithout:\n%.2000s%s", tt.args, out, errs, aloneOut, aloneErr)
		}
	}
}

// TestViewAlone lists what is done without the running gateway although there is one.
func TestViewAlone(t *testing.T) {
	t.Parallel()
	v := newViewed(t)
	want, _ := v.run(statusOK, "ls", "main")
	// As a gateway answers that is older than these commands.
	unknown := func(_ context.Context, req control.Request, _ func(control.Reply) error) control.Reply {
		return control.Reply{Error: fmt.Sprintf("the running gateway does not know %q", req.Op), Hint: "is it of another version? restart it"}
	}
	elsewhere := func(ctx context.Context, req control.Request, send func(control.Reply) error) control.Reply {
		req.View.Store = "fs:///elsewhere"
		return v.s.answer(ctx, req, send)
	}
	newer := func(ctx context.Context, req control.Request, send func(control.Reply) error) control.Reply {
		req.View.Args = append([][]byte{req.View.Args[0], []byte("--unheard-of=1")}, req.View.Args[1:]...)
		return v.s.answer(ctx, req, send)
	}
	for _, tt := range []struct {
		name   string
		answer control.Handler
	}{{"another version", unknown}, {"another store", elsewhere}, {"a flag of another version", newer}} {
		end := v.serve(tt.answer)
		before := v.served.Load()
		if got, errs := v.run(statusOK, "ls", "main"); got != want || errs != "" {
			t.Errorf("%s: it prints %q and %q, not %q", tt.name, got, errs, want)
		}
		if v.served.Load() != before+1 {
			t.Errorf("%s: the running gateway was not asked", tt.name)
		}
		end()
	}
	end := v.serve(v.s.answer)
	defer end()
	before := v.served.Load()
	dest := filepath.Join(t.TempDir(), "out")
	v.run(statusOK, "get", "-q", "main:/docs", dest)
	v.run(statusOK, "get", "--zip", "main:/docs")
	v.run(statusOK, "ls", "--store", config.DefaultStore, "main")
	if n := v.served.Load() - before; n > 0 {
		t.Errorf("the running gateway was asked %d times", n)
	}
}

// TestViewNotForServer checks that the running gateway writes no file for anybody, whoever asks.
func TestViewNotForServer(t *testing.T) {
	t.Parallel()
	v := newViewed(t)
	dest := filepath.Join(t.TempDir(), "out")
	for _, args := range [][]string{
		{"get", "main:/docs", dest}, {"get", "--tar=false", "main:/docs", dest}, {"import", dest, "main"},
		{"ls", "--store=" + config.DefaultStore, "main"}, {"version"}, {"ls", "-c", v.file, "main"}, {}, {""},
	} {
		view := &control.View{Zone: zoneData(time.UTC), Store: servedAt(v.s.cfg)}
		for _, a := range args {
			view.Args = append(view.Args, []byte(a))
		}
		rep := v.s.answerView(t.Context(), view, func(rep control.Reply) error {
			t.Errorf("%q: it prints %q", args, rep.Output.Data)
			return nil
		})
		if rep.Error == "" || rep.Exit != nil {
			t.Errorf("%q: got %+v, want a refusal", args, rep)
		}
	}
	if _, err := os.Lstat(dest); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was written: %v", err)
	}
}

// TestViewHungUp checks that a command ends when the one who has called it is gone.
func TestViewHungUp(t *testing.T) {
	t.Parallel()
	v := newViewed(t)
	defer v.serve(v.s.answer)()
	gone := errors.New("gone")
	for _, args := range [][]string{{"cat", "main:/large"}, {"get", "--tar", "main"}} {
		view := &control.View{Zone: zoneData(time.UTC), Store: servedAt(v.s.cfg)}
		for _, a := range args {
			view.Args = append(view.Args, []byte(a))
		}
		for range maxViews + 1 { // nobody stays behind
			_, err := control.Call(t.Context(), v.s.cfg.DataDir, control.Request{Op: control.OpView, View: view}, func(rep control.Reply) error {
				if len(rep.Output.Data) == 0 {
					t.Error("an output of nothing")
				}
				return gone
			})
			if !errors.Is(err, gone) {
				t.Errorf("%q: got %v, want %v", args, err, gone)
			}
			for range maxViews { // waits until none runs
				v.s.views.slots <- struct{}{}
			}
			for range maxViews {
				<-v.s.views.slots
			}
		}
	}
}

// TestViewBusy: who comes when enough commands run is refused, and reads the store himself.
func TestViewBusy(t *testing.T) {
	t.Parallel()
	v := newViewed(t)
	want, _ := v.run(statusOK, "ls", "main")
	defer v.serve(v.s.answer)()
	for range maxViews {
		v.s.views.slots <- struct{}{}
	}
	if got, errs := v.run(statusOK, "ls", "main"); got != want || errs != "" {
		t.Errorf("it prints %q and %q, not %q", got, errs, want)
	}
}

// TestViewStopped: a gateway that is stopped in the middle of a command says so, and what was printed
// does not pass for all.
func TestViewStopped(t *testing.T) {
	t.Parallel()
	v := newViewed(t)
	end := v.serve(func(_ context.Context, _ control.Request, send func(control.Reply) error) control.Reply {
		if err := send(control.Reply{Output: &control.Output{Stream: control.Stdout, Data: []byte("half")}}); err != nil {
			t.Error(err)
		}
		return control.Reply{Error: "it is being stopped"}
	})
	defer end()
	out, errs := v.run(statusFailure, "cat", "main:/a.txt")
	if want := "gateway: cat: the running gateway has not finished it: it is being stopped\nhint: "; out != "half" || !strings.HasPrefix(errs, want) {
		t.Errorf("it prints %q and %q, not %q", out, errs, want)
	}
}

// TestViewPanic: a command that fails in a way that nobody has thought of does not end the gateway.
func TestViewPanic(t *testing.T) {
	t.Parallel()
	v := newViewed(t)
	p := v.program(nil, nil)
	p.served = &served{cfg: v.s.cfg, store: v.s.store, snaps: v.s.snapshots, log: v.s.log}
	err := p.lookServed(t.Context(), "ls", &viewFlags{}, func(context.Context, *viewing) error {
		var none *snapshotter.View
		_ = none.Snapshot()
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("got %v", err)
	}
}

// TestZoneData checks that a time zone is told as it is, whatever its rules are.
func TestZoneData(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{
		"UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kolkata",
		"Europe/Dublin", "Pacific/Apia", "Pacific/Auckland", "Antarctica/Troll", "Etc/GMT+12",
	} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		told, err := time.LoadLocationFromTZData("", zoneData(zone))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		from := time.Date(zoneFrom, 1, 1, 0, 0, 0, 0, time.UTC)
		for range 2000 {
			at := from.Add(time.Duration(rng.Int64N(int64(250 * 365 * 24 * time.Hour))))
			want, got := at.In(zone), at.In(told)
			if g, w := got.Format(time.RFC1123Z+" MST"), want.Format(time.RFC1123Z+" MST"); g != w || got.IsDST() != want.IsDST() {
				t.Fatalf("%s: %s, want %s", name, g, w)
			}
			y, m, d := want.Date()
			if g, w := time.Date(y, m, d, 2, 30, 0, 0, told), time.Date(y, m, d, 2, 30, 0, 0, zone); !g.Equal(w) {
				t.Fatalf("%s: half past two is %s, want %s", name, g, w)
			}
		}
	}
	fixed := time.FixedZone("X", -3*3600-1)
	told, err := time.LoadLocationFromTZData("", zoneData(fixed))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := time.Unix(0, 0).In(told).String(), time.Unix(0, 0).In(fixed).String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
