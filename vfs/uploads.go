package vfs

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/snapgate/gateway/vfs/internal/spool"
)

// uploads is a share's table of open uploads and of partials. Safe for concurrent use;
// its mutex is a leaf.
type uploads struct {
	made *creations
	most int // partials of a principal: partsMost

	mu      sync.Mutex            // guards everything below and the at of every upload
	open    map[Name][]*upload    // in the order in which they were opened
	parts   parts                 // what is journalled: of dead handles, and checkpoints of live ones
	orphans map[spool.ID]bool     // spool files of partials that were given up
	cut     map[partKey]time.Time // overwrites that were cut off, or are under way, while the old version stays
	leaving []Name                // directories that a batch under way renames or removes
	moving  []*op                 // the renames of a batch under way, which uploads have followed and cut has not
	idle    func()                // called without mu when the last open upload has ended; may be nil
}

// partKey tells partials apart: a principal has one for a name.
type partKey struct {
	user string
	name Name
}

// newUploads makes an empty table.
func newUploads() *uploads {
	return &uploads{
		made:    newCreations(),
		most:    partsMost,
		open:    map[Name][]*upload{},
		parts:   newParts(),
		orphans: map[spool.ID]bool{},
		cut:     map[partKey]time.Time{},
	}
}

// name returns where the upload would be published now.
func (u *upload) name() Name {
	if u.table != nil {
		u.table.mu.Lock()
		defer u.table.mu.Unlock()
	}
	return u.at
}

// goesTo returns where the upload would be published now, and whether the name must be free.
func (u *upload) goesTo() (at Name, exclusive bool) {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	return u.at, u.exclusive
}

// add registers an open upload at its name. An exclusive one is refused while another
// exclusive one is open there, and one that goes on with a partial when somebody else does
// already or has given it up: then its spool file is not, or not for long, its own.
func (t *uploads) add(u *upload, at Name) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u.exclusive && slices.ContainsFunc(t.open[at], func(o *upload) bool { return o.exclusive }) {
		return errKind("open", at, KindExist)
	}
	if id := u.spoolID(); id != 0 && !t.resumable(id) {
		return errKind("open", at, KindBusy)
	}
	if t.isLeaving(at) {
		return errLeaving
	}
	u.table, u.at = t, at
	u.late = time.AfterFunc(noteAfter, u.noteLate)
	t.open[at] = append(t.open[at], u)
	return nil
}

// remove ends the registration of an upload; a second call does nothing.
func (t *uploads) remove(u *upload) {
	t.mu.Lock()
	had := t.take(u)
	if had {
		u.late.Stop()
	}
	idle := t.idle
	if len(t.open) > 0 {
		idle = nil
	}
	t.mu.Unlock()
	if had && idle != nil {
		idle()
	}
}

// take removes u from open and reports whether it was there; mu is held.
func (t *uploads) take(u *upload) bool {
	list := t.open[u.at]
	i := slices.Index(list, u)
	if i < 0 {
		return false
	}
	if len(list) == 1 {
		delete(t.open, u.at)
	} else {
		t.open[u.at] = slices.Delete(slices.Clone(list), i, i+1)
	}
	return true
}

// count is the number of open uploads.
func (t *uploads) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, list := range t.open {
		n += len(list)
	}
	return n
}

// find returns the newest open upload at name that ok accepts, nil when there is none. ok
// is called with mu held.
func (t *uploads) find(name Name, ok func(*upload) bool) *upload {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.open[name]
	for i := len(list) - 1; i >= 0; i-- {
		if ok(list[i]) {
			return list[i]
		}
	}
	return nil
}

// errLeaving says that a directory above a name is about to be renamed or removed, and that
// readers still see it where it was.
var errLeaving = errors.New("a directory above is being renamed or removed")

// leave is called by the sequencer before it takes away what is at dir: until arrived is
// called, nothing new can be opened below. It reports whether nothing is.
func (t *uploads) leave(dir Name) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaving = append(t.leaving, dir)
	return !t.openBelow(dir)
}

// departs is called by the sequencer when it accepts a rename: until arrived is called, what is known of the
// overwrites of what moves is still under the old name.
func (t *uploads) departs(o *op) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moving = append(t.moving, o)
}

// arrived is called by the sequencer when its batch has become visible, or has failed.
func (t *uploads) arrived() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaving = t.leaving[:0]
	clear(t.moving)
	t.moving = t.moving[:0]
}

