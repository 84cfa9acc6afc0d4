// Package ttlmap is a stand-in for the module of the same name, which not every Go module
// proxy serves: a map whose entries expire. It has what the plakar command calls and no
// more, and is used by this nested test module alone.
package ttlmap

import (
	"sync"
	"time"
)

// Map is a map whose entries expire. It is safe for concurrent use.
type Map[K comparable, V any] struct {
	ttl time.Duration

	mu      sync.Mutex // guards entries
	entries map[K]entry[V]
}

type entry[V any] struct {
	value   V
	expires time.Time
}

// New returns an empty map whose entries live for ttl.
func New[K comparable, V any](ttl time.Duration) *Map[K, V] {
	return &Map[K, V]{ttl: ttl, entries: make(map[K]entry[V])}
}

// AutoExpire asks for old entries to be removed without further calls. Here Add does it,
// so that no goroutine is needed.
func (m *Map[K, V]) AutoExpire() {}

// Get returns the value of key when it has not expired.
func (m *Map[K, V]) Get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[key]
	if !ok || time.Now().After(e.expires) {
		var zero V
		return zero, false
	}
	return e.value, true
}

// Add sets the value of key for the map's lifetime of an entry, and drops what expired.
func (m *Map[K, V]) Add(key K, value V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for k, e := range m.entries {
		if now.After(e.expires) {
			delete(m.entries, k)
		}
	}
	m.entries[key] = entry[V]{value: value, expires: now.Add(m.ttl)}
}
