package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// openSnapshots opens a store, and what is in it.
func openSnapshots(t *testing.T, st *store.Store) *snapshotter.Snapshotter {
	t.Helper()
	snaps, err := snapshotter.New(t.Context(), snapshotter.Config{Store: st})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = snaps.Close() })
	return snaps
}

// emptySnapshot makes the nth snapshot, with nothing in it.
func emptySnapshot(t *testing.T, snaps *snapshotter.Snapshotter, n uint64, base snapshotter.ID) snapshotter.ID {
	t.Helper()
	m := snapshotter.Meta{Share: "main", ShareID: "s", GatewayID: "g", Sequence: n, Parent: base, Time: time.Unix(int64(n), 0)}
	dir := snapshotter.Change{Path: "/", Kind: snapshotter.Dir, Attr: snapshotter.Attr{Mode: 0o755, ModTime: m.Time}, Version: n}
	var changes iter.Seq2[snapshotter.Change, error] = func(yield func(snapshotter.Change, error) bool) { yield(dir, nil) }
	id, err := snaps.Commit(t.Context(), base, changes, m)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// twoSnapshots makes two snapshots with nothing in them, and returns them, the newest first.
func twoSnapshots(t *testing.T, snaps *snapshotter.Snapshotter) []snapshotter.Snapshot {
	t.Helper()
	emptySnapshot(t, snaps, 2, emptySnapshot(t, snaps, 1, snapshotter.ID{}))
	list, err := snaps.Snapshots(t.Context(), "")
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	return list
}

func failPackfiles(name string) error {
	if strings.HasPrefix(name, "packfiles/") {
		return errors.New("the disk does not answer")
	}
	return nil
}

// checks are the commands that check all snapshots of a store.
func checks(st *store.Store, snaps *snapshotter.Snapshotter, list []snapshotter.Snapshot) map[string]func(context.Context, *program, io.Writer) error {
	return map[string]func(context.Context, *program, io.Writer) error{
		"check": func(ctx context.Context, p *program, out io.Writer) error {
			ck := new(checkCommand)
			return ck.run(ctx, p.newViewing(&ck.viewFlags, new(config.Config), st, snaps, list, out), nil)
		},
		"store check": func(ctx context.Context, p *program, _ io.Writer) error { return p.storeCheck(ctx, st, snaps) },
	}
}

// TestCheckUnread: a check says of each snapshot that its store did not give that it is unread, calls none of them damaged, and
// ends as when the store is unavailable.
func TestCheckUnread(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	st := storetest.New(t, srv.Use)
	snaps := openSnapshots(t, st)
	list := twoSnapshots(t, snaps)
	srv.FailReads(failPackfiles)
	for name, check := range checks(st, snaps, list) {
		var out strings.Builder
		err := check(t.Context(), &program{stdout: &out, stderr: io.Discard}, &out)
		if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrDamaged) || !strings.Contains(hintFor(err), "is the server") {
			t.Errorf("%s: got %v (%s), want %v", name, err, hintFor(err), store.ErrUnavailable)
		}
		if text := out.String(); strings.Count(text, " unread: ") != 2 || strings.Contains(text, "damaged") {
			t.Errorf("%s prints %q, want two that are unread", name, text)
		}
	}
}

// content is a change's bytes: so many that they are in a packfile apart from metadata.
type content byte

func (content) Size() int64 { return 2 << 20 }

func (c content) Open(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(io.LimitReader(rand.NewChaCha8([32]byte{byte(c)}), c.Size())), nil
}

