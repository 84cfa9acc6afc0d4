package vfs

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Bounds of the changes that no snapshot holds yet.
const (
	// defaultChanges is how many may pend in all shares: each is kept in memory until its
	// commit, about 1 KiB with its node, and half as much again as garbage. One share alone
	// gets two thirds of it.
	defaultChanges = 150_000
	// setChanges is how many may be in one set: a commit takes no more at a time.
	setChanges = 50_000
	// intakePatience is how long an operation waits at most while there is room: clients give
	// up on a reply after 15 s at the earliest. When there is none, it is tried as often as
	// intakeTries until it is refused, once when the store is known to be away.
	intakePatience = 8 * time.Second
	intakeTries    = 4
	// slowedFor is for how long a share counts as slowed down after the last operation that waited:
	// between two commits nobody may wait for a moment.
	slowedFor = 10 * time.Second
	// intakeStep is how many changes a commit reads until it tells of its progress.
	intakeStep = 32
)

// errBacklog says why an operation is refused that would add a change.
var errBacklog = errors.New("too many changes wait for their commit (limits.changes)")

// intakes bounds the changes of all shares that no snapshot holds yet. A share may have two
// thirds of what the others leave: whatever they hold, there is room for its first ones.
type intakes struct {
	limit int

	mu     sync.Mutex // guards the rest, and what every intake has; a leaf
	shares []*intake
	total  int    // changes of all shares
	moves  uint64 // grows with the progress of commits
}

// intake lets the operations of a share in that add changes. Up to a window it lets them in
// at once, beyond it one for each change that the commit under way has read, in the order of
// their coming, so that clients run at the rate of commits. An operation whose turn does not
// come, because a commit is busy with something else or none works, waits the longer the more
// changes there are beyond the window, until there is no room at all. Safe for concurrent use.
type intake struct {
	all  *intakes
	wake func() // tells the committer that somebody waits; must not block

	// The rest is guarded by all.mu.
	pending int // changes that are accepted, or about to be
	read    int // of them, how many the commit under way has read
	failing bool
	waiting []*arrival
	waited  time.Time // when the last operation came that had to wait
	closed  chan struct{}
}

// arrival is an operation that waits; in is closed when it is let in.
type arrival struct{ in chan struct{} }

func newIntakes(limit int) *intakes { return &intakes{limit: limit} }

// add makes the intake of another share.
func (a *intakes) add(wake func()) *intake {
	i := &intake{all: a, wake: wake, closed: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shares = append(a.shares, i)
	return i
}

// remove forgets a share, which is not open.
func (a *intakes) remove(i *intake) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total -= i.pending
	a.shares = slices.DeleteFunc(a.shares, func(other *intake) bool { return other == i })
}

// close ends all waits: nobody waits any more.
func (a *intakes) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.shares {
		select {
		case <-i.closed:
		default:
			close(i.closed)
		}
	}
}

// limit is how many changes the share may have, at least a few whatever the others hold; all.mu is held.
func (i *intake) limit() int {
	others := i.all.total - i.pending
	return max(2*(i.all.limit-others)/3, i.all.limit/64, 1)
}

// window is how many changes that no commit has read are let in at once; all.mu is held.
func (i *intake) window() int { return max(3*i.limit()/8, 1) }

// beyond is how many changes there are beyond the window; all.mu is held.
func (i *intake) beyond() int { return i.pending - i.read - i.window() }

// patience is how long an operation waits that comes now; all.mu is held.
func (i *intake) patience() time.Duration {
	slack := float64(max(i.limit()/4, 1))
	full := min(float64(max(i.beyond(), 0)+1)/slack, 1)
	if i.pending >= i.limit() {
		full = 1
	}
	return time.Duration(full * full * float64(intakePatience))
}

// enter waits until an operation may add a change, which is counted from then on: leave takes
// it back. It fails with KindNoSpace when commits do not make room, and with KindClosed when
// there is no room and ctx or the system has ended.
func (i *intake) enter(ctx context.Context) error {
	a := i.arrive()
	if a == nil {
		return nil
	}
	i.wake()
	for try := 1; ; try++ {
		i.all.mu.Lock()
		patience, moves := i.patience(), i.all.moves
		i.all.mu.Unlock()
		timer := time.NewTimer(patience)
		select {
		case <-a.in:
			timer.Stop()
			return nil
		case <-timer.C:
			if done, err := i.decide(a, moves, &try); done {
				return err
			}
		case <-ctx.Done():
			timer.Stop()
			return i.end(a, ctx.Err())
		case <-i.closed:
			timer.Stop()
			return i.end(a, nil)
		}
	}
}

