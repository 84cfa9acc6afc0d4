package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// victim is a place with a configuration, where gateway pull is called as a user would.
type victim struct {
	t    *testing.T
	dir  string
	file string
}

// newVictim configures the source "evil"; settings are further lines of it.
func newVictim(t *testing.T, location string, settings ...string) *victim {
	t.Helper()
	dir := t.TempDir()
	v := &victim{t: t, dir: dir, file: filepath.Join(dir, "in", "config.yaml")}
	if err := os.Mkdir(filepath.Dir(v.file), 0o700); err != nil {
		t.Fatal(err)
	}
	text := "version: 1\ndata_dir: ./data\nstore: { plaintext: true, create: true }\nsources:\n  evil:\n" +
		"    location: \"" + location + "\"\n    password_file: ./password\n"
	if !slices.ContainsFunc(settings, func(s string) bool { return strings.HasPrefix(s, "timeout:") }) {
		text += "    timeout: 5s\n"
	}
	for _, s := range settings {
		text += "    " + s + "\n"
	}
	for name, data := range map[string]string{"config.yaml": text, "password": "secret\n"} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(v.file), name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// pull runs gateway pull and returns its exit status and what it says on standard error.
func (v *victim) pull(ctx context.Context) (status int, said string) {
	v.t.Helper()
	var stdout, stderr bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, cheapKDF: true}
	status = p.run(ctx, []string{"pull", "-c", v.file, "evil"})
	v.t.Logf("status %d\n%s%s", status, stdout.String(), stderr.String())
	return status, stderr.String()
}

// wantPull runs gateway pull, checks its status, what it says, what the newest snapshot has
// then and that nothing else was written, and returns what it says.
func (v *victim) wantPull(want int, say []string, tree map[string]string) (said string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), hostileLimit)
	defer cancel()
	status, said := v.pull(ctx)
	if status != want {
		v.t.Errorf("status %d, want %d", status, want)
	}
	v.wantSaid(said, say...)
	v.wantNothingOutside()
	if diff := cmp.Diff(tree, v.newest()); diff != "" {
		v.t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	return said
}

// newest is the newest snapshot's tree by path, nil when there is none: a directory has a
// slash at its end.
func (v *victim) newest() (tree map[string]string) {
	v.t.Helper()
	cfg, err := config.Load(v.file)
	if err != nil {
		v.t.Fatal(err)
	}
	ctx := v.t.Context()
	st, err := store.Open(ctx, cfg.StoreConfig(slog.New(slog.DiscardHandler), false))
	if err != nil {
		v.t.Fatal(err)
	}
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st})
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(snaps.Close(), st.Close()); err != nil {
			v.t.Error(err)
		}
	}()
	list, err := snaps.Snapshots(ctx, "evil")
	if err != nil {
		v.t.Fatal(err)
	}
	if len(list) == 0 {
		return nil
	}
	if err := snaps.Check(ctx, list[0].ID); err != nil {
		v.t.Errorf("check: %v", err)
	}
	view, err := snaps.View(ctx, list[0].ID)
	if err != nil {
		v.t.Fatal(err)
	}
	tree = map[string]string{}
	var walk func(dir string) error
	walk = func(dir string) error {
		entries, err := view.ReadDir(ctx, dir, "", 1<<20)
		for _, e := range entries {
			at := path.Join(dir, e.Name)
			switch e.Kind {
			case snapshotter.Dir:
				tree[at+"/"] = ""
				err = errors.Join(err, walk(at))
			case snapshotter.Symlink:
				tree[at] = "-> " + e.Target
			default:
				r, oerr := view.Open(ctx, at)
				if oerr != nil {
					return oerr
				}
				data, rerr := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
				tree[at] = string(data)
				err = errors.Join(err, rerr, r.Close())
			}
		}
		return err
	}
	if err := errors.Join(walk("/"), view.Close()); err != nil {
		v.t.Fatal(err)
	}
	return tree
}

// wantNothingOutside checks that nothing was written but below data_dir.
func (v *victim) wantNothingOutside() {
	v.t.Helper()
	for dir, want := range map[string][]string{v.dir: {"in"}, filepath.Join(v.dir, "in"): {"config.yaml", "data", "password"}} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			v.t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if diff := cmp.Diff(want, slices.DeleteFunc(got, func(n string) bool { return n == "known_hosts" })); diff != "" {
			v.t.Errorf("files in %s (-want +got):\n%s", dir, diff)
		}
	}
}

