package vfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// While the store is away, what is not known is not called missing: neither is it made anew, nor is a client told that it is gone.
func TestAwayIsNotMissing(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	s := testShare(t, sys)
	mustDo(t, s, &op{kind: opMkdir, name: Name{"/d"}})
	mustDo(t, s, put(t, s, "/d/f", "one"))
	commitShare(t, s)
	defer func() { closeSystem(t, sys) }()
	v := visit(t, sys, "u", PermFull, "/")
	repo.FailName("/d", fmt.Errorf("%w: open CONFIG: %w", snapshotter.ErrUnavailable, fs.ErrNotExist))
	_, err := v.Stat(t.Context(), "/d/f")
	want(t, "stat", KindOf(err), KindUnavailable)
	_, err = v.Stat(t.Context(), "/.snapshots/latest/d")
	want(t, "stat in a snapshot", KindOf(err), KindUnavailable)
	_, err = v.Stat(t.Context(), "/d/.snapshots/latest")
	want(t, "stat in a history", KindOf(err), KindUnavailable)
	want(t, "mkdir", KindOf(v.Mkdir(t.Context(), "/d", AttrSet{})), KindUnavailable)
	_, err = v.ReadDir(t.Context(), "/d")
	want(t, "list", KindOf(err), KindUnavailable)
	repo.FailName("/d", nil)
	want(t, "live tree", contents(t, s), map[string]string{"/d": "dir", "/d/f": "one"})
}

// The store is away at a start, and the head of a share is not in it any more when it is back. Nothing pends, so no commit finds that
// out, but the first operation does: the share goes on from what is left.
func TestHeadRemovedWhileAway(t *testing.T) {
	for _, left := range []bool{true, false} {
		t.Run(fmt.Sprintf("another is left %v", left), func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			all := map[string]string{}
			if left {
				all["/f"] = "one"
				mustDo(t, s, put(t, s, "/f", "one"))
				commitShare(t, s)
			}
			mustDo(t, s, put(t, s, "/g", "gone"))
			head := commitShare(t, s)
			crash(t, sys)

			repo.FailIndex(snapshotter.ErrUnavailable)
			sys = openTestSystem(t, dir, repo)
			defer func() { closeSystem(t, sys) }()
			s = testShare(t, sys)
			v := visit(t, sys, "u", PermFull, "/")
			repo.Remove(head)
			repo.FailIndex(nil)
			old := s.current()
			wantNil(t, "between", s.committer.between(t.Context(), func(context.Context) error { // so that it looks for the head later
				_, err := v.Stat(t.Context(), "/g")
				wantKind(t, "stat", err, KindUnavailable)
				wantKind(t, "remove", v.Remove(t.Context(), "/g"), KindUnavailable)
				_, err = v.Open(t.Context(), "/new", OpenWrite|OpenCreate, AttrSet{})
				wantKind(t, "create", err, KindUnavailable)
				if err := s.do(t.Context(), put(t, s, "/h", "two")); !errors.Is(err, snapshotter.ErrNoSnapshot) {
					t.Errorf("the first put: got %v, want %v", err, snapshotter.ErrNoSnapshot)
				}
				return nil
			}))
			for range 2 { // between two calls of this the committer does what else there is
				wantNil(t, "between", s.committer.between(t.Context(), func(context.Context) error { return nil }))
			}
			want(t, "live tree", contents(t, s), all)
			mustDo(t, s, put(t, s, "/h", "two"))
			all["/h"] = "two"
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), all)
			if _, err := old.lookup(t.Context(), Name{"/f"}); !errors.Is(err, snapshotter.ErrNoSnapshot) {
				t.Errorf("in the tree of the removed head: got %v, want %v", err, snapshotter.ErrNoSnapshot)
			}
			want(t, "the head is looked for", s.headLost.Load(), false)
		})
	}
}

