package sshclient

import "sync"

// tasks are the goroutines of a connection. Unlike those of a sync.WaitGroup they may be
// started while somebody waits for the last one to end: a session is closed by whoever uses it,
// also while its connection is being closed. The zero value is ready.
type tasks struct {
	mu      sync.Mutex
	running int
	none    sync.Cond // of mu; running is 0
}

// Go runs f in a goroutine.
func (t *tasks) Go(f func()) {
	t.mu.Lock()
	t.running++
	t.mu.Unlock()
	go func() {
		defer t.done()
		f()
	}()
}

func (t *tasks) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running--; t.running == 0 && t.none.L != nil {
		t.none.Broadcast()
	}
}

// Wait waits until none runs. One that is started afterwards is not waited for.
func (t *tasks) Wait() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.none.L = &t.mu
	for t.running > 0 {
		t.none.Wait()
	}
}
