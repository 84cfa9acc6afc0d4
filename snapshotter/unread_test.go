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