// cutAt returns when the principal's overwrite of what has a name was cut off, by the name that it has once
// the renames of the batch under way have happened; mu is held.
func (t *uploads) cutAt(user string, name Name) (time.Time, bool) {
	at, ok := t.cut[partKey{user, name}]
	for _, o := range slices.Backward(t.moving) {
		if ok || o.to == name && o.user == user {
			break // what its principal renames itself is not torn by that
		}
		if name.HasPrefix(o.to) {
			name = name.Rebase(o.to, o.name)
			at, ok = t.cut[partKey{user, name}]
		}
	}
	return at, ok
}

// isLeaving reports whether a directory above name is about to go; mu is held.
func (t *uploads) isLeaving(name Name) bool {
	return slices.ContainsFunc(t.leaving, func(dir Name) bool { return name != dir && name.HasPrefix(dir) })
}

// openBelow reports whether an upload is open strictly below dir; mu is held.
func (t *uploads) openBelow(dir Name) bool {
	for name := range t.open {
		if name != dir && name.HasPrefix(dir) {
			return true
		}
	}
	return false
}

// moved is what has followed a rename, so that it can be taken back.
type moved struct {
	uploads  []movedUpload
	lost     []*upload // were above the file that was replaced
	parts    []movedPart
	replaced []partial // had the names of parts
}

type movedUpload struct {
	u        *upload
	from, to Name
}

type movedPart struct {
	was partial
	to  Name
}

// move is called by the sequencer when a rename is accepted: uploads and partials below from follow. What is
// at from itself follows when it is an upload that was opened on the file that moves; an upload of a name that
// was free is about the name, and stays. Then either settleMove or moveBack is called.
func (t *uploads) move(from, to Name) *moved {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := &moved{}
	for name, list := range t.open {
		for _, u := range list {
			if name.HasPrefix(from) && (name != from || u.onto) {
				m.uploads = append(m.uploads, movedUpload{u, name, name.Rebase(from, to)})
			}
		}
	}
	for _, u := range t.open[to] {
		if u.onto {
			u.onto = false // its file is gone: it is about the name now
			m.lost = append(m.lost, u)
		}
	}
	for _, f := range m.uploads {
		t.place(f.u, f.to)
	}
	for k, p := range t.parts.at {
		if k.name != from && k.name.HasPrefix(from) {
			t.parts.drop(k)
			m.parts = append(m.parts, movedPart{p, k.name.Rebase(from, to)})
		}
	}
	for _, f := range m.parts {
		if old, ok := t.parts.at[partKey{f.was.user, f.to}]; ok {
			m.replaced = append(m.replaced, old)
		}
		p := f.was
		p.name = f.to
		t.parts.put(p)
	}
	return m
}

// place gives an open upload another name; false when it has ended. mu is held.
func (t *uploads) place(u *upload, to Name) bool {
	if !t.take(u) {
		return false
	}
	u.at = to
	t.open[to] = append(slices.Clone(t.open[to]), u)
	return true
}

// settleMove is called once a rename has happened: what its partials have met is gone.
func (t *uploads) settleMove(m *moved) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range m.replaced {
		if p.spool != 0 {
			t.orphans[p.spool] = true // unless another partial has it: sweep looks
		}
	}
}

// moveBack is called when a rename could not be journalled: what has followed it goes back, but for what has
// got another name since, and nothing else does.
func (t *uploads) moveBack(m *moved) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range m.uploads {
		if f.u.at == f.to {
			t.place(f.u, f.from)
		}
	}
	for _, u := range m.lost {
		u.onto = true
	}
	for _, f := range m.parts {
		k := partKey{f.was.user, f.to}
		if p, ok := t.parts.at[k]; !ok || p.spool != f.was.spool {
			continue
		}
		t.parts.drop(k)
		t.orphan(partKey{f.was.user, f.was.name}, f.was.spool)
		t.parts.put(f.was)
	}
	for _, p := range m.replaced {
		if t.parts.at[partKey{p.user, p.name}].spool == 0 {
			t.parts.put(p)
		} else {
			t.orphans[p.spool] = true
		}
	}
}

// settle notes whether an upload continues a complete file now; what another handle takes
// over or has published is no longer exclusive.
func (t *uploads) settle(u *upload, onto bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u.onto, u.exclusive, u.resent = onto, false, false
}

