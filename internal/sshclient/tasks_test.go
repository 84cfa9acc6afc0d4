package sshclient

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestTasksBesideWait starts tasks while others wait for the last one, at which a sync.WaitGroup may panic.
func TestTasksBesideWait(t *testing.T) {
	var all tasks
	var ran atomic.Int32
	var both sync.WaitGroup
	for range 4 {
		both.Go(func() {
			for range 2000 {
				all.Go(func() { ran.Add(1) })
			}
		})
		both.Go(func() {
			for range 2000 {
				all.Wait()
			}
		})
	}
	both.Wait()
	all.Wait()
	if n := ran.Load(); n != 8000 {
		t.Errorf("%d tasks have ended of 8000", n)
	}
}
