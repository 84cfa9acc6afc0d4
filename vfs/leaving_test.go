package vfs

import (
	"runtime"
	"testing"

	"github.com/snapgate/gateway/vfs/internal/journal"
)

// An upload that is opened while a directory above it is on its way to another name, or out,
// is not left behind where nothing will be.
func TestOpenBelowWhatLeaves(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, v visitor) error
	}{
		{"rename", func(t *testing.T, v visitor) error { return v.Rename(t.Context(), "/a/d", "/a/e", false) }},
		{"rename above", func(t *testing.T, v visitor) error { return v.Rename(t.Context(), "/a", "/b", false) }},
		{"rmdir", func(t *testing.T, v visitor) error { return v.Rmdir(t.Context(), "/a/d") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			armed, opened := make(chan func(), 1), make(chan error, 1)
			sys, _ := fullTestSystem(t, func(c *Config) {
				c.Failpoint = func(name string) {
					if name != journal.FailBeforeSync {
						return
					}
					select {
					case f := <-armed:
						f()
					default:
					}
				}
			})
			s := testShare(t, sys)
			v, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "other", PermFull, "/")
			v.mkdir("/a")
			v.mkdir("/a/d")
			var f *File
			armed <- func() { // in the sequencer: the change is accepted, and not durable yet
				go func() {
					var err error
					f, err = other.Open(t.Context(), "/a/d/f", OpenWrite|OpenCreate, AttrSet{})
					opened <- err
				}()
				for len(opened) == 0 && len(s.requests) == 0 {
					runtime.Gosched()
				}
			}
			wantNil(t, "change", tt.change(t, v))
			if err := <-opened; err != nil {
				wantKind(t, "open", err, KindNotExist)
				return
			}
			other.write(f, 0, "x")
			wantNil(t, "close", f.Close())
		})
	}
}
