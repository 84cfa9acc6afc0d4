package snapshotter

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"
)

const (
	// scrubLead is how much sooner than it must a file is read, so that a run a day is enough.
	scrubLead = 24 * time.Hour
	// scrubAtOnce is up to how many packfiles of a store that is new to scrubs are read by the first
	// run. Those of a larger one are spread over the time.
	scrubAtOnce = 64
)

// begin spreads what a large store has when it is scrubbed for the first time. What was forgotten is found out at once.
func (r *scrubbing) begin(ctx context.Context) error {
	if len(r.ledger.at) > 0 || !r.state.Forgotten.IsZero() {
		return nil
	}
	files, err := r.files(ctx)
	if err != nil || len(files) <= 2*cmp.Or(r.cfg.AtOnce, scrubAtOnce) { // with its states
		return err
	}
	for k := range files {
		if err := r.ledger.put(k, ledgerEntry{r.began.UnixNano(), unread}); err != nil {
			return err
		}
	}
	return nil
}

// accept forgets states that were there and are not.
func (r *scrubbing) accept(ctx context.Context) error {
	files, err := r.files(ctx)
	if err != nil {
		return err
	}
	for k := range maps.Clone(r.ledger.at) {
		if _, ok := files[k]; ok || k.kind != ledgerState {
			continue
		}
		r.mended(k)
		if err := r.ledger.put(k, ledgerEntry{}); err != nil {
			return err
		}
	}
	at := r.cfg.Now().UTC()
	if last := r.state.Accepted; !at.After(last) {
		at = last.Add(1) // the clock was ahead, and an index has seen that time
	}
	r.state.Accepted = at
	return nil
}

// generation changes when the store has other states than before.
func (r *scrubbing) generation() int {
	r.s.mu.RLock()
	defer r.s.mu.RUnlock()
	return len(r.s.states)
}

// files lists what is to be read back, and when it came.
func (r *scrubbing) files(ctx context.Context) (map[ledgerKey]time.Time, error) {
	packs, err := r.s.store.PackfilesAdded()
	if err != nil {
		return nil, err
	}
	files := make(map[ledgerKey]time.Time, len(packs))
	for mac, added := range packs {
		files[ledgerKey{ledgerPackfile, mac}] = added
	}
	there, err := r.s.store.States(ctx)
	if err != nil {
		return nil, err
	}
	r.s.mu.RLock()
	defer r.s.mu.RUnlock()
	for _, mac := range slices.AppendSeq(there, maps.Keys(r.s.states)) {
		files[ledgerKey{ledgerState, mac}] = time.Time{}
	}
	return files, nil
}

// verified is when a file was read back; zero for never. A time to come is no time.
func (r *scrubbing) verified(k ledgerKey) time.Time {
	if r.ledger.at[k].size == unread {
		return time.Time{}
	}
	return r.since(k)
}

// since is verified, and of what was there before the first scrub, when that was.
func (r *scrubbing) since(k ledgerKey) time.Time {
	e, ok := r.ledger.at[k]
	if t := time.Unix(0, e.when); ok && e.when != suspect && !t.After(r.cfg.Now().Add(time.Minute)) {
		return t
	}
	return time.Time{}
}

// size is how large a file was when it was read back, or about how large packfiles are.
func (r *scrubbing) size(k ledgerKey) int64 {
	if size := r.ledger.at[k].size; size != unread {
		return size
	}
	if k.kind == ledgerState {
		return 4 << 10
	}
	return packSize
}

// plan lists what this run is to read, in its order: what was damaged, what is new, and what was
// read back longest ago.
func (r *scrubbing) plan(ctx context.Context) ([]ledgerKey, error) {
	files, err := r.files(ctx)
	if err != nil {
		return nil, err
	}
	now := r.cfg.Now()
	var damaged, fresh, old []ledgerKey
	total := int64(0)
	for k := range files {
		total += r.size(k)
		switch at := r.since(k); {
		case r.isDamaged(k):
			damaged = append(damaged, k)
		case at.IsZero():
			fresh = append(fresh, k)
		default:
			old = append(old, k)
		}
	}
	for k, e := range r.ledger.at {
		switch _, ok := files[k]; {
		case ok, r.damage[k] != nil:
		case e.when == suspect:
			damaged = append(damaged, k)
		case k.kind == ledgerState: // what was there and is not told of any more is looked at; that is damage
			fresh = append(fresh, k)
		}
	}
	for k := range r.damage {
		if _, ok := files[k]; !ok && k != configKey() {
			damaged = append(damaged, k)
		}
	}
	order := func(a, b ledgerKey) int {
		return cmp.Or(cmp.Compare(r.ledger.at[a].when, r.ledger.at[b].when), -cmp.Compare(a.kind, b.kind), slices.Compare(a.mac[:], b.mac[:]))
	}
	for _, list := range [][]ledgerKey{damaged, fresh, old} {
		slices.SortFunc(list, order)
	}
	switch r.cfg.Scope {
	case ScrubDamaged:
		return damaged, nil
	case ScrubNew:
		return append(damaged, fresh...), nil
	case ScrubAll:
		old = slices.DeleteFunc(old, func(k ledgerKey) bool { return !r.verified(k).Before(r.state.All) })
	default:
		old = old[:r.share(old, total, now)]
	}
	return slices.Concat(damaged, fresh, old), nil
}

// share is how many of the files that were read back before are due: those that would be read too
// late otherwise, and as much more as comes to one run, so that not everything is due at once.
func (r *scrubbing) share(old []ledgerKey, total int64, now time.Time) (n int) {
	since := scrubLead
	if !r.state.Last.IsZero() && now.After(r.state.Last) {
		since = min(max(now.Sub(r.state.Last), 0), r.cfg.Every)
	}
	budget := int64(float64(total)*float64(since)/float64(r.cfg.Every)) - r.report.Bytes
	for _, k := range old {
		late := r.since(k).Add(r.cfg.Every - scrubLead).Before(now)
		if budget <= 0 && !late {
			break
		}
		// What was read back by this run, or by one just now, is not read again.
		if !r.since(k).Before(r.began) && r.ledger.at[k].size != unread {
			break
		}
		budget -= r.size(k)
		n++
	}
	return n
}
