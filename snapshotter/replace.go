package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/header"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/snapgate/gateway/store"
)

// The names that Config.Failpoint is called with when a snapshot is replaced.
const (
	ReplaceMade = "replace-made" // the new one is in the store, beside the damaged one
	ReplaceDone = "replace-done" // the damaged one is removed
)

// Replaced is a snapshot that could not be repaired, and the one that was made in its place.
type Replaced struct {
	Old   ID        `json:"old"`
	New   ID        `json:"new"`
	Share string    `json:"share"`
	Time  time.Time `json:"time"` // of both
}

// instead has a Copier make snapshots in place of others. A nil one has it make copies.
type instead struct {
	id    ID   // of what is made
	of    []ID // what it stands for
	old   *record
	avoid map[ID]*record // snapshots of the target that are no bases
}

func (i *instead) spoilt(id ID) bool {
	if i == nil {
		return false
	}
	_, ok := i.avoid[id]
	return ok
}

// rename gives a header another identifier.
func (i *instead) rename(h *header.Header) {
	if i == nil {
		return
	}
	h.Identifier = objects.MAC(i.id)
	texts := make([]string, len(i.of))
	for n, id := range i.of {
		texts[n] = id.String()
	}
	h.SetContext(keyReplaces, strings.Join(texts, " "))
}

// objects pairs the objects of the source with those that the target has at the same paths of the snapshot
// that is replaced, as far as it can be read: their contents need not come from the source.
func (i *instead) objects(ctx context.Context, x *copying) (*lru.Cache[objects.MAC, objects.MAC], error) {
	if i == nil || i.old == nil {
		return nil, nil
	}
	to := x.c.to
	theirs, err := x.from.rawOther(x.src.dirpack)
	if err != nil || theirs == nil {
		return nil, ctx.Err() // what there is to say of the source is said when it is copied
	}
	ours, err := to.rawOther(i.old.dirpack)
	if err != nil || ours == nil {
		return nil, ctx.Err()
	}
	pairs, err := lru.New[objects.MAC, objects.MAC](copyMovedObjects)
	if err != nil {
		return nil, fmt.Errorf("cache of objects: %w", err)
	}
	cur, err := newRawCursor(ctx, theirs, "/")
	for ; err == nil && cur.ok; err = cur.next(ctx) {
		mac, ok, err := ours.find(cur.key)
		if err != nil || !ok {
			continue // damaged: it is copied
		}
		here, herr := to.readDirpack(mac)
		there, terr := x.from.readDirpack(cur.mac)
		if herr != nil || terr != nil {
			continue
		}
		names := here.byName()
		for n := range there.entries {
			e := &there.entries[n]
			o := names[e.name]
			if o == nil || o.isDir() || e.isDir() || o.file.Size != e.file.Size {
				continue
			}
			t, terr := e.stored()
			h, herr := o.stored()
			if terr == nil && herr == nil && t.HasObject() && h.HasObject() {
				pairs.Add(t.Object, h.Object)
			}
		}
	}
	return pairs, ctx.Err()
}

// takeAlike takes the object that the target has for one of the source, if all of it is sound.
func (x *copying) takeAlike(mac objects.MAC) (objects.MAC, bool) {
	if x.alike == nil {
		return objects.MAC{}, false
	}
	ours, ok := x.alike.Get(mac)
	if !ok {
		return objects.MAC{}, false
	}
	to := x.c.to
	data, err := to.blob(resources.RT_OBJECT, ours)
	if err != nil || to.repo.ComputeMAC(data) != ours {
		return objects.MAC{}, false
	}
	obj, err := objects.NewObjectFromBytes(data)
	if err != nil {
		return objects.MAC{}, false
	}
	for n := range obj.Chunks {
		chunk := obj.Chunks[n].ContentMAC
		if !to.early.has(resources.RT_CHUNK, chunk) || to.store.Doubtful(resources.RT_CHUNK, chunk) {
			return objects.MAC{}, false
		}
	}
	x.inc.w.put(resources.RT_OBJECT, ours, data) // which may be in a damaged packfile alone
	x.moved.Add(mac, ours)
	return ours, true
}

