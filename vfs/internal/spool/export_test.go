package spool

// Ready is how many empty files are kept ready.
func (s *Spool) Ready() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ready)
}

// ReorderTotal bounds Early.
const ReorderTotal = reorderTotal

// Early is how many bytes wait in memory for their turn to be hashed.
func (s *Spool) Early() int64 { return s.early.Load() }
