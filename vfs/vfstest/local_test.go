package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// A commit whose reply is lost has made its snapshot: the next attempt takes it over and
// makes no second one.
func TestReplyOfCommitLost(t *testing.T) {
	l := StartLocal(t, nil)
	cl := l.Client(t, "alice")
	for i := range 3 {
		data := pattern(i, 50_000*i)
		if err := upload(cl, "/f", data); err != nil {
			t.Fatal(err)
		}
		lost := errors.New("reply lost")
		l.Repo.FailAfterCommit(lost)
		if err := l.Commit(); !errors.Is(err, lost) {
			t.Errorf("commit: %v", err)
		}
		l.Repo.FailAfterCommit(nil)
		if err := l.Commit(); err != nil {
			t.Errorf("commit again: %v", err)
		}
		snaps, err := l.Repo.Snapshots(t.Context(), shareName)
		if err != nil || len(snaps) != i+1 {
			t.Errorf("%d snapshots, %v, want %d", len(snaps), err, i+1)
		}
		head, err := l.Head(t.Context())
		if err != nil || l.Repo.Tree(head)["/f"] != string(data) {
			t.Errorf("the head does not have version %d (%v)", i, err)
		}
	}
}

// While the store is away, what was accepted is served, uploads go on, stored bytes say
// what is wrong, and everything is there when the store is back.
func TestStoreAway(t *testing.T) {
	away := fmt.Errorf("dial: %w", snapshotter.ErrUnavailable)
	l := StartLocal(t, nil)
	cl := l.Client(t, "alice")
	stored, pending := pattern(1, 70_000), pattern(2, 90_000)
	if err := errors.Join(upload(cl, "/stored", stored), l.Commit(), upload(cl, "/pending", pending)); err != nil {
		t.Fatal(err)
	}
	l.Repo.FailCommits(away)
	l.Repo.FailReads(away)

	if err := l.Commit(); err == nil || vfs.KindOf(err) != vfs.KindUnavailable {
		t.Errorf("commit: %v", err)
	}
	if info, err := cl.Stat("/stored"); err != nil || info.Size != int64(len(stored)) {
		t.Errorf("stat of a stored file: %+v, %v", info, err)
	}
	if infos, err := cl.List("/"); err != nil || len(infos) != 2 {
		t.Errorf("list: %d entries, %v", len(infos), err)
	}
	if _, err := readFile(cl, "/stored"); err == nil || vfs.KindOf(err) != vfs.KindUnavailable {
		t.Errorf("read of a stored file: %v", err)
	}
	if got, err := readFile(cl, "/pending"); err != nil || !bytes.Equal(got, pending) {
		t.Errorf("read of a pending file: %s, %v", firstDifference(got, pending), err)
	}
	if err := upload(cl, "/new", pattern(3, 100_000)); err != nil {
		t.Errorf("upload: %v", err)
	}
	if err := cl.Rename("/stored", "/moved", false); err != nil {
		t.Errorf("rename: %v", err)
	}

	l.Repo.FailCommits(nil)
	l.Repo.FailReads(nil)
	if err := l.Commit(); err != nil {
		t.Errorf("commit when the store is back: %v", err)
	}
	for path, want := range map[string][]byte{"/moved": stored, "/pending": pending, "/new": pattern(3, 100_000)} {
		if got, err := readFile(cl, "/.snapshots/latest"+path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s in the snapshot: %s, %v", path, firstDifference(got, want), err)
		}
	}
}

func readFile(cl Client, path string) ([]byte, error) {
	f, err := cl.Open(path, vfs.OpenRead)
	if err != nil {
		return nil, err
	}
	data, err := readAll(f)
	return data, errors.Join(err, f.Close())
}