func (v *victim) wantSaid(said string, want ...string) {
	v.t.Helper()
	for _, re := range want {
		if !regexp.MustCompile(re).MatchString(said) {
			v.t.Errorf("said nothing like %q:\n%s", re, said)
		}
	}
}

// hostileLimit is what a pull from a hostile server may take in these tests; only a broken
// program needs it.
const hostileLimit = 90 * time.Second

const trusting = "insecure_ignore_host_key: true"

// A hostile SFTP server gets nothing stored that is not what it seems, nothing outside the
// store, and a message for everything.
func TestPullHostileSFTP(t *testing.T) {
	good := hostileTree{"/ok": {data: "ok"}, "/dir/inner": {data: "inner"}}
	goodTree := map[string]string{"/ok": "ok", "/dir/": "", "/dir/inner": "inner"}
	with := func(name string, f hostileFile) hostileTree {
		return hostileTree{"/ok": good["/ok"], "/dir/inner": good["/dir/inner"], name: f}
	}
	many, manyTree := hostileTree{}, map[string]string{"/many/": ""}
	for i := range 100 {
		name := fmt.Sprintf("/many/%02d", i)
		many[name] = hostileFile{data: strings.Repeat(name, 1000)}
		manyTree[name] = many[name].data
	}
	names := func(names ...string) func(string, int) (hostileInfo, error) {
		return func(dir string, n int) (hostileInfo, error) {
			if dir != "/dir" || n >= len(names) {
				return hostileInfo{}, io.EOF
			}
			return hostileInfo{names[n], 0o644, 4}, nil
		}
	}
	for _, tt := range []struct {
		name   string
		server *hostileSFTP
		set    []string // of the source
		status int
		said   []string
		tree   map[string]string
	}{
		{
			name: "a file with fewer bytes than it says", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/short", hostileFile{data: "half", size: 1000})},
			said:   []string{`/short: .*4 bytes of 1000`},
		},
		{
			name: "a large file with fewer bytes than it says", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/short", hostileFile{data: strings.Repeat("x", 1<<20), size: 40 << 20})},
			said:   []string{`/short: .*cut short`},
		},
		{
			name: "a file with more bytes than it says", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/long", hostileFile{data: strings.Repeat("x", 5000), size: 10})},
			said:   []string{`/long: `},
		},
		{
			name: "a file with bytes that says it has none", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/none", hostileFile{data: "secret", size: saysEmpty})},
			said:   []string{`/none: .*more than the 0 bytes`},
		},
		{
			name: "an empty file", status: statusOK,
			server: &hostileSFTP{tree: with("/none", hostileFile{})},
			tree:   map[string]string{"/ok": "ok", "/dir/": "", "/dir/inner": "inner", "/none": ""},
		},
		{
			name: "an empty file that cannot be read", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/none", hostileFile{fails: errors.New("disk on fire")})},
			said:   []string{`/none: .*failure`},
		},
		{
			name: "an empty file that breaks each connection", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/none", hostileFile{}), breaks: []string{"/none"}},
			said:   []string{`/none: .*breaks the connection each time`},
		},
		{
			name: "connections that end again and again", status: statusOK, tree: manyTree,
			server: &hostileSFTP{tree: many, wrap: func(c net.Conn, n int) net.Conn { return cutAfter(c, 60_000) }},
		},
		{
			name: "a directory that breaks each connection", status: statusPartial,
			server: &hostileSFTP{tree: with("/zbad/deep/secret", hostileFile{data: "secret"}), breaks: []string{"/zbad/deep"}},
			tree:   map[string]string{"/ok": "ok", "/dir/": "", "/dir/inner": "inner", "/zbad/": "", "/zbad/deep/": ""},
			said:   []string{`/zbad/deep: .*breaks the connection each time`},
		},
		{
			name: "a file that breaks each connection", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/bad", hostileFile{data: "secret"}), breaks: []string{"/bad"}},
			said:   []string{`/bad: .*breaks the connection each time`},
		},
		{
			name: "a root that breaks each connection", status: statusFailure,
			server: &hostileSFTP{tree: good, breaks: []string{"/"}},
			said:   []string{`list /: breaks the connection each time`},
		},
		{
			name: "a large file with more bytes than it says", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/long", hostileFile{data: strings.Repeat("x", 20<<20+1), size: 20 << 20})},
			said:   []string{`/long: `},
		},
		{
			name: "a file of all the bytes there are", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/huge", hostileFile{data: "x", size: 1<<63 - 1})},
			said:   []string{`/huge: `},
		},
		{
			name: "a file with a size below zero", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: with("/less", hostileFile{data: "x", size: -5})},
			said:   []string{`/less: `},
		},
		{
			name: "names that lead elsewhere", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: good, list: names("../evil", "/evil", "a/evil", "..", "", "evil\x00evil", strings.Repeat("evil", 100))},
			said:   []string{`"\.\./evil" has a slash`, `"/evil" has a slash`, `"a/evil" has a slash`, `"evil\\x00evil" has a NUL`, `longer than 255 bytes`},
		},
		{
			name: "a name twice", status: statusPartial, tree: goodTree,
			server: &hostileSFTP{tree: good, list: names("inner")},
			said:   []string{`/dir/inner: .*twice`},
		},
		{
			name: "one connection that is cut in a transfer", status: statusOK,
			server: &hostileSFTP{tree: hostileTree{"/big": {data: strings.Repeat("0123456789abcdef", 1<<16)}}, wrap: func(c net.Conn, n int) net.Conn {
				if n == 1 {
					return cutAfter(c, 300_000)
				}
				return c
			}},
			tree: map[string]string{"/big": strings.Repeat("0123456789abcdef", 1<<16)},
		},
		{
			name: "another host key on the second connection", status: statusOK, tree: goodTree, set: []string{"known_hosts: ./known_hosts", "host_key: accept-new"},
			server: &hostileSFTP{tree: good, newKeys: 2},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := tt.server.start(t)
			set := tt.set
			if set == nil {
				set = []string{trusting}
			}
			v := newVictim(t, "sftp://me@"+h.addr+"/", set...)
			v.wantPull(tt.status, tt.said, tt.tree)
			h.wantAskedNicely(t)
		})
	}
}

