package snapshotter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// What is known of a blob that is needed.
const (
	neededBySnapshot byte = 1 << iota // else by a view of a snapshot that is gone
	inKept                            // a packfile that is there, and stays, has it
	inDamaged                         // so does one that is known to be damaged
	inMarked                          // one that is marked has it
	inLost                            // one that is missing had it
)

// packUse is what is known of a packfile.
type packUse struct {
	added   time.Time // when a state first told of it
	marked  time.Time // zero: it is not
	listed  bool      // it is in the store
	lost    bool      // it is known to be missing
	damaged bool      // it is known to be, and whatever it has may be
	strange bool      // it has something that this program does not know
	needed  int       // blobs of it that are needed
	alone   int       // of those, what nothing else has
	bytes   int64     // up to the end of the last blob
	number  int32     // among the candidates, from 1; 0 for none
}

// survey is what there is in a store, and what is needed of it.
type survey struct {
	seen      map[markBlob]byte // what is needed
	packs     map[objects.MAC]*packUse
	sizes     map[objects.MAC]int64
	snapshots int

	colour   []objects.MAC // to be marked
	bury     []objects.MAC // to be removed
	leftover []objects.MAC // have been removed, but are there
	rebury   []objects.MAC // of those, or not there any more: untold has them
	orphans  int           // of colour
	stranded []store.Place // blobs that snapshots need and only marked packfiles have
	lost     int
	missing  int // states, or snapshots that such told of, that are known to be missing: what these need is not known

	total, used, young, grace, kept, spared MaintainCount
	usedBytes                               int64
	until                                   time.Time

	holds []held                        // what the candidates have
	freed map[objects.MAC][]objects.MAC // see marker.roots
	// untold is that of roots: a run that was cut off has said to some of freed only that a packfile was removed.
	untold map[objects.MAC][]objects.MAC
}

// held says that a candidate has a blob.
type held struct {
	blob markBlob
	pack int32
}

func (v *survey) any() bool { return len(v.colour)+len(v.bury)+len(v.leftover)+len(v.rebury) > 0 }

func (v *survey) size(mac objects.MAC) int64 { return v.sizes[mac] }

// survey looks at everything, without a lock.
func (r *maintenance) survey(ctx context.Context) (*survey, error) {
	v := &survey{seen: make(map[markBlob]byte), packs: make(map[objects.MAC]*packUse)}
	if err := r.mark(ctx, v, nil); err != nil {
		return nil, err
	}
	r.s.failpoint(MaintainMarked)
	if err := r.packfiles(ctx, v); err != nil {
		return nil, err
	}
	marked, err := r.places(ctx, v)
	if err != nil {
		return nil, err
	}
	if err := r.judge(v, marked); err != nil {
		return nil, err
	}
	if err := r.choose(ctx, v); err != nil {
		return nil, err
	}
	return v, r.candidates(ctx, v)
}

// mark finds out what the snapshots need that the states tell of which are known here, and the open
// views.
// more, if not nil, gets what was not known to be needed before.
func (r *maintenance) mark(ctx context.Context, v *survey, more func(markBlob)) error {
	k := &marker{s: r.s, m: r.marks}
	r.s.mu.RLock()
	states := slices.Collect(maps.Keys(r.s.states)) // that the index knows
	r.s.mu.RUnlock()
	roots, freed, untold, err := k.roots(ctx, states)
	if err != nil {
		return r.doubt(ctx, err, "states")
	}
	v.snapshots, v.freed, v.untold = len(roots), freed, untold
	if more == nil {
		r.marks.begin()
		err = r.noteMissed(states)
	}
	if err == nil {
		v.missing, err = r.missing(states)
	}
	if err != nil {
		return err
	}
	take := func(by byte) func(markBlob) {
		return func(b markBlob) {
			was, known := v.seen[b]
			v.seen[b] = was | by
			if !known && more != nil {
				more(b)
			}
		}
	}
	for id := range roots {
		if err := r.markSnapshot(ctx, k, id, take(neededBySnapshot)); err != nil {
			return r.doubt(ctx, err, "snapshot "+id.String())
		}
	}
	for id := range r.s.open.ids() {
		if _, ok := roots[id]; ok {
			continue
		}
		// It has been removed. What of it cannot be read any more need not be kept.
		if err := r.markSnapshot(ctx, k, id, take(0)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.s.log.Debug("a view of a removed snapshot cannot be kept whole", "snapshot", id.String(), "err", err)
		}
	}
	return r.marks.flush()
}

// noteMissed has the index remember the snapshots of states that earlier runs have read and that are not among those there
// are: the index may be younger than they.
func (r *maintenance) noteMissed(states []objects.MAC) error {
	there := make(map[markKey]struct{}, len(states))
	for _, id := range states {
		there[keyOf(markState, id)] = struct{}{}
	}
	told, removed := make(map[objects.MAC]struct{}), make(map[objects.MAC]struct{})
	for key := range r.marks.at {
		if _, ok := there[key]; ok || key[15] != markState {
			continue
		}
		v, err := r.marks.get(key)
		if err != nil {
			return err
		}
		for _, id := range v.facts.Snapshots {
			told[id] = struct{}{}
		}
		for _, id := range v.facts.Removed {
			removed[id] = struct{}{}
		}
	}
	maps.DeleteFunc(told, func(id objects.MAC, _ struct{}) bool { _, ok := removed[id]; return ok })
	return r.s.store.NoteMissed(slices.Collect(maps.Keys(told)))
}