// replace makes a snapshot in place of one of the target, of the copy that the source has of it. It is in
// the store when this returns nil, beside the old one.
func (c *Copier) replace(ctx context.Context, src *record, old ID, avoid map[ID]*record) error {
	c.instead = &instead{id: ID(objects.RandomMAC()), of: []ID{old}, old: avoid[old], avoid: avoid}
	more := append(slices.Clone(src.snap.Replaces), src.snap.ID)
	if r := c.to.known(old); r != nil {
		more = append(more, r.snap.Replaces...)
		c.instead.old = r
	}
	for _, id := range more {
		if !slices.Contains(c.instead.of, id) {
			c.instead.of = append(c.instead.of, id)
		}
	}
	to := c.to
	to.enter()
	defer to.write.Unlock()
	lock, unlock, err := to.lockStore(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	base := c.base(src)
	damage, err := to.reconcile(ctx, base)
	if err != nil {
		return err
	}
	if damage != nil {
		base = ID{}
	}
	return c.attempt(ctx, src, base, lock)
}

// exchange removes a snapshot in whose place another one was made, which gets its pin; in one state, so
// that there is no moment without the pin. It is a removal by the rules of Remove but for one: the new one
// is as good as the old one for whatever keeps that, a lock, or being the newest of its line.
func (s *Snapshotter) exchange(ctx context.Context, old, made ID) error {
	return s.alter(ctx, s.lockAlone, func(rw *repository.RepositoryWriter) (bool, error) {
		s.mu.RLock()
		r := s.records[made]
		s.mu.RUnlock()
		if r == nil || !slices.Contains(r.snap.Replaces, old) {
			return false, fmt.Errorf("snapshot %s: %w", made, ErrNoSnapshot)
		}
		pins, err := s.allPins()
		if err != nil {
			return false, err
		}
		was, is := pins[[pinBytes]byte(old[:pinBytes])], pins[[pinBytes]byte(made[:pinBytes])]
		if was.pinned() && !is.pinned() {
			is.number++
			if err := rw.DeleteStateResource(resources.RT_LOCK, is.resource(made)); err != nil {
				return false, fmt.Errorf("state delta: %w", err)
			}
		}
		if err := rw.DeleteStateResource(resources.RT_SNAPSHOT, objects.MAC(old)); err != nil {
			return false, fmt.Errorf("state delta: %w", err)
		}
		return true, nil
	}, func() { s.forget([]ID{old}) })
}

// replace makes snapshots anew whose header or indexes are damaged and could not be repaired, of the copies
// that another store has, and reports whether something came of it. Parts of the new ones may be the very
// bytes that the old ones lack: then those are repaired with them, and the new ones go again.
func (r *scrubbing) replace(ctx context.Context) (any bool, err error) {
	from := r.cfg.From
	if from == nil || from.store.ID() == r.s.store.ID() || r.uses == nil {
		return false, nil
	}
	broken := r.uses.broken
	sources := make(map[ID]*record)
	for id := range broken {
		if r.gaveUp[id] != nil || !r.s.madeFor(id).IsZero() {
			continue
		}
		for _, of := range append([]ID{id}, broken[id].snap.Replaces...) {
			src, err := from.record(ctx, of)
			if err == nil {
				sources[id] = src
				break
			}
			if !errors.Is(err, ErrNoSnapshot) {
				return false, err
			}
		}
		if sources[id] == nil {
			r.giveUp(id, errors.New("the store to repair from has no copy of it"))
		}
	}
	ids := slices.SortedFunc(maps.Keys(sources), func(a, b ID) int { // each may be the base of those after it
		return -newestFirst(sources[a], sources[b])
	})
	c, err := NewCopier(CopierConfig{From: from, To: r.s})
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		err := c.replace(ctx, sources[id], id, broken)
		r.s.failpoint(ReplaceMade)
		if err = r.goesOn(ctx, id, err); err != nil {
			return false, err
		}
	}
	before := len(r.damage)
	if err := r.repairOnce(ctx); err != nil {
		return false, err
	}
	n, err := r.settle(ctx)
	return n > 0 || len(r.damage) < before, err
}

// goesOn returns an error that ends a run; one that concerns a snapshot alone is noted.
func (r *scrubbing) goesOn(ctx context.Context, id ID, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, errors.Is(err, ErrUnavailable), errors.Is(err, ErrBusy):
		return err
	}
	r.giveUp(id, err)
	return nil
}