// wantAskedNicely checks that a name of a listing that is none was not sent back, and that
// nothing was written.
func (h *hostileSFTP) wantAskedNicely(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range h.asked {
		if strings.Contains(name, "evil") || strings.Contains(name, " ") {
			t.Errorf("the server was asked for %q", name)
		}
	}
}

// What a server that was good says and gives later does not take from a snapshot what the one
// before has.
func TestPullHostileLater(t *testing.T) {
	good := hostileTree{"/ok": {data: "ok"}, "/dir/inner": {data: "inner"}, "/dir/other": {data: "other"}}
	goodTree := map[string]string{"/ok": "ok", "/dir/": "", "/dir/inner": "inner", "/dir/other": "other"}
	for _, tt := range []struct {
		name   string
		later  func(h *hostileSFTP)
		status int
		said   []string
		tree   map[string]string
	}{
		{
			name: "a listing that fails", status: statusPartial, said: []string{`/dir: .*failure`}, tree: goodTree,
			later: func(h *hostileSFTP) {
				h.tree = hostileTree{"/ok": good["/ok"], "/dir/inner": good["/dir/inner"]}
				h.list = func(dir string, n int) (hostileInfo, error) {
					if dir == "/dir" {
						return hostileInfo{}, errors.New("disk on fire")
					}
					return hostileInfo{}, io.EOF
				}
			},
		},
		{
			name: "a longer file of which the end is missing", status: statusPartial, said: []string{`/dir/inner: .*cut short`}, tree: goodTree,
			later: func(h *hostileSFTP) {
				h.tree = hostileTree{"/ok": good["/ok"], "/dir/inner": {data: "inner!", size: 50}, "/dir/other": good["/dir/other"]}
			},
		},
		{
			name: "connections that end at once", status: statusFailure, said: []string{`connection`, `hint: `}, tree: goodTree,
			later: func(h *hostileSFTP) { h.wrap = func(c net.Conn, _ int) net.Conn { return cutAfter(c, 0) } },
		},
		{
			name: "connections that end before anything is told", status: statusFailure, said: []string{`connection`, `hint: `}, tree: goodTree,
			later: func(h *hostileSFTP) { h.wrap = func(c net.Conn, _ int) net.Conn { return cutAfter(c, 2000) } },
		},
		{
			name: "another host key", status: statusFailure, said: []string{`host key`, `hint: `}, tree: goodTree,
			later: func(h *hostileSFTP) { h.newKeys = 1 },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := (&hostileSFTP{tree: good}).start(t)
			v := newVictim(t, "sftp://me@"+h.addr+"/", "known_hosts: ./known_hosts", "host_key: accept-new")
			v.wantPull(statusOK, nil, goodTree)
			h.change(tt.later)
			v.wantPull(tt.status, tt.said, tt.tree)
		})
	}
}

