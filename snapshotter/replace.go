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
	// Of two entries the first would count: that of what was itself made in place of another one.
	h.Context = slices.DeleteFunc(h.Context, func(kv header.KeyValue) bool { return kv.Key == keyReplaces })
	h.SetContext(keyReplaces, strings.Join(texts, " "))
}

// objects pairs the objects of the source with those that the target has at the same paths of the snapshot
// that is replaced, as far as it can be read: their contents need not come from the source.
func (i *instead) objects(ctx context.Context, x *copying) (*lru.Cache[objects.MAC, objects.MAC], error) {
	if i == nil || i.old == nil {
		return nil, nil
	}
	to := x.c.to
	theirs, err := x.from.soundOther(x.src.dirpack)
	if err != nil || theirs == nil {
		return nil, ctx.Err() // what there is to say of the source is said when it is copied
	}
	ours, err := to.soundOther(i.old.dirpack)
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
		here, herr := to.soundDirpack(mac)
		there, terr := x.from.soundDirpack(cur.mac)
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

// soundBlob reads a blob and compares it with its MAC, which nothing below does in a store that neither
// encrypts nor compresses.
func (s *Snapshotter) soundBlob(typ resources.Type, mac objects.MAC) ([]byte, error) {
	data, err := s.blob(typ, mac)
	if err == nil && s.repo.ComputeMAC(data) != mac {
		err = fmt.Errorf("%s %x: %w", typ, mac[:4], store.ErrDamaged)
	}
	return data, err
}

// soundObject reads an object so.
func (s *Snapshotter) soundObject(mac objects.MAC) (*objects.Object, error) {
	data, err := s.soundBlob(resources.RT_OBJECT, mac)
	if err != nil {
		return nil, err
	}
	obj, err := objects.NewObjectFromBytes(data)
	if err != nil {
		return nil, readError("object", err)
	}
	return obj, nil
}

// soundOther is rawOther of which every node is compared with its MAC.
func (s *Snapshotter) soundOther(mac objects.MAC) (*rawIndex, error) {
	if mac == (objects.MAC{}) {
		return nil, nil
	}
	if _, err := s.soundBlob(resources.RT_BTREE_ROOT, mac); err != nil {
		return nil, err
	}
	x, err := s.rawOther(mac)
	if x != nil {
		x.sound = true
	}
	return x, err
}

// soundDirpack is readDirpack, with MACs.
func (s *Snapshotter) soundDirpack(mac objects.MAC) (*dirData, error) {
	obj, err := s.soundObject(mac)
	if err != nil {
		return nil, err
	}
	var raw []byte
	for i := range obj.Chunks {
		chunk, err := s.soundBlob(resources.RT_CHUNK, obj.Chunks[i].ContentMAC)
		if err != nil {
			return nil, err
		}
		raw = append(raw, chunk...)
	}
	return parseDir(raw)
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
	data, err := to.soundBlob(resources.RT_OBJECT, ours)
	if err != nil {
		return objects.MAC{}, false
	}
	obj, err := objects.NewObjectFromBytes(data)
	if err != nil {
		return objects.MAC{}, false
	}
	for n := range obj.Chunks {
		if !x.there(obj.Chunks[n].ContentMAC) {
			return objects.MAC{}, false
		}
	}
	x.inc.w.put(resources.RT_OBJECT, ours, data) // which may be in a damaged packfile alone
	x.moved.Add(mac, ours)
	return ours, true
}

// replace makes a snapshot in place of one of the target, of the copy that the source has of it. It is in
// the store when this returns nil, beside the old one; unless that was removed meanwhile, or somebody else has
// made one.
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
	if there, err := to.listed(old); err != nil || !there || !to.madeFor(old).IsZero() {
		return err
	}
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
// is as good as the old one for whatever keeps that, a lock, or being the newest of its line. It reports false
// when the old one is not there any more.
func (s *Snapshotter) exchange(ctx context.Context, old, made ID) (done bool, err error) {
	err = s.alter(ctx, s.lockAlone, func(rw *repository.RepositoryWriter) (bool, error) {
		s.mu.RLock()
		r := s.records[made]
		s.mu.RUnlock()
		if r == nil || !slices.Contains(r.snap.Replaces, old) {
			return false, fmt.Errorf("snapshot %s: %w", made, ErrNoSnapshot)
		}
		if there, err := s.listed(old); err != nil || !there {
			return false, err
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
	}, func() {
		s.forget([]ID{old})
		done = true
	})
	return done, err
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
			r.giveUp(id, errNoCopyOf)
		}
	}
	ids := slices.SortedFunc(maps.Keys(sources), func(a, b ID) int { // each may be the base of those after it
		return -newestFirst(sources[a], sources[b])
	})
	c, err := NewCopier(CopierConfig{From: from, To: r.s})
	if err != nil {
		return false, err
	}
	before, err := r.files(ctx)
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		err := c.replace(ctx, sources[id], id, broken)
		if r.s.madeFor(id) == c.instead.id {
			r.before[id] = before
		}
		r.s.failpoint(ReplaceMade)
		if err = r.goesOn(ctx, id, err); err != nil {
			return false, err
		}
	}
	damaged := len(r.damage)
	if err := r.repairOnce(ctx); err != nil {
		return false, err
	}
	n, err := r.settle(ctx)
	return n > 0 || len(r.damage) < damaged, err
}

