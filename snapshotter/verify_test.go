package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// closingContent is a Content that does something when it has been read.
type closingContent struct {
	bytesContent
	closed func() error
}

func (c closingContent) Open(ctx context.Context) (io.ReadCloser, error) {
	rd, err := c.bytesContent.Open(ctx)
	return closingReader{rd, c.closed}, err
}

type closingReader struct {
	io.Reader
	close func() error
}

func (r closingReader) Close() error { return r.close() }

// TestCommitNoticesLostEntries takes the Builder's database away in the middle of commits.
// What it cannot list any more it leaves out without an error, and a commit that published
// a directory without its entries would make the next one remove them.
func TestCommitNoticesLostEntries(t *testing.T) {
	home := t.TempDir()
	moved := make(map[string]string)
	back := func() {
		for from, to := range moved {
			if err := os.Rename(to, from); err != nil {
				t.Error(err)
			}
		}
		clear(moved)
	}
	s := storetest.Open(t, storetest.Config(home))
	r := &rig{Snapshotter: newSnapshotter(t, s, func(cfg *snapshotter.Config) {
		cfg.Failpoint = func(string) { back() }
	}), t: t, store: s}
	want := tree{"/": dir(0)}
	for i := range 100 {
		d := fmt.Sprintf("/%03d", i)
		want[d] = dir(i)
		want[d+"/f"] = file(uint64(i+1), d)
	}
	id := r.commit(snapshotter.ID{}, want.all()...)
	refused := 0
	for i := range 10 {
		c := put("/zz", file(uint64(1000+i), "zz"))
		c.Content = closingContent{bytesContent("zz"), func() error {
			databases, err := filepath.Glob(filepath.Join(home, "cache", "*", "dbstorer-*"))
			for _, from := range databases {
				moved[from] = strings.Replace(from, "dbstorer-", "moved-", 1)
				err = errors.Join(err, os.Rename(from, moved[from]))
			}
			return err
		}}
		m := meta(uint64(i + 2))
		m.Parent = id
		next, err := r.Commit(t.Context(), id, seq([]snapshotter.Change{c}), m)
		back()
		if err != nil {
			refused++
			continue
		}
		id = next
		want["/zz"] = file(uint64(1000+i), "zz")
		if d := cmp.Diff(want, r.read(id)); d != "" {
			t.Fatalf("commit %d has published (-want +got):\n%s", i, d)
		}
	}
	t.Logf("%d of 10 commits refused", refused)
	want["/zz"] = file(2000, "zz")
	r.expect(r.commit(id, put("/zz", want["/zz"])), want)
}