// hostileMemory is what a pull may take at most while a server tells it names without an end.
const hostileMemory = 400 << 20

// However slow a server is, and whatever it goes on telling, memory is bounded, and a signal
// ends a pull at once, without a snapshot and without leaving anything behind.
func TestPullHostileWithoutEnd(t *testing.T) {
	endless := func(last int, mode fs.FileMode, enough func()) func(string, int) (hostileInfo, error) {
		return func(_ string, n int) (hostileInfo, error) {
			if n == last {
				enough()
			}
			return hostileInfo{fmt.Sprintf("n%09d", n), mode, 1}, nil
		}
	}
	for _, tt := range []struct {
		name  string
		begin func(enough func()) *hostileSFTP // enough is called when it has gone on for long enough
	}{
		{"a login byte by byte", func(enough func()) *hostileSFTP {
			return &hostileSFTP{wrap: func(c net.Conn, _ int) net.Conn {
				return &dripConn{Conn: c, pause: 20 * time.Millisecond, done: make(chan struct{}), wrote: func(n int) {
					if n == 50 {
						enough()
					}
				}}
			}}
		}},
		{"a listing without an end", func(enough func()) *hostileSFTP {
			return &hostileSFTP{list: endless(300_000, 0o644, enough)}
		}},
		{"directories without an end", func(enough func()) *hostileSFTP {
			var listed atomic.Int32
			list := endless(-1, 0o755|fs.ModeDir, nil)
			return &hostileSFTP{everywhere: true, list: func(dir string, n int) (hostileInfo, error) {
				if n < 20 {
					return list(dir, n)
				}
				if listed.Add(1) == 5000 {
					enough()
				}
				return hostileInfo{}, io.EOF
			}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			reached := make(chan struct{})
			h := tt.begin(sync.OnceFunc(func() { close(reached) })).start(t)
			v := newVictim(t, "sftp://me@"+h.addr+"/", trusting)
			cmd := exec.Command(os.Args[0], "pull", "-c", v.file, "evil") // TestMain runs it
			cmd.Args[0] = "gateway"
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case <-reached:
			case err := <-ended:
				t.Fatalf("it has ended by itself: %v\n%s", err, stderr.String())
			}
			if used := peakMemory(t, cmd.Process.Pid); used > hostileMemory {
				t.Errorf("it has taken %d MiB of memory", used>>20)
			}
			began := time.Now()
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			<-ended
			if dur := time.Since(began); dur > 20*time.Second {
				t.Errorf("it has ended after %v", dur)
			}
			if got := cmd.ProcessState.ExitCode(); got != statusFailure {
				t.Errorf("status %d, want %d", got, statusFailure)
			}
			v.wantSaid(stderr.String(), "interrupted")
			v.wantNothingOutside()
			if tree := v.newest(); tree != nil {
				t.Errorf("a snapshot of %d names", len(tree))
			}
		})
	}
}

// peakMemory is the most memory that a process that runs had since it was started, in bytes. What
// wait4(2) tells begins with the memory of the process that has started it. 0 where Linux's /proc
// is not.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	return 0
}

