package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/snapshot"
)

// Rebuild is Commit through kloset's Builder, whatever the changes are.
func (s *Snapshotter) Rebuild(ctx context.Context, base ID, changes iter.Seq2[Change, error], meta Meta) (ID, error) {
	s.write.Lock()
	defer s.write.Unlock()
	lock, err := s.store.Lock(ctx)
	if err != nil {
		return ID{}, err
	}
	defer lock.Unlock()
	r, err := s.rebuild(ctx, base, changes, meta, lock, nil)
	if err != nil {
		return ID{}, err
	}
	s.published(ctx, r)
	return r.snap.ID, nil
}

// Stock is Commit on an empty base as kloset does it by itself: its Builder, its packer and its
// encryption. What is under them, the flushes to the disk included, is ours in both.
func (s *Snapshotter) Stock(ctx context.Context, changes iter.Seq2[Change, error], meta Meta) (err error) {
	s.write.Lock()
	defer s.write.Unlock()
	a := &attempt{s: s, id: objects.RandomMAC(), meta: meta, began: time.Now()}
	delta, err := s.repo.AppContext().GetCache().Scan(objects.RandomMAC())
	if err != nil {
		return err
	}
	defer delta.Close()
	a.rw = s.repo.NewRepositoryWriter(delta, a.id, repository.DefaultType, "")
	b, err := snapshot.CreateWithRepositoryWriter(a.rw, a.options(), a.id)
	if err != nil {
		return err
	}
	defer b.Close()
	a.source = &merge{ctx: ctx, share: meta.Share, now: a.time(), changes: changes, failed: func() error { return nil }}
	src, err := snapshot.NewSource(ctx, a.source)
	if err != nil {
		return err
	}
	if err := errors.Join(b.Backup(src), a.source.contentError(), a.verify(b.Header)); err != nil {
		return err
	}
	a.fillHeader(b.Header)
	if _, err := b.PutSnapshot(); err != nil {
		return err
	}
	a.rw.PackerManager.Wait()
	if err := a.rw.CommitTransaction(a.id); err != nil {
		return err
	}
	return s.store.Ingest(a.id)
}

// Contents describes all that a snapshot holds, so that two that hold the same are equal:
// what each of its indexes has under each key, and the summary of its root.
func (s *Snapshotter) Contents(id ID) (map[string]string, error) {
	r := s.known(id)
	if r == nil {
		return nil, ErrNoSnapshot
	}
	t, err := s.newTree(r)
	if err != nil {
		return nil, err
	}
	h, err := s.head(r)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, x := range map[string]*leafIndex{"path": h.paths, "type": h.types, "dir": h.dirs, "summary": h.summaries} {
		last := ""
		for _, l := range x.leaves {
			n, err := x.decode(s, l)
			if err != nil {
				return nil, err
			}
			for i, key := range n.Keys {
				if last != "" && x.cmp(last, key) >= 0 {
					return nil, fmt.Errorf("index %s: %q after %q", name, key, last)
				}
				last = key
				out[name+" "+key] = fmt.Sprintf("%x", n.Values[i][:8])
			}
		}
	}
	// By the links of the leaves, as kloset's own readers go.
	it, err := t.paths.ScanAll()
	if err != nil {
		return nil, err
	}
	n := 0
	for it.Next() {
		key, mac := it.Current()
		if out["path "+key] != fmt.Sprintf("%x", mac[:8]) {
			return nil, fmt.Errorf("index of paths, by its links: %q is %x", key, mac[:8])
		}
		n++
	}
	if err := it.Err(); err != nil {
		return nil, err
	}
	out["paths by links"] = fmt.Sprint(n)
	out["xattrs"], out["errors"] = emptyIndex(s, r.vfs.Xattrs), emptyIndex(s, r.vfs.Errors)
	return out, nil
}

func emptyIndex(s *Snapshotter, mac objects.MAC) string {
	if mac == (objects.MAC{}) {
		return "none"
	}
	return "there"
}

// ForgetHeads makes the next commit read the indexes of its base again.
func (s *Snapshotter) ForgetHeads() {
	s.heads.Purge()
	s.nodes.Purge()
	s.summaries.Purge()
	s.dirDatas.lru.Purge()
}

// SetLeafSize makes the leaves of indexes small, so that small trees have many.
func SetLeafSize(s *Snapshotter, most int) {
	s.shape = indexShape{max: most, fill: most * 3 / 4, min: most / 4, fanout: most}
}

// FlushEarly has written what was put ahead of commits.
func (s *Snapshotter) FlushEarly() {
	s.early.turn.Lock()
	defer s.early.turn.Unlock()
	s.early.seal(nil)
}
