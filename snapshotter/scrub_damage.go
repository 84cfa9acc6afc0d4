package snapshotter

import (
	"cmp"
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// isDamaged reports whether a file is known to be damaged, by this run or an earlier one.
func (r *scrubbing) isDamaged(k ledgerKey) bool {
	return r.damage[k] != nil || r.ledger.at[k].when == suspect
}

// mended notes that a file is as it was written.
func (r *scrubbing) mended(k ledgerKey) {
	if !r.isDamaged(k) {
		return
	}
	delete(r.damage, k)
	delete(r.found, k)
	r.report.Mended++
}

// damaged notes that a file is not as it was written.
func (r *scrubbing) damaged(k ledgerKey, bad damaged) {
	d := r.damage[k]
	if d == nil {
		d = &Damage{Kind: kindOf(k), File: hex.EncodeToString(k.mac[:]), Found: r.began}
		if k == configKey() {
			d.File = "CONFIG"
		}
		r.damage[k] = d
		r.s.log.Error("a file of the store is damaged", "store", r.s.store.Location(), "kind", d.Kind, "file", d.File, "damage", bad.text)
	}
	d.Text, d.Blobs = bad.text, len(bad.blobs)
	r.found[k] = bad
}

// missingText is what is said of a file that should be there.
const missingText = "missing"

// gone is what is said of a file that is not to be there any more.
const gone = "gone"

// Missing reports whether the file is not there at all.
func (d *Damage) Missing() bool { return d.Text == missingText }

// saveDamage puts what is damaged into the state, as far as there is room, and the rest into the ledger.
func (r *scrubbing) saveDamage() error {
	r.state.Damage, r.state.More, r.state.suspects = nil, 0, nil
	keys := slices.SortedFunc(maps.Keys(r.damage), func(a, b ledgerKey) int {
		if a == configKey() || b == configKey() { // which has no row in the ledger
			return cmp.Compare(a.kind, b.kind)
		}
		return cmp.Or(r.damage[a].Found.Compare(r.damage[b].Found), cmp.Compare(a.kind, b.kind), slices.Compare(a.mac[:], b.mac[:]))
	})
	put := false
	for _, k := range keys {
		if len(r.state.Damage) < r.cfg.damageMost {
			r.state.Damage = append(r.state.Damage, *r.damage[k])
			continue
		}
		r.state.More++
		if r.ledger.at[k].when != suspect { // before the state is written that does not name it
			if err := r.ledger.put(k, ledgerEntry{suspect, r.size(k)}); err != nil {
				return err
			}
			put = true
		}
	}
	if put {
		if err := r.ledger.sync(); err != nil {
			return err
		}
	}
	for k, e := range r.ledger.at {
		if e.when != suspect {
			continue
		}
		if r.damage[k] == nil {
			r.state.More++
		}
		if k.kind == ledgerPackfile {
			r.state.suspects = append(r.state.suspects, k.mac)
		}
	}
	return nil
}

// Distrust has stored again, from now on, what is uploaded and is only in packfiles that st calls
// damaged: it would be lost with them; and maintenance marks and removes nothing while st calls states missing. Scrubs
// do so with what they know. While st has forgotten what is damaged, Maintain ends with ErrForgotten.
func (s *Snapshotter) Distrust(st *ScrubState) {
	packfiles := make(map[objects.MAC]struct{})
	for i := range st.Damage {
		if k := keyOfDamage(&st.Damage[i]); k.kind == ledgerPackfile {
			packfiles[k.mac] = struct{}{}
		}
	}
	for _, mac := range st.suspects {
		packfiles[mac] = struct{}{}
	}
	s.store.Distrust(packfiles)
	missing := &missingStates{accepted: st.Accepted}
	for i := range st.Damage {
		if k := keyOfDamage(&st.Damage[i]); k.kind == ledgerState && st.Damage[i].Missing() {
			missing.states = append(missing.states, k.mac)
		}
	}
	s.missing.Store(missing)
	s.forgotten.Store(!st.Forgotten.IsZero())
}

// missingStates is what scrubs know of states that are not in the store any more.
type missingStates struct {
	states   []objects.MAC
	accepted time.Time // see ScrubState.Accepted
}

// concerns finds out which snapshots and paths the damage that this run has found concerns, and
// forgets that of which they need nothing.
func (r *scrubbing) concerns(ctx context.Context) error {
	if len(r.found) == 0 {
		if len(r.damage) == 0 {
			r.uses = nil
		}
		return nil
	}
	lost, err := r.lost()
	if err != nil {
		return err
	}
	keys := slices.SortedFunc(maps.Keys(r.found), func(a, b ledgerKey) int { return slices.Compare(a.mac[:], b.mac[:]) })
	want := make(map[store.BlobID]int)
	for i, k := range keys {
		for _, p := range r.found[k].blobs {
			if lost[k.mac] && r.s.store.Has(p.Type, p.Blob) {
				continue // it was stored again, and whoever reads finds that
			}
			want[store.BlobID{Type: p.Type, MAC: p.Blob}] = i
		}
	}
	u := newUseSearch(r.s, want)
	if err := u.run(ctx); err != nil {
		return err
	}
	r.uses = u
	for i, k := range keys {
		d := r.damage[k]
		d.Blobs, d.Uses, d.More = 0, u.of(i), u.more[i]
		unused := 0
		for _, p := range r.found[k].blobs {
			b := store.BlobID{Type: p.Type, MAC: p.Blob}
			if _, wanted := want[b]; !wanted {
				continue
			}
			if _, used := u.used[b]; used || u.blind {
				d.Blobs++
			} else {
				unused++
			}
		}
		r.report.Unused += unused
		if k.kind == ledgerState {
			if err := r.snapshotsOf(k.mac, d); err != nil {
				return err
			}
		}
		if k.kind == ledgerPackfile && d.Blobs == 0 && !r.found[k].around {
			r.s.log.Info("damage concerns nothing that a snapshot uses", "packfile", d.File, "damage", d.Text)
			delete(r.damage, k)
			if e := r.ledger.at[k]; e.when == suspect {
				if err := r.ledger.put(k, ledgerEntry{r.cfg.Now().UnixNano(), e.size}); err != nil {
					return err
				}
			}
		}
	}
	clear(r.found)
	return nil
}

// lost has the packfiles of which it is known, and told to other readers, that they are missing.
func (r *scrubbing) lost() (map[objects.MAC]bool, error) {
	macs, err := r.s.store.LostPackfiles()
	if err != nil {
		return nil, err
	}
	told, err := r.s.store.ColouredAs(resources.RT_PACKFILE)
	if err != nil {
		return nil, err
	}
	lost := make(map[objects.MAC]bool, len(macs))
	for _, mac := range macs {
		if _, ok := told[mac]; ok { // who only looks tells nobody
			lost[mac] = true
		}
	}
	return lost, nil
}

// snapshotsOf names the snapshots that a state tells of.
func (r *scrubbing) snapshotsOf(id objects.MAC, d *Damage) error {
	ids, err := r.s.store.SnapshotsOfState(id)
	if err != nil {
		return err
	}
	for _, mac := range ids {
		use := Use{What: "state", Snapshots: 1, First: ID(mac), Last: ID(mac)}
		if rec := r.s.known(ID(mac)); rec != nil {
			use.Share, use.FirstTime, use.LastTime = rec.snap.Share, rec.snap.Time, rec.snap.Time
		}
		d.Uses = append(d.Uses, use)
	}
	return nil
}