// goesOn returns an error that ends a run; one that concerns a snapshot alone is noted.
func (r *scrubbing) goesOn(ctx context.Context, id ID, err error) error {
	switch {
	case err == nil:
		return nil
	case passing(ctx, err):
		return err
	}
	r.giveUp(id, err)
	return nil
}

// passing reports whether an error says nothing of a snapshot.
func passing(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBusy)
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
	there, err := r.s.due()
	if err != nil {
		return 0, err
	}
	for _, mac := range there {
		old := ID(mac)
		made := r.s.madeFor(old)
		if made.IsZero() || r.gaveUp[old] != nil {
			continue
		}
		replaced, err := r.settleOne(ctx, old, made)
		if errors.Is(err, ErrUnread) && ctx.Err() == nil {
			r.s.log.Warn("a damaged snapshot and what was made in its place stay, as something could not be read", "snapshot", old.String(), "made", made.String(), "err", err)
			continue
		}
		if err := r.goesOn(ctx, old, err); err != nil {
			return n, err
		}
		if replaced {
			n++
		}
	}
	return n, nil
}

// settleOne does it for two, and reports whether the old one was replaced. With ErrUnread both stay.
func (r *scrubbing) settleOne(ctx context.Context, old, made ID) (replaced bool, err error) {
	s := r.s
	damaged, err := r.damagedStill(ctx, old)
	if err != nil {
		return false, err
	}
	if !damaged {
		return false, s.drop(ctx, made, old)
	}
	if err := r.proven(ctx, old, made); err != nil {
		if passing(ctx, err) {
			return false, err // which says nothing of what was made
		}
		return false, errors.Join(fmt.Errorf("what was made of its copy: %w", err), s.drop(ctx, made, old))
	}
	rec := s.known(made)
	if rec == nil {
		return false, fmt.Errorf("snapshot %s: %w", made, ErrNoSnapshot)
	}
	if done, err := s.exchange(ctx, old, made); err != nil || !done {
		return false, err
	}
	s.failpoint(ReplaceDone)
	r.report.Replaced = append(r.report.Replaced, Replaced{Old: old, New: made, Share: rec.snap.Share, Time: rec.snap.Time})
	s.log.Warn("a damaged snapshot was made anew", "share", rec.snap.Share, "snapshot", made.String(), "in_place_of", old.String(), "time", rec.snap.Time)
	return true, nil
}

