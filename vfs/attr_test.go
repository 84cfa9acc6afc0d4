package vfs

import (
	"io/fs"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// The attributes of a share's root are kept before there is a snapshot, too.
func TestRootAttributesBeforeFirstSnapshot(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	s := testShare(t, sys)
	mustDo(t, s, &op{kind: opSetattr, name: Root(), mask: setMode, attr: snapshotter.Attr{Mode: 0o700}, flush: true})
	commitShare(t, s)
	closeSystem(t, sys)
	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	n, err := testShare(t, sys).current().lookup(t.Context(), Root())
	if err != nil {
		t.Fatal(err)
	}
	want(t, "mode", n.attr.Mode, 0o700)
}

// Attributes that somebody sets on a file while another session rewrites it stay, unless
// the writer sets them itself.
func TestAttributesSetDuringOverwrite(t *testing.T) {
	sys, _ := fullTestSystem(t)
	a, b := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "v", PermFull, "/")
	for _, flag := range []OpenFlag{OpenWrite, OpenWrite | OpenTruncate} {
		a.put("/f", "one")
		f := a.open("/f", flag)
		a.write(f, 0, "two")
		mode, uid := fs.FileMode(0o600), uint32(17)
		wantNil(t, "setattr", b.SetAttr(t.Context(), "/f", AttrSet{Mode: &mode, UID: &uid}, false))
		gid := uint32(4)
		wantNil(t, "fsetstat", f.SetAttr(t.Context(), AttrSet{GID: &gid}))
		a.close(f)
		i, err := b.Stat(t.Context(), "/f")
		wantNil(t, "stat", err)
		want(t, "mode", i.Mode, mode)
		want(t, "uid", i.UID, uid)
		want(t, "gid", i.GID, gid)
		wantNil(t, "remove", b.Remove(t.Context(), "/f"))
	}
}

// A start without the store does not know the root's attributes, and must not make some up
// for the snapshots to come.
func TestRootAttributesAfterStartWithoutStore(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	s := testShare(t, sys)
	mustDo(t, s, &op{kind: opSetattr, name: Root(), mask: setMode | setUID, attr: snapshotter.Attr{Mode: 0o700, UID: 9}})
	commitShare(t, s)
	closeSystem(t, sys)
	repo.FailIndex(snapshotter.ErrUnavailable)
	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	s = testShare(t, sys)
	wantKind(t, "upload without the store", s.do(t.Context(), put(t, s, "/f", "x")), KindUnavailable)
	repo.FailIndex(nil)
	mustDo(t, s, put(t, s, "/f", "x"))
	got := viewWithAttributes(t, repo, commitShare(t, s))[attrKey("/")]
	want(t, "root", got, attrText(snapshotter.Attr{Mode: 0o700, UID: 9}, true))
}