// A hostile FTP server gets nothing stored that is not what it seems, and a message for
// everything.
func TestPullHostileFTP(t *testing.T) {
	good := hostileTree{"/ok": {data: "ok"}, "/dir/inner": {data: "inner"}}
	goodTree := map[string]string{"/ok": "ok", "/dir/": "", "/dir/inner": "inner"}
	with := func(name string, f hostileFile) hostileTree {
		return hostileTree{"/ok": good["/ok"], "/dir/inner": good["/dir/inner"], name: f}
	}
	bigger := with("/big", hostileFile{data: strings.Repeat("0123456789abcdef", 1<<16)})
	biggerTree := map[string]string{"/ok": "ok", "/dir/": "", "/dir/inner": "inner", "/big": bigger["/big"].data}
	var cuts atomic.Int32
	for _, tt := range []struct {
		name   string
		server *hostileFTP
		status int
		said   []string
		tree   map[string]string
	}{
		{
			name: "a file with fewer bytes than it says", status: statusPartial, tree: goodTree,
			server: &hostileFTP{mlsd: true, tree: with("/short", hostileFile{data: "half", size: 1000})},
			said:   []string{`/short: .*4 bytes of 1000`},
		},
		{
			name: "a file with more bytes than it says", status: statusPartial, tree: goodTree,
			server: &hostileFTP{mlsd: true, tree: with("/long", hostileFile{data: strings.Repeat("x", 5000), size: 10})},
			said:   []string{`/long: `},
		},
		{
			name: "a file with bytes that says it has none", status: statusPartial, tree: goodTree,
			server: &hostileFTP{mlsd: true, tree: with("/none", hostileFile{data: "secret", size: saysEmpty})},
			said:   []string{`/none: .*longer than it was listed`},
		},
		{
			name: "a file with bytes that says in LIST and SIZE that it has none", status: statusPartial, tree: goodTree,
			server: &hostileFTP{tree: with("/none", hostileFile{data: "secret", size: saysEmpty})},
			said:   []string{`/none: .*longer than it was listed`},
		},
		{
			name: "an empty file", status: statusOK,
			server: &hostileFTP{mlsd: true, tree: with("/none", hostileFile{})},
			tree:   map[string]string{"/ok": "ok", "/dir/": "", "/dir/inner": "inner", "/none": ""},
		},
		{
			name: "an empty file that cannot be read", status: statusPartial, tree: goodTree,
			server: &hostileFTP{mlsd: true, tree: with("/none", hostileFile{}), answer: func(p *hostilePeer, cmd, arg string) bool {
				if cmd != "RETR" || path.Base(arg) != "none" {
					return false
				}
				p.drop()
				p.say("550 disk on fire")
				return true
			}},
			said: []string{`/none: `},
		},
		{
			name: "sizes that are none", status: statusPartial, tree: goodTree,
			server: &hostileFTP{mlsd: true, tree: good, lines: []string{
				"type=file;size=-5;modify=20260102030406; less", "type=file;size=99999999999999999999;modify=20260102030406; more", "type=file;size=x;modify=20260102030406; not",
			}},
			said: []string{`size=-5`, `size=99999999999999999999`, `size=x`},
		},
		{
			name: "names that lead elsewhere", status: statusPartial, tree: goodTree,
			server: &hostileFTP{mlsd: true, tree: good, lines: []string{
				"type=file;size=4;modify=20260102030406; ../evil", "type=file;size=4;modify=20260102030406; /evil",
				"type=dir;modify=20260102030406; a/evil", "type=file;size=4;modify=20260102030406; ..",
			}},
			said: []string{`"\.\./evil" has a slash`, `"/evil" has a slash`, `"a/evil" has a slash`},
		},
		{
			name: "lines that are none", status: statusPartial, tree: goodTree,
			server: &hostileFTP{tree: good, lines: []string{
				"total what", "total 12", "-rw-r--r-- 1 0 0 evil Jan  2 03:04 evil", "\x1b[31mevil", "-rw-r--r-- 1 0 0 4 Jan  2 03:04 ../evil", strings.Repeat("evil ", 5000),
			}},
			said: []string{`/dir: .*listing not understood`, `"total what"`, `"total 12"`, `"\\x1b\[31mevil"`, `longer than 16384 bytes`, `has a slash`},
		},
		{
			name: "a transfer that is cut and called complete, once", status: statusOK, tree: biggerTree,
			server: &hostileFTP{mlsd: true, tree: bigger, answer: func(p *hostilePeer, cmd, arg string) bool {
				if cmd != "RETR" || path.Base(arg) != "big" || cuts.Add(1) > 1 {
					return false
				}
				p.send(bigger["/big"].data[:1000])
				return true
			}},
		},
		{
			name: "transfers that are always cut and called complete", status: statusPartial, tree: goodTree,
			server: &hostileFTP{mlsd: true, tree: bigger, answer: func(p *hostilePeer, cmd, arg string) bool {
				if cmd != "RETR" || path.Base(arg) != "big" {
					return false
				}
				p.send(bigger["/big"].data[p.rest : p.rest+1000][:500])
				p.rest = 0
				return true
			}},
			said: []string{`/big: .*cut short`},
		},
		{
			name: "a listing that is cut and refused", status: statusPartial, tree: goodTree,
			server: &hostileFTP{mlsd: true, tree: good, answer: func(p *hostilePeer, cmd, arg string) bool {
				if cmd != "MLSD" || path.Base(arg) != "dir" && path.Base(p.cwd) != "dir" {
					return false
				}
				if c, ok := p.open(); ok {
					_, _ = io.WriteString(c, p.facts("/dir/inner")+"inner\r\n"+"type=file;si")
					_ = c.Close()
					p.say("451 read error")
				}
				return true
			}},
			said: []string{`/dir: `},
		},
		{
			name: "a directory and a file that break each connection", status: statusPartial,
			server: &hostileFTP{tree: hostileTree{"/ok": {data: "ok"}, "/bad": {data: "secret"}, "/dir/inner": {data: "inner"}, "/baddir/secret": {data: "secret"}}, answer: func(p *hostilePeer, cmd, arg string) bool {
				if cmd != "RETR" && cmd != "LIST" || p.resolve(arg) != "/bad" && path.Base(p.cwd) != "baddir" {
					return false
				}
				_ = p.c.Close()
				return true
			}},
			tree: map[string]string{"/ok": "ok", "/dir/": "", "/dir/inner": "inner", "/baddir/": ""},
			said: []string{`/bad: .*breaks the connection each time`, `/baddir: .*breaks the connection each time`},
		},
		{
			name: "replies that are none", status: statusFailure,
			server: &hostileFTP{tree: good, answer: func(p *hostilePeer, cmd, _ string) bool {
				if cmd == "PASS" {
					p.say("%s", strings.Repeat("evil", 1<<16))
				}
				return cmd == "PASS"
			}},
			said: []string{`protocol violated`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := tt.server.start(t)
			v := newVictim(t, "ftp://me@"+h.addr+"/", "tls: off")
			said := v.wantPull(tt.status, tt.said, tt.tree)
			if strings.Contains(said, "\x1b") {
				t.Errorf("a control character of the server is shown: %q", said)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, line := range h.asked {
				if strings.Contains(line, "evil") {
					t.Errorf("the server was asked: %q", line)
				}
			}
		})
	}
}

// A server with which nothing comes to an end before the login keeps nobody longer than timeout says,
// three times and with pauses.
func TestPullLoginWithoutEnd(t *testing.T) {
	h := (&hostileSFTP{wrap: func(c net.Conn, _ int) net.Conn {
		return &dripConn{Conn: c, pause: 20 * time.Millisecond, done: make(chan struct{}), wrote: func(int) {}}
	}}).start(t)
	v := newVictim(t, "sftp://me@"+h.addr+"/", trusting, "timeout: 1s")
	began := time.Now()
	v.wantPull(statusFailure, []string{`timed out: no login within 1s`, `hint: .*longer timeout`}, nil)
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

// The time that a run may take has that of connecting in it.
func TestPullConnectingTooLong(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nobody says anything
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	v := newVictim(t, "sftp://me@"+silent.Addr().String()+"/", trusting, "timeout: 30s", "max_time: 1s")
	began := time.Now()
	v.wantPull(statusFailure, []string{`the run takes too long: more than 1s\nhint: .*max_time`}, nil)
	if took := time.Since(began); took >= 25*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A tree that goes on and on fails the run where its bounds say, and stores nothing.
func TestPullEndlessTree(t *testing.T) {
	endless := func() *hostileSFTP {
		return &hostileSFTP{everywhere: true, list: func(_ string, n int) (hostileInfo, error) {
			if n == 20 {
				return hostileInfo{}, io.EOF
			}
			return hostileInfo{fmt.Sprintf("n%09d", n), 0o755 | fs.ModeDir, 1}, nil
		}}
	}
	for _, tt := range []struct{ set, said string }{
		{"max_entries: 5000", `the tree seems to have no end: more than 5000 entries\nhint: .*max_entries`},
		{"max_time: 1s", `the run takes too long: more than 1s\nhint: .*max_time`},
	} {
		t.Run(tt.set, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t, "sftp://me@"+endless().start(t).addr+"/", trusting, "partial: true", tt.set)
			v.wantPull(statusFailure, []string{tt.said}, nil)
		})
	}
}
