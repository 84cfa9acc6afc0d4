package vfs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
)

// Session is what one authenticated connection may do. Paths are the client's own bytes,
// absolute or relative to "/"; they are parsed once, here. Safe for concurrent use.
// Close ends it: uploads that are still open become partials.
//
// Symbolic links are followed within the principal's root, as in a chroot: an absolute
// target begins there, and ".." stops there. In a view they resolve inside the view.
//
// What the table in access.go refuses is KindPermission. A principal without PermList is
// told nothing about names that are not its own uploads: Stat is KindPermission whether
// they exist or not. The roots of its mounts can always be described.
//
// Every error is an *Error with the client's name; the causes are for the log.
type Session struct {
	system    *System
	principal *Principal
	from      ConnInfo
	id        uint64
	started   time.Time
	traffic   *traffic // of its protocol; set when it is registered
	limits    Limits
	mounts    []mountPoint
	log       *slog.Logger

	mu      sync.Mutex // guards the rest
	files   map[*File]struct{}
	dirs    map[*Dir]struct{}
	handles int // open, and about to be
	closed  bool
}

// handleCount counts the open handles of a system. One user may have two thirds of what the others leave, so that none
// keeps the rest from opening files, however many connections it makes. Safe for concurrent use; its mutex is a leaf.
type handleCount struct {
	mu    sync.Mutex // guards the rest
	n     int
	users map[string]int
}

// take counts a handle of a user that is about to be opened; false when there are too many.
func (h *handleCount) take(user string, limit int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	own := h.users[user]
	others := h.n - own
	if h.n >= limit || own >= max(2*(limit-others)/3, 1) {
		return false
	}
	if h.users == nil {
		h.users = map[string]int{}
	}
	h.n++
	h.users[user]++
	return true
}

// give takes a handle out of the count.
func (h *handleCount) give(user string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n--
	if h.users[user]--; h.users[user] == 0 {
		delete(h.users, user)
	}
}

// count is how many are open, or about to be.
func (h *handleCount) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

// Session starts a session of p. The caller must close it. Partials that are older than
// their share keeps them are given up now: nobody could have resumed them before.
func (s *System) Session(ctx context.Context, p *Principal, from ConnInfo) (*Session, error) {
	sess := &Session{
		system: s, principal: p, from: from, started: time.Now().UTC(), limits: s.cfg.Limits,
		log:   s.log.With("conn", from.Conn, "principal", p.User),
		files: map[*File]struct{}{}, dirs: map[*Dir]struct{}{},
	}
	if len(p.Mounts) == 0 {
		return nil, errCause("session", Name{}, KindPermission, fmt.Errorf("user %q has no share", p.User))
	}
	for _, m := range p.Mounts {
		sh, ok := s.share(m.Share)
		switch {
		case !ok:
			return nil, errCause("session", m.At, KindNotExist, fmt.Errorf("no share %q", m.Share))
		case m.At.IsZero() || m.Root.IsZero(),
			len(p.Mounts) > 1 && len(m.At.Elems()) != 1,
			len(p.Mounts) == 1 && len(m.At.Elems()) > 1:
			return nil, errCause("session", m.At, KindInvalid, fmt.Errorf("mount of share %q", m.Share))
		}
		sess.mounts = append(sess.mounts, mountPoint{m, sh})
	}
	slices.SortFunc(sess.mounts, func(a, b mountPoint) int { return a.At.Compare(b.At) })
	if err := s.register(sess); err != nil {
		return nil, err
	}
	for sh := range sess.shares() {
		sh.sessionStarted(from)
		if err := sh.expirePartials(ctx, sess.started); err != nil {
			sess.log.Warn("giving up old partials", "share", sh.name, "err", err)
		}
	}
	return sess, nil
}

// register numbers a session and notes it, for Close.
func (s *System) register(sess *Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errKind("session", Name{}, KindClosed)
	}
	s.lastSession++
	sess.id = s.lastSession
	s.sessions[sess] = struct{}{}
	sess.traffic = s.trafficOf(sess.from.Protocol)
	return nil
}

