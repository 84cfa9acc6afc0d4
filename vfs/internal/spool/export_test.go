package spool

// Ready is how many empty files are kept ready.
func (s *Spool) Ready() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ready)
}
