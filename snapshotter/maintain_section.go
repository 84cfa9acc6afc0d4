package snapshotter

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/internal/background"
	"github.com/snapgate/gateway/store"
)

// errStaleSurvey says that so much has come since a survey that it is made again.
var errStaleSurvey = errors.New("too much has come to the store meanwhile")

// section is what happens while the store is locked: what has come since the survey is taken into
// account, then packfiles are marked and removed, as many as there is time for.
func (r *maintenance) section(ctx context.Context, lock *store.Lock, v *survey) error {
	end := time.Now().Add(exclusiveLimit)
	if err := r.catchUp(ctx, v); err != nil {
		return err
	}
	if err := r.recheck(ctx, v); err != nil {
		return err
	}
	if err := r.s.store.SweepLeftovers(ctx); err != nil {
		r.s.log.Warn("leftovers in the store stay", "err", err)
	}
	if len(v.colour)+len(v.bury)+len(v.rebury) > 0 {
		if err := r.putRemoval(ctx, lock, v); err != nil {
			return err
		}
	}
	r.s.failpoint(MaintainBuried)
	for len(v.leftover) > 0 && time.Now().Before(end) {
		// It must have been respected all along: nobody may have begun to use a packfile.
		if err := lock.Valid(); err != nil {
			return err
		}
		some := v.leftover[:min(len(v.leftover), removeAtOnce)]
		if err := r.s.store.RemovePackfiles(ctx, some); err != nil {
			return err
		}
		for _, mac := range some {
			r.report.Removed.add(v.size(mac))
		}
		v.leftover = v.leftover[len(some):]
		r.s.failpoint(MaintainRemoving)
	}
	return nil
}

// catchUp takes over what others did since the survey, and drops from the candidates what has
// come to be needed. It needs the exclusive lock.
func (r *maintenance) catchUp(ctx context.Context, v *survey) error {
	if err := r.s.refreshLocked(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, exclusiveLimit)
	defer cancel()
	drop := make(map[int32]bool)
	missing := v.missing
	err := r.mark(limited, v, func(b markBlob) {
		i, _ := slices.BinarySearchFunc(v.holds, b, func(h held, b markBlob) int { return cmp.Compare(h.blob, b) })
		for ; i < len(v.holds) && v.holds[i].blob == b; i++ {
			drop[v.holds[i].pack] = true
		}
	})
	if err != nil {
		if ctx.Err() == nil && limited.Err() != nil {
			return errStaleSurvey
		}
		return err
	}
	if v.missing > missing {
		return errStaleSurvey
	}
	needed := func(mac objects.MAC) bool { return drop[v.packs[mac].number] }
	v.colour = slices.DeleteFunc(v.colour, needed)
	v.bury = slices.DeleteFunc(v.bury, needed)
	return nil
}

// recheck compares the candidates with what the index tells under the lock.
func (r *maintenance) recheck(ctx context.Context, v *survey) error {
	indexed, err := r.s.store.IndexedPackfiles()
	if err != nil {
		return err
	}
	coloured, err := r.s.store.ColouredAs(resources.RT_PACKFILE)
	if err != nil {
		return err
	}
	for mac, p := range v.packs {
		_, known := indexed[mac]
		_, marked := coloured[mac]
		if p.needed > 0 && p.listed && p.marked.IsZero() && (!known || marked) {
			return errStaleSurvey // what was to stay is marked by somebody else
		}
	}
	if err := r.known(); err != nil && len(v.bury) > 0 {
		return err
	}
	for mac := range r.s.store.Distrusted() {
		if p := v.packs[mac]; len(v.bury) > 0 && p != nil && !p.damaged && p.needed > 0 && p.marked.IsZero() {
			return errStaleSurvey // what is to be removed may be the only sound copy
		}
	}
	own := r.s.early.packfiles()
	v.colour = slices.DeleteFunc(v.colour, func(mac objects.MAC) bool {
		_, marked := coloured[mac]
		_, known := indexed[mac]
		_, open := own[mac]
		orphan := v.packs[mac].added.IsZero()
		// An orphan that a state tells of by now is none.
		return marked || open || known == orphan
	})
	cutoff := r.cfg.Now().Add(-r.cfg.Grace)
	v.bury = slices.DeleteFunc(v.bury, func(mac objects.MAC) bool {
		when, marked := coloured[mac] // somebody may have taken the mark away
		_, known := indexed[mac]
		// What no state told of may be needed when one does by now; the next run looks.
		told := known && v.packs[mac].added.IsZero()
		return !marked || told || store.Buried(when) || when.After(cutoff)
	})
	inUse := func(mac objects.MAC) bool {
		_, known := indexed[mac]
		return known || !store.Buried(coloured[mac])
	}
	v.leftover = slices.DeleteFunc(v.leftover, inUse)
	there, err := r.s.store.StatPackfiles(ctx, v.rebury)
	v.rebury = slices.DeleteFunc(v.rebury, func(mac objects.MAC) bool {
		_, known := indexed[mac]
		_, back := there[mac]
		return known || back && !slices.Contains(v.leftover, mac) || len(v.untold[mac]) == 0
	})
	return err
}

