package backend

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/pkg/sftp"
)

// asideSuffix ends the names of files that make room for others: see makeRoom. Nothing but putBack
// takes them away, since one of them may be all that there is.
const asideSuffix = ".old"

// ErrAside says of a Put that has failed that the file may have been aside for a while: in no list, and for locks
// not there.
var ErrAside = errors.New("the file may have been aside")

// asideName is what the file of a name is called while another takes the name. It is at the root of
// the store, where no connector looks for anything but CONFIG.
func asideName(name string) string { return strings.ReplaceAll(name, "/", "_") + asideSuffix }

// ofAside returns the name of the file that is called aside; false when none is called so.
func ofAside(aside string) (name string, ok bool) {
	base, ok := strings.CutSuffix(aside, asideSuffix)
	if !ok || strings.Contains(aside, "/") {
		return "", false
	}
	name = strings.ReplaceAll(base, "_", "/")
	top, _, below := strings.Cut(name, "/")
	return name, name == ConfigName || below && (top == PackfilesDir || top == StatesDir || top == LocksDir)
}

// replaces reports whether a server renames over another file, in one step.
func replaces(c *sftp.Client) bool {
	_, ok := c.HasExtension(extRename)
	return ok
}

// rename gives the temporary file a name.
func (s *SFTP) rename(c *sftp.Client, tmp, name string) error {
	if replaces(c) {
		return c.PosixRename(s.path(tmp), s.path(name))
	}
	err := c.Rename(s.path(tmp), s.path(name))
	var refused *sftp.StatusError // neither a missing directory nor a permission
	if !errors.As(err, &refused) || isBroken(err) {
		return err
	}
	return s.makeRoom(c, tmp, name, err)
}

// makeRoom gives a name that the server has refused to rename over to the temporary file: the other file
// is moved aside, and removed when the name is taken. When that is refused it comes back. In between, and
// when the connection is lost there, either finds it; the next Put or Sweep puts it back.
func (s *SFTP) makeRoom(c *sftp.Client, tmp, name string, refused error) error {
	s.replacing.Lock() // held over requests: there is one file aside for a name
	defer s.replacing.Unlock()
	if _, err := c.Lstat(s.path(name)); err != nil {
		return lostOr(err, refused) // for another reason
	}
	aside := asideName(name)
	move := func(from, to string) error { return c.Rename(s.path(from), s.path(to)) }
	err := move(name, aside)
	if err != nil && !isBroken(err) && c.Remove(s.path(aside)) == nil { // it was older than the name's
		err = move(name, aside)
	}
	switch {
	case isBroken(err): // it may have got there
		return fmt.Errorf("%w; %w", err, ErrAside)
	case err != nil:
		return refused
	}
	if err := move(tmp, name); err != nil {
		if !isBroken(err) {
			err = lostOr(move(aside, name), err)
		}
		return fmt.Errorf("%w; %w", err, ErrAside)
	}
	// The name is taken. What stays aside is older, and left to the next Put or Sweep.
	if err := c.Remove(s.path(aside)); isBroken(err) {
		return err
	}
	return nil
}

// lostOr returns err when it says that the connection is lost, refused otherwise.
func lostOr(err, refused error) error {
	if isBroken(err) {
		return err
	}
	return refused
}

// putBack gives a file that is aside its name again, or removes it when another has the name.
func (s *SFTP) putBack(c *sftp.Client, name string) error {
	s.replacing.Lock() // held over requests: see makeRoom
	defer s.replacing.Unlock()
	aside := s.path(asideName(name))
	_, err := c.Lstat(s.path(name))
	switch {
	case err == nil && replaces(c):
		return nil // somebody's own: no file of ours is aside on such a server
	case err == nil:
		err = c.Remove(aside)
	case errors.Is(err, fs.ErrNotExist):
		if err = c.Rename(aside, s.path(name)); err != nil && !isBroken(err) {
			if _, lerr := c.Lstat(s.path(name)); lerr == nil {
				err = nil // somebody has taken the name meanwhile
			}
		}
	}
	return ignoreNotExist(err)
}

// either calls fn with the path of a file. On a server that does not rename over files the file may be
// aside: it is looked for there before it counts as missing. The name may have been taken meanwhile, and be free again
// for the next: what is missing in both places is looked for once more while none of ours is being replaced.
func (s *SFTP) either(c *sftp.Client, name string, fn func(path string) error) error {
	look := func() error {
		err := fn(s.path(name))
		if replaces(c) || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return fn(s.path(asideName(name)))
	}
	err := look()
	if replaces(c) || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.replacing.RLock() // held over requests: see makeRoom
	defer s.replacing.RUnlock()
	return look()
}

// named calls fn with the path of a lock. One that is aside is in no list, so that others may have ignored it.
func (s *SFTP) named(c *sftp.Client, name string, fn func(path string) error) error {
	err := fn(s.path(name))
	if replaces(c) || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.replacing.RLock() // held over a request: it may be being replaced just now, by ourselves
	defer s.replacing.RUnlock()
	return fn(s.path(name))
}