// arrive lets an operation in, or returns what it waits for.
func (i *intake) arrive() *arrival {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	if len(i.waiting) == 0 && i.beyond() < 0 {
		i.count(1)
		return nil
	}
	a := &arrival{make(chan struct{})}
	i.waiting = append(i.waiting, a)
	i.waited = time.Now()
	return a
}

// decide says what becomes of an operation that has waited for its time: it is let in when
// there is room, and refused when no commit has moved since and that for long.
func (i *intake) decide(a *arrival, moves uint64, try *int) (done bool, err error) {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	switch {
	case i.isIn(a):
		return true, nil
	case i.pending < i.limit():
		i.drop(a)
		i.count(1)
		return true, nil
	case i.failing, i.all.moves == moves && *try >= intakeTries:
		i.drop(a)
		return true, errCause("change", Name{}, KindNoSpace, errBacklog)
	case i.all.moves != moves:
		*try = 0
	}
	return false, nil
}

// end says what becomes of an operation whose client or system is gone: what there is room for
// is done, as it was asked for.
func (i *intake) end(a *arrival, cause error) error {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	if i.isIn(a) {
		return nil
	}
	i.drop(a)
	if i.pending < i.limit() {
		i.count(1)
		return nil
	}
	return errCause("change", Name{}, KindClosed, errors.Join(errBacklog, cause))
}

// isIn reports whether an arrival was let in; all.mu is held.
func (i *intake) isIn(a *arrival) bool {
	select {
	case <-a.in:
		return true
	default:
		return false
	}
}

// drop takes an arrival out of the queue; all.mu is held.
func (i *intake) drop(a *arrival) {
	if at := slices.Index(i.waiting, a); at >= 0 {
		i.waiting = slices.Delete(i.waiting, at, at+1)
	}
}

// count adds changes; all.mu is held.
func (i *intake) count(n int) {
	i.pending += n
	i.all.total += n
}

// admit lets in whom there is room for; all.mu is held.
func (i *intake) admit() {
	for len(i.waiting) > 0 && i.beyond() < 0 {
		a := i.waiting[0]
		i.waiting[0] = nil
		i.waiting = i.waiting[1:]
		i.count(1)
		close(a.in)
	}
}

// made counts changes that nobody asked to let in.
func (i *intake) made(n int) {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	i.count(n)
}

// leave takes a change back that was let in and did not come about.
func (i *intake) leave() {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	i.count(-1)
	i.admit()
}

// progress notes how many changes the commit under way has read by now.
func (i *intake) progress(read int) {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	if read <= i.read {
		return // it reads again
	}
	i.read = read
	i.all.moves++
	i.admit()
}

// committed notes that changes are in a snapshot.
func (i *intake) committed(n int) {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	i.read, i.failing = 0, false
	i.all.moves++
	i.count(-n)
	for _, other := range i.all.shares {
		other.admit()
	}
}

// failed notes that a commit has failed.
func (i *intake) failed() {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	i.read, i.failing = 0, true
}

// refuses reports whether a change would be refused as things stand.
func (i *intake) refuses() bool {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	return i.failing && i.pending >= i.limit()
}

// slowed tells how many operations wait for room, and whether some did a moment ago.
func (i *intake) slowed() (waiting int, slowed bool) {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	return len(i.waiting), len(i.waiting) > 0 || !i.waited.IsZero() && time.Since(i.waited) < slowedFor
}

// most is how many changes the share may have.
func (i *intake) most() int {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	return i.limit()
}

// ready is for what will enter later: where that would be refused, it waits until it would not,
// and fails as enter does.
func (i *intake) ready(ctx context.Context) error {
	if !i.refuses() {
		return nil
	}
	err := i.enter(ctx)
	if err == nil {
		i.leave()
	}
	return err
}

// pressed reports whether a commit is due to make room, whatever the policy: when three
// quarters of the window are full. The more all shares have together, the smaller it is, so
// that those that are idle commit as well what they hold.
func (i *intake) pressed() bool {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	return len(i.waiting) > 0 || i.pending-i.read >= max(3*i.window()/4, 1)
}
