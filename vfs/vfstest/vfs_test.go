package vfstest_test

import (
	"testing"

	"github.com/snapgate/gateway/vfs"
	"github.com/snapgate/gateway/vfs/vfstest"
)

// The suite, on the live tree in process.
func TestSession(t *testing.T) {
	vfstest.Run(t, vfstest.Target{
		Start: func(t testing.TB) vfstest.System { return vfstest.StartLocal(t, nil) },
		Kind:  vfs.KindOf,
	})
}
