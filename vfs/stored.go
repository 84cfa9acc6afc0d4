package vfs

import "context"

// waitStored waits, in a share with acknowledge: stored, until what was accepted so far is
// in a snapshot. Names that wait for their rename are acknowledged without. c is what was put there, nil when that is not
// known: when it was left out of the snapshot, as it is damaged, the error is of KindDisk.
func (s *share) waitStored(ctx context.Context, name Name, c *content) error {
	cfg := s.config()
	if !cfg.AckStored || s.isTemp(name) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.AckTimeout)
	defer cancel()
	if err := s.committer.request(ctx, "close"); err != nil {
		return err
	}
	if err := c.lost(); err != nil {
		return errCause("close", name, KindDisk, err)
	}
	return nil
}

// repeats reports whether the name already has a version with these bytes whose snapshot is
// still waited for, or came when nobody waited for it any more: with acknowledge: stored, a
// client whose close timed out sends them again, and gets an acknowledgement without a
// second version.
func (u *upload) repeats(ctx context.Context, f *File, o *op) bool {
	sent := o.content.fingerprint()
	if !u.share.config().AckStored || sent == nil {
		return false
	}
	n, err := u.share.current().lookup(ctx, u.name())
	if err != nil || n.typ != TypeFile {
		return false
	}
	have := u.share.uploads.made.owed(n.version)
	if n.content != nil {
		have = n.content.fingerprint()
	}
	if have == nil || *have != *sent {
		return false
	}
	u.meta.Lock()
	asked := u.set
	u.meta.Unlock()
	if asked&^setMtime != 0 && (n.attr.Mode != o.attr.Mode || n.attr.UID != o.attr.UID || n.attr.GID != o.attr.GID) ||
		asked&setMtime != 0 && !n.attr.ModTime.Equal(o.attr.ModTime) {
		return false
	}
	f.version, f.content, f.bytes, f.size = n.version, n.content, have, have.size
	return true
}

// fingerprint is nil when the content's hash is not known.
func (c *content) fingerprint() *fingerprint {
	if !c.hasHash {
		return nil
	}
	return &fingerprint{c.size, c.hash}
}
