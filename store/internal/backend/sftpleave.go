package backend

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errLeaving says that a call was cut off, or not made, because whoever has the backend is about to leave it. It says nothing of the
// server.
var errLeaving = errors.New("the connections to the SFTP server are given up")

// leaving says how far an SFTP is with being left.
type leaving struct {
	// closed by CutOff, by CutOff of whatever is under way, and by Leave
	begun, cut, gone             chan struct{}
	onceBegun, onceCut, onceGone sync.Once
}

func newLeaving() *leaving {
	return &leaving{begun: make(chan struct{}), cut: make(chan struct{}), gone: make(chan struct{})}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// CutOff ends the calls that are under way on connections that have been in use for a while, and from which nothing has come meanwhile:
// they may wait for a server that does not answer. Those that can be are repeated. With a silence of 0 all are ended, and from then on no
// call is repeated. Others can be made, to clean up.
func (s *SFTP) CutOff(silence time.Duration) {
	s.leaving.onceBegun.Do(func() { close(s.leaving.begun) })
	if silence == 0 {
		s.leaving.onceCut.Do(func() { close(s.leaving.cut) })
	}
	// Nobody is to be told how a connection ends that is given up.
	_ = s.end(func(c *sftpConn) bool { return c.silent(silence) })
}

// silent reports whether the connection is in use and silent. From one that is not in use nothing is to come. mu is held.
func (c *sftpConn) silent(silence time.Duration) bool {
	return c.users > 0 && min(time.Since(c.busy), time.Since(c.link.Heard())) >= silence
}

// Leave ends all calls that are under way. None is made any more.
func (s *SFTP) Leave() {
	s.leaving.onceGone.Do(func() { close(s.leaving.gone) })
	s.CutOff(0)
}

// dial makes a connection, unless, or until, the server is left.
func (s *SFTP) dial(ctx context.Context) (*SFTPLink, error) {
	if isClosed(s.leaving.gone) {
		return nil, errLeaving
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		select {
		case <-s.leaving.gone:
			cancel(errLeaving)
		case <-ctx.Done():
		}
	})
	return s.cfg.Dialer.Dial(ctx)
}
