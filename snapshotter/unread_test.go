package snapshotter_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// unreadable makes all packfiles of a store on a server unreadable, until it is called with false.
func unreadable(srv *storetest.SFTPServer, on bool) {
	if !on {
		srv.FailReads(nil)
		return
	}
	srv.FailReads(func(name string) error {
		if strings.HasPrefix(name, "packfiles/") {
			return errors.New("the disk does not answer")
		}
		return nil
	})
}

// wantUnread wants an error that says that something could not be read, and nothing of damage.
func wantUnread(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, snapshotter.ErrUnread) || !errors.Is(err, snapshotter.ErrUnavailable) || errors.Is(err, store.ErrDamaged) || errors.Is(err, snapshotter.ErrNotRead) {
		t.Errorf("%s: got %v, want %v, %v and no damage", what, err, snapshotter.ErrUnread, snapshotter.ErrUnavailable)
	}
}

// newServed is a rig whose store is on a server, with a snapshot of a file whose content has a packfile of its own.
func newServed(t *testing.T) (srv *storetest.SFTPServer, r *rig, id snapshotter.ID) {
	t.Helper()
	srv = storetest.ServeSFTP(t)
	r = newRig(t, srv.Use)
	return srv, r, r.commit(snapshotter.ID{}, put("/", dir(0)), put("/f", file(1, string(randomBytes(t, 2<<20)))))
}

// TestCheckUnread: what the server of a store does not give, while it can be reached, is not damaged; what it does not
// have is.
func TestCheckUnread(t *testing.T) {
	srv, r, id := newServed(t)
	c := r.checker()

	unreadable(srv, true)
	wantUnread(t, "check", c.Check(t.Context(), id))
	_, err := c.Sample(t.Context(), id, 1)
	wantUnread(t, "sample", err)

	unreadable(srv, false)
	if err := c.Check(t.Context(), id); err != nil {
		t.Errorf("check, when it can be read again: %v", err)
	}

	for _, name := range srv.Files("packfiles") {
		srv.Remove(name)
	}
	c = r.checker()
	if err := c.Check(t.Context(), id); err == nil || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("check of what is missing: got %v, want damage", err)
	}
	s, err := c.Sample(t.Context(), id, 1)
	if err != nil || len(s.Damaged) != 1 || s.Damaged[0].Path != "/f" || !errors.Is(s.Damaged[0].Err, store.ErrDamaged) || errors.Is(s.Damaged[0].Err, snapshotter.ErrUnavailable) {
		t.Errorf("sample of what is missing: %v, %v, want /f to be damaged", s.Damaged, err)
	}
}

// TestCheckUnreadInPart: of several snapshots that have a file which cannot be read, a Checker reads what else they have in
// common once.
func TestCheckUnreadInPart(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use)
	first := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/large", file(1, string(randomBytes(t, 6<<20)))))
	before := srv.Files("packfiles")
	second := r.commit(first, put("/small", file(2, string(randomBytes(t, 2<<20)))))
	var small string // the packfile of its contents
	for _, name := range srv.Files("packfiles") {
		if !slices.Contains(before, name) && srv.Size(name) > 2<<20 {
			small = name
		}
	}
	third := r.commit(second, put("/more", file(3, "more")))
	srv.FailReads(func(name string) error {
		if name == small {
			return errors.New("the disk does not answer")
		}
		return nil
	})
	c := r.checker()
	check := func(id snapshotter.ID) int64 {
		t.Helper()
		was := srv.BytesRead()
		wantUnread(t, "check", c.Check(t.Context(), id))
		return srv.BytesRead() - was
	}
	if n := check(second); n < 6<<20 {
		t.Errorf("the first check has read %d bytes", n)
	}
	for name, id := range map[string]snapshotter.ID{"another snapshot": third, "the same": second} {
		if n := check(id); n > 1<<20 {
			t.Errorf("%s: %d bytes were read, with all that was read before", name, n)
		}
	}
	srv.FailReads(nil)
	for _, id := range []snapshotter.ID{second, third} {
		if err := c.Check(t.Context(), id); err != nil {
			t.Errorf("check, when it can be read again: %v", err)
		}
	}
}

// TestCheckAgain: what a check has found that was ended is not held against the snapshot.
func TestCheckAgain(t *testing.T) {
	srv, r, id := newServed(t)
	c := r.checker()
	ctx, cancel := context.WithCancel(t.Context())
	srv.FailReads(func(name string) error {
		if srv.Size(name) > 2<<20 { // of contents
			cancel()
		}
		return nil
	})
	if err := c.Check(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if err := c.Check(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// TestCheckMissingHeader: a snapshot whose header is missing, which is known all the same, is damaged.
func TestCheckMissingHeader(t *testing.T) {
	srv, r, id := newServed(t)
	for _, name := range srv.Files("packfiles") {
		srv.Remove(name)
	}
	if err := r.Check(t.Context(), id); !errors.Is(err, store.ErrDamaged) || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, store.ErrDamaged)
	}
}

// TestReadBackUnread: a copy that the server of the target does not give is neither good nor bad.
func TestReadBackUnread(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	from, to := newRig(t), newRig(t, srv.Use, otherPassphrase)
	id := from.commit(snapshotter.ID{}, put("/", dir(0)), put("/f", file(1, string(randomBytes(t, 2<<20)))))
	c := copier(t, from, to, true)

	unreadable(srv, true)
	wantUnread(t, "copy", c.Copy(t.Context(), id))
	wantUnread(t, "check", c.Check(t.Context(), id))
	unreadable(srv, false)
	if err := c.Check(t.Context(), id); err != nil {
		t.Errorf("check, when it can be read again: %v", err)
	}

	for _, name := range srv.Files("packfiles") {
		srv.Remove(name)
	}
	if err := copier(t, from, to, true).Check(t.Context(), id); !errors.Is(err, snapshotter.ErrNotRead) || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("check of what is missing: got %v, want %v", err, snapshotter.ErrNotRead)
	}
}