// missing counts what is known to be missing beside some states: snapshots, by the index, and states, by scrubs.
func (r *maintenance) missing(states []objects.MAC) (int, error) {
	known := r.s.missing.Load()
	if known == nil {
		known = new(missingStates)
	}
	lost, err := r.s.store.MissedSnapshots(known.accepted)
	n := len(lost)
	for _, id := range known.states {
		if !slices.Contains(states, id) {
			n++
		}
	}
	return n, err
}

func (r *maintenance) markSnapshot(ctx context.Context, k *marker, id ID, take func(markBlob)) error {
	key, err := k.need(ctx, markSnapshot, objects.MAC(id))
	if err != nil {
		return err
	}
	return r.marks.visit(key, take)
}

// doubt says of an error of reading what snapshots need what it means.
func (r *maintenance) doubt(ctx context.Context, err error, what string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if aerr := r.s.store.Available(ctx); aerr != nil {
		return fmt.Errorf("%s: %w", what, errors.Join(aerr, err))
	}
	return fmt.Errorf("%w: %s: %w", ErrDoubt, what, err)
}

// packfiles finds out which packfiles there are.
func (r *maintenance) packfiles(ctx context.Context, v *survey) error {
	st := r.s.store
	indexed, err := st.IndexedPackfiles()
	if err != nil {
		return err
	}
	coloured, err := st.ColouredAs(resources.RT_PACKFILE)
	if err != nil {
		return err
	}
	lost, err := st.LostPackfiles()
	if err != nil {
		return err
	}
	listed, err := st.ListPackfiles(ctx) // after the index, so that what has just come is no orphan's blob
	if err != nil {
		return err
	}
	for mac, added := range indexed {
		v.packs[mac] = &packUse{added: added}
	}
	for _, mac := range lost {
		v.packs[mac] = &packUse{lost: true}
	}
	for mac, when := range coloured {
		_, there := listed[mac]
		p := v.packs[mac]
		switch {
		case p != nil:
			p.marked = when
		case there: // no state tells of it any more, or ever did
			v.packs[mac] = &packUse{marked: when}
		}
	}
	for mac := range listed {
		if p := v.packs[mac]; p != nil {
			p.listed = true
		}
	}
	own := r.s.early.packfiles()
	for mac := range listed {
		if _, ok := own[mac]; !ok && v.packs[mac] == nil {
			v.packs[mac] = &packUse{listed: true, added: time.Time{}} // choose asks how old it is
		}
	}
	for mac := range st.Distrusted() {
		if p := v.packs[mac]; p != nil {
			p.damaged = true
		}
	}
	return r.measure(ctx, v, listed)
}

// measure finds out how large they are.
func (r *maintenance) measure(ctx context.Context, v *survey, listed map[objects.MAC]struct{}) (err error) {
	if v.sizes, err = r.sizes(ctx, listed, v.packs); err != nil {
		return err
	}
	for mac := range listed {
		v.total.add(v.sizes[mac])
	}
	return nil
}

// knownType reports whether a blob is of a type that snapshots can need as far as this program
// knows, or RT_RANDOM, which nobody needs.
func knownType(typ resources.Type) bool {
	switch typ {
	case resources.RT_SNAPSHOT, resources.RT_SIGNATURE, resources.RT_OBJECT, resources.RT_CHUNK,
		resources.RT_VFS_BTREE, resources.RT_VFS_NODE, resources.RT_VFS_ENTRY,
		resources.RT_ERROR_BTREE, resources.RT_ERROR_NODE, resources.RT_ERROR_ENTRY,
		resources.RT_XATTR_BTREE, resources.RT_XATTR_NODE, resources.RT_XATTR_ENTRY,
		resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, resources.RT_VFS_SUMMARY, resources.RT_RANDOM:
		return true
	}
	return false
}

// places finds out where what is needed is, and returns which of it packfiles have that are marked
// or missing.
func (r *maintenance) places(ctx context.Context, v *survey) (marked []store.Place, err error) {
	err = r.s.store.EachPlace(ctx, func(p store.Place) {
		pack := v.packs[p.Packfile]
		if pack == nil {
			return // long gone
		}
		pack.bytes = max(pack.bytes, int64(p.Offset)+int64(p.Length))
		if !knownType(p.Type) {
			pack.strange = true
		}
		b := blobMark(p.Type, p.Blob)
		what, ok := v.seen[b]
		if !ok {
			return
		}
		pack.needed++
		v.usedBytes += int64(p.Length)
		switch {
		case pack.lost || !pack.listed:
			v.seen[b] = what | inLost
			marked = append(marked, p)
		case !pack.marked.IsZero():
			v.seen[b] = what | inMarked
			marked = append(marked, p)
		case pack.damaged:
			v.seen[b] = what | inDamaged
		default:
			v.seen[b] = what | inKept
		}
	})
	return marked, err
}