// damagedStill reports whether a snapshot cannot be read as it was written. That it can is said only after it
// was: damage to it may be such that this run has not looked at. Then the error is ErrUnread.
func (r *scrubbing) damagedStill(ctx context.Context, id ID) (bool, error) {
	s := r.s
	if !s.readable(id) {
		if _, err := s.loadRecord(id); err == nil { // it was repaired
			if err := r.listAnew(ctx); err != nil {
				return false, err
			}
		}
	}
	if !s.readable(id) || r.uses != nil && r.uses.broken[id] != nil {
		return true, nil
	}
	if r.more {
		return false, fmt.Errorf("some of the damage to the store %w", ErrUnread)
	}
	for k, cause := range r.unread {
		if r.isDamaged(k) {
			return false, fmt.Errorf("%s %x %w: %w", kindOf(k), k.mac[:], ErrUnread, cause)
		}
	}
	err := r.check(ctx, id)
	if err != nil && passing(ctx, err) {
		return false, err
	}
	return err != nil, nil
}

// check is Check, whose error is ErrUnread when it may be due to what could not be read.
func (r *scrubbing) check(ctx context.Context, id ID) error {
	err := r.s.Check(ctx, id)
	if len(r.unread) > 0 && errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		err = fmt.Errorf("a part of it %w: %w", ErrUnread, err)
	}
	return err
}

// readable reports whether a snapshot is listed under its own id, as one that can be read.
func (s *Snapshotter) readable(id ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.records[id] != nil
}

// listed reports whether a snapshot is in the store and was not removed, whether it can be read or not.
func (s *Snapshotter) listed(id ID) (bool, error) {
	there, err := s.due()
	return slices.Contains(there, objects.MAC(id)), err
}

// due lists the snapshots that should be there: also those whose packfile is missing, which nobody else lists.
func (s *Snapshotter) due() ([]objects.MAC, error) {
	ids, err := s.store.Snapshots()
	if err != nil {
		return nil, err
	}
	lost, err := s.store.LostSnapshots()
	return append(ids, lost...), err
}

// Doubled reports whether there is a snapshot beside one that was made in its place, as a run leaves them that
// was cut off. A repair leaves one of them.
func (s *Snapshotter) Doubled() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id := range s.standIns {
		if s.records[id] != nil {
			return true
		}
	}
	return false
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

// drop removes a snapshot that was made in place of old and is not needed, unless it is pinned, or old is not
// there any more. Nobody else may have a lock meanwhile, who could be removing old; then it stays.
func (s *Snapshotter) drop(ctx context.Context, id, old ID) error {
	alone := func(ctx context.Context) (*store.Lock, func(), error) {
		return s.lockStoreBy(ctx, s.store.LockExclusively)
	}
	err := s.alter(ctx, alone, func(rw *repository.RepositoryWriter) (bool, error) {
		// Not one whose packfile is missing: what was made may be all that can be read.
		if there, err := s.store.Snapshots(); err != nil || !slices.Contains(there, objects.MAC(old)) {
			return false, err
		}
		pins, err := s.allPins()
		if err != nil || pins[[pinBytes]byte(id[:pinBytes])].pinned() {
			return false, err
		}
		return true, rw.DeleteStateResource(resources.RT_SNAPSHOT, objects.MAC(id))
	}, func() { s.forget([]ID{id}) })
	if errors.Is(err, ErrBusy) {
		s.log.Info("a snapshot that is not needed is removed later, as others use the store", "snapshot", id.String(), "in_place_of", old.String())
		return nil
	}
	return err
}

// proven reads a snapshot back as kloset does, and the files that are new in the store, from the store: those
// that came with it, if this run has made it.
func (r *scrubbing) proven(ctx context.Context, old, made ID) error {
	if err := r.check(ctx, made); err != nil {
		return err
	}
	files, err := r.files(ctx)
	if err != nil {
		return err
	}
	for k := range files {
		_, known := r.ledger.at[k]
		if _, was := r.before[old][k]; known || was {
			continue
		}
		if err := r.verify(ctx, k); err != nil {
			if r.unread[k] != nil || r.aside(ctx, k, err) {
				err = fmt.Errorf("%s %x %w: %w", kindOf(k), k.mac[:], ErrUnread, err)
			}
			return err
		}
		delete(r.unread, k)
		if d := r.damage[k]; d != nil {
			return fmt.Errorf("%s %s: %w: %s", d.Kind, d.File, store.ErrDamaged, d.Text)
		}
	}
	return nil
}