// putRemoval writes the states that mark and remove, and takes them over.
func (r *maintenance) putRemoval(ctx context.Context, lock *store.Lock, v *survey) error {
	if err := lock.Valid(); err != nil {
		return err
	}
	// A run that was cut off may have written one state of several: what has been removed is said once more.
	bury, freed := slices.Concat(v.bury, v.rebury), maps.Clone(v.freed)
	for _, mac := range v.rebury {
		freed[mac] = v.untold[mac]
	}
	ids, err := r.s.store.PutRemoval(store.Removal{Colour: v.colour, Bury: bury, Freed: freed}, r.cfg.Now())
	if err == nil {
		r.s.failpoint(MaintainState)
	}
	for _, id := range ids { // after an error, too: these are in the store
		r.s.ingested(ctx, id)
	}
	if err != nil {
		return err
	}
	for _, mac := range v.colour {
		r.report.Marked.add(v.size(mac))
		if v.packs[mac].added.IsZero() {
			r.report.Orphans++
		}
	}
	for _, mac := range v.bury {
		if v.packs[mac].listed {
			v.leftover = append(v.leftover, mac)
		}
	}
	v.colour, v.bury, v.rebury, v.holds = nil, nil, nil, nil
	return nil
}

// rescue stores blobs again that snapshots need and that only marked packfiles have: somebody has
// made a snapshot with them who did not know of the mark. kloset does not find them otherwise.
func (r *maintenance) rescue(ctx context.Context, blobs []store.Place) error {
	s := r.s
	lock, unlock, err := s.lockStore(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := s.newDelta()
	if err != nil {
		return err
	}
	defer d.close()
	p := newPacker(background.Do, s.store.Encode, s.repo.GetMACHasher, d.rw.PutPackfile, func(string) {})
	defer p.Wait()
	p.size = s.packSize
	k := &marker{s: s}
	for _, b := range blobs {
		data, err := k.named(b.Type, b.Blob)
		if err != nil {
			return r.doubt(ctx, err, "a blob that only marked packfiles have")
		}
		if err := p.Put(-1, b.Type, b.Blob, data, b.Type != resources.RT_CHUNK); err != nil {
			return err
		}
	}
	if err := p.finish(); err != nil {
		return err
	}
	s.failpoint(MaintainCopied)
	if err := d.put(ctx, lock); err != nil {
		return err
	}
	r.report.Rescued += len(blobs)
	s.log.Warn("blobs that snapshots need were only in packfiles that are about to be removed, and were stored again", "blobs", len(blobs))
	return nil
}

// named reads a blob, and compares it with its MAC unless that is a name.
func (k *marker) named(typ resources.Type, mac objects.MAC) ([]byte, error) {
	if typ == resources.RT_SIGNATURE {
		return k.s.blob(typ, mac)
	}
	return k.blob(typ, mac)
}
