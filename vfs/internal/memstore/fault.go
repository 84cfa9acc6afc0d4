package memstore

import (
	"context"
	"sync"

	"github.com/snapgate/gateway/snapshotter"
)

// FailCommits makes every commit fail with err before it reads a change; nil ends that.
func (r *Repository) FailCommits(err error) { r.set(func(f *faults) { f.commit = err }) }

// FailAfterCommit makes every commit return err although its snapshot is in the store, as
// when a process dies or a connection breaks at the worst moment; nil ends that.
func (r *Repository) FailAfterCommit(err error) { r.set(func(f *faults) { f.afterCommit = err }) }

// FailReads makes every read of a file's bytes fail with err; nil ends that.
func (r *Repository) FailReads(err error) { r.set(func(f *faults) { f.read = err }) }

// FailIndex makes everything that looks at snapshots' names and attributes fail with err;
// nil ends that.
func (r *Repository) FailIndex(err error) { r.set(func(f *faults) { f.index = err }) }

// FailName makes everything that looks at a path of a snapshot, or at one below it, fail with err; nil ends that.
func (r *Repository) FailName(path string, err error) {
	r.set(func(f *faults) { f.unread, f.name = path, err })
}

// Lack makes the repository one that does not have the header of a snapshot, and does not know whether it is lost: the others can
// be listed and read, and nothing is committed. The zero ID ends that.
func (r *Repository) Lack(id snapshotter.ID) { r.set(func(f *faults) { f.lacking = id }) }

func (r *Repository) lacking() snapshotter.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.faults.lacking
}

func (r *Repository) set(change func(*faults)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.faults)
}

func (r *Repository) fault(which func(faults) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return which(r.faults)
}

// Counts returns the counters as of now.
func (r *Repository) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

func (r *Repository) count(change func(*Counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.counts)
}

// Gate holds one commit back when it has read all its changes and contents and is about
// to make the snapshot.
type Gate struct {
	entered chan struct{}
	release chan struct{}
	once    sync.Once
}

// Block makes the next commit wait for the returned Gate's Release or the end of its
// context.
func (r *Repository) Block() *Gate {
	g := &Gate{entered: make(chan struct{}), release: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = g
	return g
}

// Entered is closed when the commit waits.
func (g *Gate) Entered() <-chan struct{} { return g.entered }

// Release lets the commit go on. It may be called more than once, and before the commit.
func (g *Gate) Release() { g.once.Do(func() { close(g.release) }) }

func (g *Gate) wait(ctx context.Context) error {
	close(g.entered)
	select {
	case <-g.release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
