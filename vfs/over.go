package vfs

// seen is what had a name when somebody looked.
type seen struct {
	at   Name  // in the share
	info *Info // nil: nothing had it
}

// PublishOver makes Close publish the upload only over what was seen: what Lstat has told of the
// name, nil for nothing. When another file, another version of it or nothing has the name by then,
// or the upload's name has moved, Close fails with KindChanged and nothing of the upload is left.
// That is decided where changes are made one after the other, so none can come in between. It is for
// handles that no other handle shares the upload with; a later call replaces an earlier one, and who
// takes the upload over is not bound by it.
func (f *File) PublishOver(was *Info) error {
	if err := f.begin("publish", OpenWrite); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	m := f.session.mountOf(f.name)
	if m == nil || was != nil && was.Partial {
		return errKind("publish", f.name, KindInvalid)
	}
	f.up.mu.Lock()
	defer f.up.mu.Unlock()
	if err := f.up.usable(f); err != nil {
		return clientError("publish", f.name, err)
	}
	f.up.over = &seen{f.name.Rebase(m.At, m.Root), was}
	return nil
}

// still reports whether n, nil for nothing, is what was seen. The number tells one upload from
// another; what has none, as it came with a snapshot of somebody else's, size and time tell.
func (s *seen) still(at Name, n *node) bool {
	switch {
	case at != s.at:
		return false
	case n == nil || s.info == nil:
		return n == nil && s.info == nil
	}
	return n.typ == s.info.Type && n.version == s.info.Version && n.attr.ModTime.Equal(s.info.ModTime) &&
		(n.typ != TypeFile || n.size == s.info.Size)
}