// judge makes sure that all that snapshots need is in packfiles that stay. What is only in marked
// ones can be saved, or, when a damaged one has it as well, stays in them until that is repaired from
// there; what is missing is missing; and if the index does not know where something
// is, it is not to be trusted.
func (r *maintenance) judge(v *survey, marked []store.Place) error {
	unknown := 0
	for _, what := range v.seen {
		if what&neededBySnapshot == 0 || what&(inKept|inDamaged|inMarked) != 0 {
			continue
		}
		if what&inLost != 0 {
			v.lost++
		} else {
			unknown++
		}
	}
	if unknown > 0 {
		return fmt.Errorf("%w: the store's index lacks %d blobs that snapshots need", ErrDoubt, unknown)
	}
	for _, p := range marked {
		what := v.seen[blobMark(p.Type, p.Blob)]
		if what&inKept != 0 {
			continue
		}
		v.packs[p.Packfile].alone++
		if what&neededBySnapshot != 0 && what&(inMarked|inDamaged) == inMarked && v.packs[p.Packfile].listed {
			v.stranded = append(v.stranded, p)
		}
	}
	slices.SortFunc(v.stranded, func(a, b store.Place) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), slices.Compare(a.Blob[:], b.Blob[:]))
	})
	v.stranded = slices.CompactFunc(v.stranded, func(a, b store.Place) bool { return a.Type == b.Type && a.Blob == b.Blob })
	return nil
}

// choose decides what becomes of each packfile.
func (r *maintenance) choose(ctx context.Context, v *survey) error {
	cutoff := r.cfg.Now().Add(-r.cfg.Grace)
	var orphans []objects.MAC
	for mac, p := range v.packs {
		size := v.sizes[mac]
		switch {
		case store.Buried(p.marked):
			if p.listed && p.needed == 0 && !p.strange {
				v.leftover = append(v.leftover, mac)
				if len(v.untold[mac]) > 0 {
					v.rebury = append(v.rebury, mac)
				}
			}
		case !p.marked.IsZero():
			r.chooseMarked(v, mac, p, cutoff)
		case p.lost || !p.listed: // it may come back
		case p.needed > 0 || p.strange:
			v.used.add(size)
		case p.added.After(cutoff):
			v.young.add(size)
		case v.missing > 0: // whoever tells of it, a snapshot that is missing may need it
			v.spared.add(size)
		case p.added.IsZero():
			orphans = append(orphans, mac)
		default:
			v.colour = append(v.colour, mac)
		}
	}
	for mac := range v.untold {
		// What is not there and may be needed may come back for some; it is left to them.
		p := v.packs[mac]
		if p == nil || !p.listed && p.needed == 0 && !p.strange && !slices.Contains(v.bury, mac) {
			v.rebury = append(v.rebury, mac)
		}
	}
	infos, err := r.s.store.StatPackfiles(ctx, orphans)
	if err != nil {
		return err
	}
	for mac, fi := range infos {
		if fi.ModTime.After(cutoff) {
			v.young.add(fi.Size)
			continue
		}
		v.orphans++
		v.colour = append(v.colour, mac)
	}
	for _, list := range [][]objects.MAC{v.colour, v.bury, v.leftover, v.rebury} {
		slices.SortFunc(list, func(a, b objects.MAC) int { return slices.Compare(a[:], b[:]) })
	}
	return nil
}

// chooseMarked decides what becomes of a packfile that is marked.
func (r *maintenance) chooseMarked(v *survey, mac objects.MAC, p *packUse, cutoff time.Time) {
	switch {
	case p.alone > 0 || p.strange:
		v.kept.add(v.sizes[mac])
	case v.missing > 0:
		v.spared.add(v.sizes[mac])
	case p.marked.After(cutoff):
		v.grace.add(v.sizes[mac])
		if until := p.marked.Add(r.cfg.Grace); v.until.IsZero() || until.Before(v.until) {
			v.until = until
		}
	default:
		v.bury = append(v.bury, mac)
	}
}

// candidates notes what is in the packfiles that are to be marked or removed: should something of
// it be needed when that happens, it does not happen.
func (r *maintenance) candidates(ctx context.Context, v *survey) error {
	for i, mac := range slices.Concat(v.colour, v.bury) {
		v.packs[mac].number = int32(i) + 1
	}
	if len(v.colour)+len(v.bury) == 0 {
		return nil
	}
	err := r.s.store.EachPlace(ctx, func(p store.Place) {
		if pack := v.packs[p.Packfile]; pack != nil && pack.number > 0 {
			v.holds = append(v.holds, held{blobMark(p.Type, p.Blob), pack.number})
		}
	})
	slices.SortFunc(v.holds, func(a, b held) int { return cmp.Compare(a.blob, b.blob) })
	return err
}