// TestCheckUnreadBesideDamage: what could not be read hides nothing that is damaged in the same snapshot.
func TestCheckUnreadBesideDamage(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	st := storetest.New(t, srv.Use)
	snaps := openSnapshots(t, st)
	list := twoSnapshots(t, snaps)
	var packfiles [2]string // of a, b
	for i := range packfiles {
		m := snapshotter.Meta{
			Share: "main", ShareID: "s", GatewayID: "g", Sequence: uint64(3 + i), Parent: list[0].ID, Time: time.Unix(int64(3+i), 0),
		}
		c := snapshotter.Change{
			Path: "/" + string(rune('a'+i)), Kind: snapshotter.File, Attr: snapshotter.Attr{Mode: 0o644, ModTime: m.Time}, Version: m.Sequence,
			Content: content(i),
		}
		id, err := snaps.Commit(t.Context(), m.Parent, func(yield func(snapshotter.Change, error) bool) { yield(c, nil) }, m)
		if err != nil {
			t.Fatal(err)
		}
		if list, err = snaps.Snapshots(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		read := srv.ReadBy(func() {
			checker, err := snaps.NewChecker()
			if err != nil {
				t.Fatal(err)
			}
			defer checker.Close()
			if _, err := checker.Sample(t.Context(), id, 1); err != nil {
				t.Error(err)
			}
		})
		for _, name := range read {
			if strings.HasPrefix(name, "packfiles/") && name != packfiles[0] {
				packfiles[i] = name
			}
		}
	}
	srv.FailReads(func(name string) error {
		if name == packfiles[0] {
			return errors.New("the disk does not answer")
		}
		return nil
	})
	srv.Remove(packfiles[1])
	for name, check := range checks(st, snaps, list) {
		var out strings.Builder
		err := check(t.Context(), &program{stdout: &out, stderr: io.Discard}, &out)
		if text := out.String(); !errors.Is(err, store.ErrDamaged) || !strings.Contains(text, " damaged: ") || !strings.Contains(text, "/b: ") {
			t.Errorf("%s: got %v, and %q, want /b to be damaged", name, err, text)
		}
	}
}

// TestCheckGivesUp: a check of a store whose server gives nothing ends, and says how much it has not looked at.
func TestCheckGivesUp(t *testing.T) {
	const snapshots = 18
	srv := storetest.ServeSFTP(t)
	st := storetest.New(t, srv.Use, func(cfg *store.Config) { cfg.MirrorBytes = 1 }) // no local copies of metadata
	snaps := openSnapshots(t, st)
	var last snapshotter.ID
	for n := range uint64(snapshots) {
		last = emptySnapshot(t, snaps, n+1, last)
	}
	list, err := snaps.Snapshots(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	srv.FailReads(failPackfiles)
	for name, check := range checks(st, snaps, list) {
		var out strings.Builder
		err := check(t.Context(), &program{stdout: &out, stderr: io.Discard}, &out)
		n := strings.Count(out.String(), " unread: ")
		want := fmt.Sprintf("given up, %d snapshots were not looked at: ", snapshots-n)
		if !errors.Is(err, snapshotter.ErrUnread) || errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), want) || n == 0 {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
		if text := out.String(); strings.Count(text, "\n") != n {
			t.Errorf("%s prints %q, want what is unread", name, text)
		}
	}
}

// TestSyncUnread: copies that the target did not give do not keep others from being made, end a run as one that is worth
// another, and are read by the next one.
func TestSyncUnread(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	st := storetest.New(t, srv.Use)
	from, to := openSnapshots(t, storetest.New(t)), openSnapshots(t, st)
	twoSnapshots(t, from)
	run := &syncRun{
		cfg: &config.Config{DataDir: t.TempDir()}, job: config.Sync{From: "default", To: "offsite", Verify: true},
		log: slog.New(slog.DiscardHandler), from: from,
	}
	out := &syncLog{log: run.log}
	sync := func() error {
		return run.copy(t.Context(), to, boundOf(run.cfg, &config.Store{Name: run.job.To}, st), out)
	}
	notes := &unread{filepath.Join(run.dir(), "unread")}
	srv.FailReads(failPackfiles)
	for _, what := range []string{"copies", "read again"} {
		if err := sync(); !errors.Is(err, snapshotter.ErrUnread) || !worthRetrying(err) {
			t.Errorf("%s: got %v, want %v, and a retry", what, err, snapshotter.ErrUnread)
		}
		if noted, err := notes.list(); err != nil || len(noted) != 2 {
			t.Fatalf("%s: noted: %v, %v, want both", what, noted, err)
		}
	}
	if err := out.unreadable(&run.job); err != nil {
		t.Errorf("copies are called unreadable: %v", err)
	}
	srv.FailReads(nil)
	if err := sync(); err != nil {
		t.Error(err)
	}
	if noted, err := notes.list(); err != nil || len(noted) > 0 {
		t.Errorf("noted when they were read: %v, %v", noted, err)
	}
}
