package snapshotter_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// beside returns what another process knows that uses the same cache directory at the same time.
func (k *scrubRig) beside() *scrubRig {
	k.t.Helper()
	cfg := k.Config
	cfg.Create = false
	o, s := *k, storetest.Open(k.t, cfg)
	o.rig = &rig{Snapshotter: newSnapshotter(k.t, s), t: k.t, store: s}
	return &o
}

// TestRepairBesideAnother: a repair has the local copies of another process that uses the store, as a sync does, and so has
// whoever opens it: what is missing is put back.
func TestRepairBesideAnother(t *testing.T) {
	for name, spoil := range map[string]func(*scrubRig){
		"damaged": func(k *scrubRig) { k.headersOf(k.last) },
		"missing": func(k *scrubRig) { k.lose(k.last) },
	} {
		t.Run(name, func(t *testing.T) {
			k := newScrubRig(t)
			spoil(k)
			if n := len(k.scrub(snapshotter.ScrubAll).State.Damage); n != 1 {
				t.Fatalf("%d damaged, want 1", n)
			}
			o := k.beside()
			o.sound(o.repair(nil))
			if lost, err := o.store.LostPackfiles(); err != nil || len(lost) > 0 {
				t.Errorf("%d packfiles count as lost, %v", len(lost), err)
			}
			k.whole()
		})
	}
}

// TestCopiesOfAnother: copies of another process that are of no use are left to it, and what it has removed is not there.
func TestCopiesOfAnother(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"damaged": middle,
		"removed": func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			k := newScrubRig(t)
			kept := k.copyOf(k.last)
			k.lose(k.last)
			undo := change(t, kept, spoil)
			_, was := os.Lstat(kept)
			o := k.beside()
			o.noteLoss()
			lost, err := o.store.LostPackfiles()
			if err != nil || len(lost) != 1 {
				t.Errorf("%d packfiles count as lost, %v; want 1", len(lost), err)
			}
			if _, err := os.Lstat(kept); errors.Is(err, fs.ErrNotExist) != errors.Is(was, fs.ErrNotExist) {
				t.Errorf("the copy: %v, was %v", err, was)
			}
			undo()
			k.noteLoss() // has a copy, and puts it back
			o.noteLoss()
			if lost, err := o.store.LostPackfiles(); err != nil || len(lost) > 0 {
				t.Errorf("%d packfiles count as lost that are back, %v", len(lost), err)
			}
			k.whole()
		})
	}
}
