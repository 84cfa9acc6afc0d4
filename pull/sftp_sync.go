package pull

import (
	"context"

	"github.com/snapgate/gateway/pull/internal/sftpclient"
)

// besideSync is an fsync of a file over another connection than the one that writes it: a server like
// OpenSSH's does one request of a connection after the other, so one over the writer's own holds the
// writing up for as long as the disk takes.
type besideSync struct {
	to     int64 // the bytes of the file that it is about
	cancel context.CancelFunc
	ended  chan struct{}
	asked  bool // set with err, before ended is closed
	err    error
}

// syncBeside has what is acknowledged brought to the disk over another connection. It reports false when
// that is not possible; while a connection for it is being made nothing happens.
func (w *sftpWriter) syncBeside(ctx context.Context) bool {
	if w.alone || !w.conn.s.Has(sftpclient.Fsync) || w.s.pool.size() < 2 {
		return false
	}
	other, making := w.s.pool.beside(w.conn)
	if other == nil {
		return making
	}
	to, err := w.up.Acknowledged(ctx)
	if err != nil || to <= w.durable {
		w.s.pool.put(other)
		return true // the next Write has the error
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &besideSync{to: to, cancel: cancel, ended: make(chan struct{})}
	w.beside = b
	go func() {
		b.asked, b.err = other.s.SyncFile(ctx, w.full)
		w.s.pool.put(other)
		close(b.ended)
	}()
	return true
}

// besideEnded takes note of what is under way, which has ended or is waited for. An error of what was
// written is never forgotten.
func (w *sftpWriter) besideEnded(wait bool) (busy bool, err error) {
	b := w.beside
	if b == nil {
		return false, w.lost
	}
	if !wait {
		select {
		case <-b.ended:
		default:
			return true, nil
		}
	}
	<-b.ended
	b.cancel()
	w.beside = nil
	switch {
	case b.err == nil:
		w.durable = max(w.durable, b.to)
	case b.asked:
		w.lost = b.err
	default:
		w.alone = true // others cannot open it, say
	}
	return false, w.lost
}