// elsewhere is a server of a store.
type elsewhere interface {
	Use(cfg *store.Config)
	Files(dir string) []string
	Size(name string) int64
}

// TestOneFileIsNotTheServer: a server that does not give one file, so that it looks as if it were away, ends neither checks nor
// scrubs, and all else is read.
func TestOneFileIsNotTheServer(t *testing.T) {
	s3, line := storetest.ServeS3(t), storetest.ServeSFTP(t)
	for name, tc := range map[string]struct {
		elsewhere
		withhold func(name string)
		check    bool // the whole snapshot as well, which asks more often
	}{
		"s3 that is busy":             {s3, func(name string) { s3.Busy(name) }, true},
		"sftp that ends a connection": {line, line.HangUpAt, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // what takes time are pauses between tries
			r := newRig(t, tc.Use)
			base := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/d", dir(0)), put("/d/1", file(1, string(randomBytes(t, 1<<20)))))
			before := tc.Files("packfiles")
			bad := r.commit(base, put("/bad", file(2, string(randomBytes(t, 1<<20)))))
			contents := added(tc, before, 1<<20)
			good := r.commit(bad, remove("/bad"), put("/d/2", file(3, string(randomBytes(t, 1<<20)))))
			if len(contents) != 1 {
				t.Fatalf("%d packfiles of contents, want 1", len(contents))
			}
			tc.withhold(contents[0])
			defer tc.withhold("")

			for way, check := range map[string]func(c *snapshotter.Checker, id snapshotter.ID) (snapshotter.Sampled, error){
				"check": func(c *snapshotter.Checker, id snapshotter.ID) (snapshotter.Sampled, error) {
					return c.CheckFiles(t.Context(), id)
				},
				"sample": func(c *snapshotter.Checker, id snapshotter.ID) (snapshotter.Sampled, error) {
					return c.Sample(t.Context(), id, 1)
				},
			} {
				if way == "check" && !tc.check {
					continue
				}
				c := r.checker()
				_, err := check(c, bad)
				wantUnread(t, way, err)
				if err != nil && (!strings.Contains(err.Error(), "/bad: ") || strings.Contains(err.Error(), "more files")) {
					t.Errorf("%s: got %v, want /bad alone to be unread", way, err)
				}
				if s, err := check(c, good); err != nil || len(s.Damaged) > 0 || c.GaveUp() != nil {
					t.Errorf("%s of the next: %v, damaged: %v, given up: %v", way, err, s.Damaged, c.GaveUp())
				}
			}
			rep, err := r.Scrub(t.Context(), snapshotter.ScrubConfig{Dir: t.TempDir(), Scope: snapshotter.ScrubAll})
			wantUnread(t, "scrub", err)
			if n := len(tc.Files("packfiles")); rep.Unread != 1 || rep.Left != 0 || rep.Packfiles != n-1 {
				t.Errorf("scrub: %d unread and %d left, and %d packfiles of %d read, want all but 1", rep.Unread, rep.Left, rep.Packfiles, n)
			}
		})
	}
}

// TestCheckWhileServerIsAway: when a server gives nothing any more, what a check is still to read does not wait for it one by one.
func TestCheckWhileServerIsAway(t *testing.T) {
	srv := storetest.ServeS3(t)
	r := newRig(t, srv.Use, storetest.Plaintext)
	id := r.many(t, snapshotter.ID{}, "d")
	srv.Busy(append(added(srv, nil, 1<<20), "CONFIG")...) // what else there is is read before that
	for way, check := range map[string]func(c *snapshotter.Checker) error{
		"check": func(c *snapshotter.Checker) error { return c.Check(t.Context(), id) },
		"sample": func(c *snapshotter.Checker) error {
			_, err := c.Sample(t.Context(), id, 1)
			return err
		},
	} {
		before := srv.Refused()
		if err := check(r.checker()); !errors.Is(err, snapshotter.ErrUnavailable) || errors.Is(err, snapshotter.ErrUnread) {
			t.Errorf("%s: got %v, want %v and not %v", way, err, snapshotter.ErrUnavailable, snapshotter.ErrUnread)
		}
		if n := srv.Refused() - before; n == 0 || n > 32 { // of files that have a chunk each
			t.Errorf("%s: %d requests, want some and fewer than files", way, n)
		}
	}
}