// The head is removed, and what it has reclaimed, while its share has it open. Nothing pends, or nothing that is due, so no commit finds that out,
// but the first operation does: the share goes on from what is left.
func TestHeadReclaimedWhileOpen(t *testing.T) {
	for _, tt := range []struct {
		name    string
		pending string // waits for its rename; "" for nothing
		copied  bool   // a copy of the data directory has made a snapshot above the head
	}{{name: "nothing waits"}, {name: "a name waits for its rename", pending: "/x.part"}, {name: "a copy went on from an older head", copied: true}} {
		t.Run(tt.name, func(t *testing.T) {
			repo := newMemRepository()
			sys := openTestSystem(t, t.TempDir(), repo)
			defer func() { closeSystem(t, sys) }()
			s := testShare(t, sys)
			v := visit(t, sys, "u", PermFull, "/")
			mustDo(t, s, put(t, s, "/f", "one"))
			first := commitShare(t, s)
			mustDo(t, s, &op{kind: opMkdir, name: Name{"/d"}})
			mustDo(t, s, put(t, s, "/d/g", "gone"))
			head := commitShare(t, s)
			if tt.copied {
				otherCommit(t, repo, snapshotter.Meta{
					GatewayID: sys.GatewayID(), ShareID: s.id, Parent: first, Sequence: 3, Journal: 900, Suffix: 7, Time: time.Now().UTC(),
				})
			}
			all := map[string]string{"/f": "one"}
			if tt.pending != "" {
				mustDo(t, s, put(t, s, tt.pending, "waits"))
				all[tt.pending] = "waits"
			}
			repo.Reclaim(head)
			wantNil(t, "between", s.committer.between(t.Context(), func(context.Context) error { // so that it looks for the head later
				_, err := v.Stat(t.Context(), "/d/g")
				wantKind(t, "stat", err, KindUnavailable)
				want(t, "the head is looked for", s.headLost.Load(), true)
				return nil
			}))
			for range 2 { // between two calls of this the committer does what else there is
				wantNil(t, "between", s.committer.between(t.Context(), func(context.Context) error { return nil }))
			}
			want(t, "the head is looked for still", s.headLost.Load(), false)
			want(t, "live tree", contents(t, s), all)
			mustDo(t, s, put(t, s, "/h", "two"))
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), map[string]string{"/f": "one", "/h": "two"})
		})
	}
}

// The head is reclaimed after the next snapshot was made, of which nobody knows here: the commit takes that over all the same.
func TestHeadReclaimedBeforeNote(t *testing.T) {
	repo := newMemRepository()
	sys := openTestSystem(t, t.TempDir(), repo)
	defer func() { closeSystem(t, sys) }()
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	mustDo(t, s, put(t, s, "/f", "one"))
	head := commitShare(t, s)
	mustDo(t, s, put(t, s, "/g", "two"))
	all := map[string]string{"/f": "one", "/g": "two"}
	wantNil(t, "between", s.committer.between(t.Context(), func(ctx context.Context) error { // so that it tries nothing by itself
		wantNil(t, "seal", s.seal(ctx, "manual"))
		repo.FailAfterCommit(snapshotter.ErrUnavailable)
		if _, err := s.commitNext(ctx); !errors.Is(err, snapshotter.ErrUnavailable) {
			t.Errorf("the reply is lost: %v", err)
		}
		repo.FailAfterCommit(nil)
		repo.Reclaim(head)
		_, err := v.Stat(ctx, "/f")
		wantKind(t, "stat", err, KindUnavailable)
		want(t, "the head is looked for", s.headLost.Load(), true)
		_, err = s.commitNext(ctx)
		wantNil(t, "commit", err)
		want(t, "sequence", s.head().sequence, uint64(2))
		return nil
	}))
	want(t, "live tree", contents(t, s), all)
	all["/h"] = "three"
	mustDo(t, s, put(t, s, "/h", "three"))
	want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), all)
	want(t, "snapshots", s.head().sequence, uint64(3))
	want(t, "the head is looked for still", s.headLost.Load(), false)
}

// Of what a journal has lost at its end nothing is known: a snapshot of a set that was closed there is not called another's.
func TestSealsOfCutJournal(t *testing.T) {
	ops := []replayed{{pos: 7, op: &op{kind: opMkdir}}, {pos: 8, op: &op{kind: opSeal}}, {pos: 9, op: &op{kind: opMkdir}}}
	last := committedRecord{id: snapshotter.ID{1}, sequence: 1, upTo: 6}
	for journal, others := range map[uint64]bool{6: true, 7: true, 8: false, 9: true, 10: false, 900: false} {
		snap := snapshotter.Snapshot{ID: snapshotter.ID{2}, Parent: last.id, Sequence: 2, Journal: journal}
		want(t, fmt.Sprintf("others have made one up to %d", journal), sealsOf(ops).exclude(nil, snap, last), others)
	}
}