// moveOne renames an open upload by itself. over says that a complete file has the new name, replace that it may be
// replaced, also by a name that is taken later.
func (t *uploads) moveOne(u *upload, to Name, over, replace bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isLeaving(to) {
		return errKind("rename", to, KindBusy)
	}
	if t.place(u, to) {
		u.resent, u.exclusive = false, u.exclusive && !replace
		if over {
			u.rewrites.Store(true)
			u.noted.Store(false) // if at all, of another name
			u.noteSoon()
		}
	}
	return nil
}

// put records a partial, from the journal or of a handle. The spool file of one that it
// replaces becomes an orphan; a record of the same one under another name is older than a rename.
func (t *uploads) put(p partial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.orphan(partKey{p.user, p.name}, p.spool)
	t.dropPart(p.spool)
	t.parts.put(p)
}

// dropPart forgets the partial of a spool file, which is not an orphan; mu is held.
func (t *uploads) dropPart(id spool.ID) {
	if id == 0 {
		return
	}
	if k, ok := t.parts.of[id]; ok {
		t.parts.drop(k)
	}
	delete(t.orphans, id)
}

// gone forgets a partial; its spool file becomes an orphan.
func (t *uploads) gone(user string, name Name) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := partKey{user, name}
	t.orphan(k, 0)
	t.parts.drop(k)
}

// published is called when a complete version of name takes effect, at recovery too:
// partials that it was, or that it makes pointless, are forgotten. id is the version's
// spool file, 0 when it has none: it is not an orphan.
func (t *uploads) published(user string, name Name, id spool.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := partKey{user, name}
	t.orphan(k, id)
	t.parts.drop(k)
	t.mended(k)
	for _, u := range t.open[name] {
		if u.user != user && !u.onto { // it was of a free name, and is an overwrite from now on
			u.rewrites.Store(true)
			u.noted.Store(false)
			u.noteSoon()
		}
	}
	t.dropPart(id) // a record may be older than a rename of the upload
}

const (
	// cutMemory is how long a cut-off overwrite is remembered, from the last time on that something was
	// refused for it: a client that resumes does it within its job's next runs.
	cutMemory = 30 * 24 * time.Hour
	// cutRefresh is the age from which on a refusal is journalled.
	cutRefresh = time.Hour
	// cutMax bounds what is remembered; beyond it, the oldest is forgotten. A trim of the journal
	// writes all of it again.
	cutMax = 4096
)

// tear notes that a principal's overwrite of a complete file was cut off, or may be.
func (t *uploads) tear(user string, name Name, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); at.After(now) {
		at = now // the clock was ahead
	}
	k := partKey{user, name}
	if _, known := t.cut[k]; !known && len(t.cut) >= cutMax {
		var oldest partKey
		for k, at := range t.cut {
			if oldest.name.IsZero() || at.Before(t.cut[oldest]) {
				oldest = k
			}
		}
		delete(t.cut, oldest)
	}
	t.cut[k] = at
}

// whole notes that a principal has sent all of the file that a name has.
func (t *uploads) whole(user string, name Name) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := partKey{user, name}
	t.orphan(k, 0)
	t.parts.drop(k)
	t.mended(k)
}

// mended is whole with mu held.
func (t *uploads) mended(k partKey) {
	delete(t.cut, k)
	for _, u := range t.open[k.name] {
		u.resent = u.resent || u.user == k.user
	}
}

// learn takes over what is recorded of uploads alone, as it is written and as it is replayed; false for
// what changes the tree.
func (t *uploads) learn(o *op) bool {
	switch o.kind {
	case opPartial:
		t.put(*o.partial)
	case opPartialGone:
		t.gone(o.partial.user, o.partial.name)
	case opTorn:
		t.tear(o.user, o.name, o.time)
	case opWhole:
		t.whole(o.user, o.name)
	default:
		return false
	}
	return true
}