// shares yields the shares of the session's mounts, each once.
func (s *Session) shares() iter.Seq[*share] {
	return func(yield func(*share) bool) {
		seen := map[*share]bool{}
		for i := range s.mounts {
			sh := s.mounts[i].share
			if !seen[sh] && !yield(sh) {
				return
			}
			seen[sh] = true
		}
	}
}

// Principal returns whose session it is.
func (s *Session) Principal() *Principal { return s.principal }

// Close ends the session: its handles are aborted, and what was uploaded in part can be
// resumed. Calls that are under way end first. A second Close does nothing.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	files, dirs := slices.Collect(maps.Keys(s.files)), slices.Collect(maps.Keys(s.dirs))
	s.mu.Unlock()
	var errs []error
	for _, f := range files {
		err := f.Abort()
		if err != nil && KindOf(err) != KindClosed && KindOf(err) != KindBusy {
			errs = append(errs, err)
		}
	}
	for _, d := range dirs {
		errs = append(errs, d.Close())
	}
	s.system.mu.Lock()
	delete(s.system.sessions, s)
	s.system.mu.Unlock()
	for sh := range s.shares() {
		sh.sessionEnded(s.from)
	}
	return errors.Join(errs...)
}

// reserve counts a handle that is about to be opened.
func (s *Session) reserve(op string, name Name) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errKind(op, name, KindClosed)
	}
	if s.handles >= s.limits.SessionFiles {
		return errKind(op, name, KindTooMany)
	}
	if !s.system.handles.take(s.principal.User, s.limits.OpenHandles) {
		return errKind(op, name, KindTooMany)
	}
	s.handles++
	return nil
}

// unreserve takes a handle out of the count.
func (s *Session) unreserve() {
	s.mu.Lock()
	s.handles--
	s.mu.Unlock()
	s.system.handles.give(s.principal.User)
}

// keep registers an open handle, for Close; it fails when the session has ended.
func (s *Session) keep(f *File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errKind("open", f.name, KindClosed)
	}
	s.files[f] = struct{}{}
	return nil
}

func (s *Session) keepDir(d *Dir) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errKind("readdir", d.at.name, KindClosed)
	}
	s.dirs[d] = struct{}{}
	return nil
}

// forget takes a handle out of the registry.
func (s *Session) forget(f *File) {
	s.mu.Lock()
	_, had := s.files[f]
	delete(s.files, f)
	s.mu.Unlock()
	if had {
		s.unreserve()
	}
}

func (s *Session) forgetDir(d *Dir) {
	s.mu.Lock()
	_, had := s.dirs[d]
	delete(s.dirs, d)
	s.mu.Unlock()
	if had {
		s.unreserve()
	}
}

// op starts an operation of this session.
func (s *Session) op(kind opKind) *op {
	return &op{kind: kind, user: s.principal.User, protocol: s.from.Protocol, session: s.id}
}

// own reports whether a version is one that the principal uploaded itself, lately.
func (s *Session) own(sh *share, version uint64) bool {
	return sh.uploads.made.own(version, s.principal.User, s.id, time.Now())
}

// errorKind is the Kind for an error of any origin. fs.ErrNotExist is not among them: that
// a file of the spool is missing says nothing about the client's name. Nor does snapshotter.ErrNoSnapshot, of what takes bytes
// from a snapshot that was removed; of .snapshots see viewError.
func errorKind(err error) Kind {
	var e *Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &e) && e.Kind != KindOther:
		return e.Kind
	case errors.Is(err, snapshotter.ErrUnavailable), errors.Is(err, snapshotter.ErrBusy), errors.Is(err, snapshotter.ErrNoSnapshot):
		return KindUnavailable
	case disk.IsFull(err):
		return KindNoSpace
	case errors.Is(err, context.DeadlineExceeded):
		return KindTimeout
	case errors.Is(err, context.Canceled):
		return KindClosed
	case errors.As(err, &errno):
		return KindDisk
	}
	return KindOther
}

// clientError gives an error the name that the client knows; nil stays nil. A closed
// handle or session has its name already.
func clientError(op string, name Name, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok && e.Op == op { //nolint:errorlint // exactly this one
		switch {
		case e.Name == name:
			return err
		case e.Name.IsZero() && e.Kind != KindOther:
			return errCause(op, name, e.Kind, e.Err) // rather than say it twice
		}
	}
	return errCause(op, name, errorKind(err), err)
}
