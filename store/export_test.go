package store

// ForgetHolder lets go of what tells others that the holder of an exclusive lock is alive, and
// leaves the rest as it is, as when its process is killed.
func ForgetHolder(l *Lock) error {
	h := l.holder
	l.holder = nil
	return h.lock.Unlock()
}
