package snapshotter

import (
	"runtime"
	"sync"
	"weak"
)

// openViews knows the snapshots that somebody in this process looks at, whether they have been
// removed meanwhile or not. Views need not be closed: they are let go of, and count until the runtime has
// collected them, which takes up to some minutes. The zero value is ready; safe for concurrent use.
type openViews struct {
	mu    sync.Mutex
	views map[weak.Pointer[View]]ID // guarded by mu
}

func (o *openViews) add(v *View) {
	p := weak.Make(v)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.views == nil {
		o.views = make(map[weak.Pointer[View]]ID)
	}
	o.views[p] = v.snap.ID
	runtime.AddCleanup(v, o.drop, p)
}

func (o *openViews) drop(p weak.Pointer[View]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.views, p)
}

// ids returns the snapshots.
func (o *openViews) ids() map[ID]struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := make(map[ID]struct{}, len(o.views))
	for p, id := range o.views {
		if p.Value() != nil {
			ids[id] = struct{}{}
		}
	}
	return ids
}