// giveUp notes why a snapshot is not replaced.
func (r *scrubbing) giveUp(id ID, err error) {
	if r.gaveUp == nil {
		r.gaveUp = make(map[ID]error)
	}
	r.gaveUp[id] = err
	r.s.log.Warn("a damaged snapshot is not made anew", "snapshot", id.String(), "err", err)
}

// explain says of damage which snapshots are not replaced, and why.
func (r *scrubbing) explain() {
	for _, id := range slices.SortedFunc(maps.Keys(r.gaveUp), func(a, b ID) int { return slices.Compare(a[:], b[:]) }) {
		for k, d := range r.damage {
			if k.kind == ledgerPackfile && slices.ContainsFunc(d.Uses, func(u Use) bool { return u.Path == "" && (u.First == id || u.Last == id) }) {
				d.Repair = fmt.Sprintf("%s; snapshot %s: %s", d.Repair, id, r.gaveUp[id])
			}
		}
	}
}

// settle removes one of each two snapshots of which one was made in place of the other, also by a run that
// was cut off: the new one when the old one is not damaged any more; else the old one, after the new one was
// read back. So at every moment one of both is there that is as good as can be. It returns how many were
// replaced.
func (r *scrubbing) settle(ctx context.Context) (n int, err error) {
	s := r.s
	there, err := s.store.Snapshots()
	if err != nil {
		return 0, err
	}
	for _, mac := range there {
		old := ID(mac)
		made := s.madeFor(old)
		if made.IsZero() || r.gaveUp[old] != nil {
			continue
		}
		s.mu.RLock()
		readable, rec := s.records[old] != nil, s.records[made]
		s.mu.RUnlock()
		if !readable {
			if _, err := s.loadRecord(old); err == nil { // it was repaired
				if err := s.relist(ctx); err != nil {
					return n, err
				}
				readable = true
			}
		}
		damaged := !readable
		if r.uses != nil && r.uses.broken[old] != nil {
			damaged = true
		}
		if !damaged {
			if err := s.drop(ctx, made); err != nil {
				return n, err
			}
			continue
		}
		err := r.proven(ctx, made)
		if err != nil {
			err = errors.Join(fmt.Errorf("what was made of its copy: %w", err), s.drop(ctx, made))
		} else if err = s.exchange(ctx, old, made); err == nil {
			s.failpoint(ReplaceDone)
			n++
			r.report.Replaced = append(r.report.Replaced, Replaced{Old: old, New: made, Share: rec.snap.Share, Time: rec.snap.Time})
			s.log.Warn("a damaged snapshot was made anew", "share", rec.snap.Share, "snapshot", made.String(), "in_place_of", old.String(), "time", rec.snap.Time)
		}
		if err := r.goesOn(ctx, old, err); err != nil {
			return n, err
		}
	}
	return n, nil
}

// relist lists the snapshots anew.
func (s *Snapshotter) relist(ctx context.Context) error {
	s.write.Lock()
	defer s.write.Unlock()
	return s.list(ctx, true)
}

// madeFor returns the snapshot that was made in place of one, zero for none.
func (s *Snapshotter) madeFor(old ID) ID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.standIns[old]; r != nil {
		return r.snap.ID
	}
	return ID{}
}

// drop removes a snapshot that was made in place of another one and is not needed, unless it is pinned.
func (s *Snapshotter) drop(ctx context.Context, id ID) error {
	return s.alter(ctx, s.lockStore, func(rw *repository.RepositoryWriter) (bool, error) {
		pins, err := s.allPins()
		if err != nil || pins[[pinBytes]byte(id[:pinBytes])].pinned() {
			return false, err
		}
		return true, rw.DeleteStateResource(resources.RT_SNAPSHOT, objects.MAC(id))
	}, func() { s.forget([]ID{id}) })
}

// proven reads a snapshot back as kloset does, and the files that are new in the store, from the store.
func (r *scrubbing) proven(ctx context.Context, id ID) error {
	if err := r.s.Check(ctx, id); err != nil {
		return err
	}
	files, err := r.files(ctx)
	if err != nil {
		return err
	}
	for k := range files {
		if _, known := r.ledger.at[k]; known {
			continue
		}
		if err := r.verify(ctx, k); err != nil {
			return err
		}
		if d := r.damage[k]; d != nil {
			return fmt.Errorf("%s %s: %w: %s", d.Kind, d.File, store.ErrDamaged, d.Text)
		}
	}
	return nil
}