// mend is called for what a principal has done to a name on purpose: what is there since is not what
// its cut-off overwrite has left, and not what an upload that is still open there would leave. What is known of
// others' cut-off overwrites goes with the files that a rename moves, once it has happened: what is noted
// before it in a batch goes along.
func (t *uploads) mend(o *op) {
	name := o.to
	switch o.kind {
	case opRemove:
		name = o.name
	case opRename, opLink:
	default:
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.kind == opRename {
		moved := map[partKey]time.Time{}
		for k, at := range t.cut {
			if k.name.HasPrefix(o.name) {
				delete(t.cut, k)
				moved[partKey{k.user, k.name.Rebase(o.name, o.to)}] = at
			}
		}
		maps.Copy(t.cut, moved)
	}
	k := partKey{o.user, name}
	delete(t.cut, k)
	if o.kind == opRemove {
		return
	}
	t.orphan(k, 0)
	t.parts.drop(k)
	for _, u := range t.open[name] {
		switch {
		case u.user != o.user:
		case u.onto: // it has come with the file that was renamed, and is still about that
			u.noted.Store(false)
			u.noteSoon()
		default:
			u.resent = true
		}
	}
}

// torn reports, of a name that a complete file has, whether the principal's last overwrite of it was cut off
// a while ago, or is under way in another session than that of owner: its line may have broken. An upload of the
// principal's that was cut off before somebody else has published the name counts as one.
// since is when it was cut off, or something was refused for it last; zero when that is not to be noted.
func (t *uploads) torn(user string, owner *Session, name Name, now time.Time) (torn bool, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.cutAt(user, name); ok && now.Sub(at) < cutMemory {
		return true, at
	}
	if p, ok := t.parts.at[partKey{user, name}]; ok && p.torn() {
		return true, time.Time{}
	}
	under := slices.ContainsFunc(t.open[name], func(u *upload) bool {
		return u.user == user && u.rewrites.Load() && !u.resent && u.owner.Load() != owner
	})
	return under, time.Time{}
}

// isCut reports whether it is known that the principal's overwrite of a name was cut off.
func (t *uploads) isCut(user string, name Name) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.cutAt(user, name)
	return ok
}

// follows reports whether an upload goes with the file at its name when that is renamed.
func (t *uploads) follows(u *upload) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return u.onto
}

// overtaken reports whether the principal of an upload has published its name since that was opened.
func (t *uploads) overtaken(u *upload) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return u.resent
}

// cutOff returns the overwrites that torn still tells of.
func (t *uploads) cutOff(now time.Time) map[partKey]time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.cut, func(_ partKey, at time.Time) bool { return now.Sub(at) >= cutMemory })
	return maps.Clone(t.cut)
}

// orphan notes the spool file of the partial at k unless it is keep; mu is held.
func (t *uploads) orphan(k partKey, keep spool.ID) {
	if p, ok := t.parts.at[k]; ok && p.spool != 0 && p.spool != keep {
		t.orphans[p.spool] = true
	}
}

// sweep returns the orphaned spool files that neither an open upload nor a partial has,
// and forgets them.
func (t *uploads) sweep() []spool.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.orphans) == 0 {
		return nil
	}
	for _, list := range t.open {
		for _, u := range list {
			if id := u.spoolID(); id != 0 {
				// A live handle still writes there; it frees the file at its own end.
				delete(t.orphans, id)
			}
		}
	}
	maps.DeleteFunc(t.orphans, func(id spool.ID, _ bool) bool {
		_, renamed := t.parts.of[id]
		return renamed
	})
	out := make([]spool.ID, 0, len(t.orphans))
	for id := range t.orphans {
		out = append(out, id)
	}
	clear(t.orphans)
	return out
}

// partials lists all partials, for the sequencer to carry them over when it trims the
// journal and for recovery to keep their spool files.
func (t *uploads) partials() []partial {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := slices.AppendSeq(make([]partial, 0, len(t.parts.at)), maps.Values(t.parts.at))
	slices.SortFunc(out, func(a, b partial) int { return a.name.Compare(b.name) })
	return out
}

// partial returns the partial of a principal at name when no live handle is writing it.
func (t *uploads) partial(user string, name Name) (partial, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.parts.at[partKey{user, name}]
	return p, ok && !t.inUse(p)
}

// inUse reports whether an open upload writes to the spool file of p; mu is held.
func (t *uploads) inUse(p partial) bool {
	for _, list := range t.open {
		for _, u := range list {
			if u.spoolID() == p.spool {
				return true
			}
		}
	}
	return false
}

// resumable reports whether a spool file is a partial's that no open upload goes on with; mu
// is held.
func (t *uploads) resumable(id spool.ID) bool {
	k, ok := t.parts.of[id]
	return ok && !t.inUse(t.parts.at[k])
}

// expired lists the partials that nobody has continued since before.
func (t *uploads) expired(before time.Time) []partial {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []partial
	for _, p := range t.parts.at {
		if p.time.Before(before) && !t.inUse(p) {
			out = append(out, p)
		}
	}
	return out
}
