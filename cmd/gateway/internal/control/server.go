package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/acceptor"
)

// Handler answers a request. It may call send for lines before the last, which is what it
// returns; an error of send means that the client is gone. ctx ends then, too.
type Handler func(ctx context.Context, req Request, send func(Reply) error) Reply

// Server answers on the socket.
type Server struct {
	ln   net.Listener
	path string
	log  *slog.Logger
	// patience is how long a client may take to take a line that is no output.
	patience time.Duration
}

// Listen makes the socket in dataDir with mode 0600, in the place of one that a gateway
// left behind that is gone. The caller must hold the lock on dataDir.
func Listen(dataDir string, log *slog.Logger) (*Server, error) {
	path := filepath.Join(dataDir, SocketName)
	var ln *net.UnixListener
	err := reach(dataDir, func(dir string) error {
		// Made in a directory that nobody else can enter, then moved: the socket is never
		// there with a wider mode, and one that is left over is replaced.
		tmp, err := os.MkdirTemp(dir, ".control-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(tmp) }() // empty by then
		sock := filepath.Join(tmp, "s")
		if ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"}); err != nil {
			return err
		}
		ln.SetUnlinkOnClose(false) // it has another name by then
		if err := os.Chmod(sock, 0o600); err != nil {
			return err
		}
		return os.Rename(sock, path)
	})
	if err != nil {
		if ln != nil {
			err = errors.Join(err, ln.Close())
		}
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return &Server{ln: ln, path: path, log: log, patience: requestTimeout}, nil
}

// Serve answers requests until ctx ends; then it removes the socket, takes back the
// requests that are still answered, and returns when all of them have ended.
func (s *Server) Serve(ctx context.Context, handle Handler) error {
	stop := context.AfterFunc(ctx, func() { _ = s.ln.Close() }) // wakes Accept, which tells
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		// Who asks for the status must not end what clients upload, whatever accepting him is refused for.
		c, err := acceptor.Accept(ctx, s.ln, s.log)
		if err != nil {
			rerr := os.Remove(s.path)
			if ctx.Err() != nil {
				return rerr
			}
			return errors.Join(fmt.Errorf("control socket: %w", err), s.ln.Close(), rerr)
		}
		conns.Go(func() {
			if err := s.serve(ctx, c, handle); err != nil {
				s.log.Debug("control connection ended", "err", err)
			}
		})
	}
}

// Close releases the socket of a server whose Serve was never called.
func (s *Server) Close() error { return errors.Join(s.ln.Close(), os.Remove(s.path)) }

// serve answers the one request of a connection.
func (s *Server) serve(ctx context.Context, c net.Conn, handle Handler) error {
	defer func() { _ = c.Close() }() // the client has its answer, or is gone
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	r := bufio.NewReader(io.LimitReader(c, maxLine))
	line, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	// Nothing more is to come, so what wakes this read is the client's leaving or ours.
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = r.ReadByte()
		cancel()
	}()
	defer func() { <-gone }()
	defer func() { _ = c.Close() }() // before waiting: it wakes the read

	var broken error // an output was cut off: what came behind would pass for the rest of it
	send := func(rep Reply) error {
		if broken != nil {
			return broken
		}
		if rep.Output != nil || rep.Exit != nil { // what was printed before may not have been read yet
			broken = sendOutput(ctx, c, rep)
			return broken
		}
		patience := s.patience
		if ctx.Err() != nil {
			patience = min(patience, shutdownPatience)
		}
		if err := c.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		return writeReply(c, rep)
	}
	var req Request
	if err := json.Unmarshal(line, &req); err != nil {
		return send(Reply{Done: true, Error: "malformed request"})
	}
	rep := handle(ctx, req, send)
	rep.Done = true
	return send(rep)
}

// sendOutput waits for the client for as long as it is there, also with the exit status behind the output: somebody may
// be reading what is printed, page by page.
func sendOutput(ctx context.Context, c net.Conn, rep Reply) error {
	if err := c.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = c.SetWriteDeadline(time.Now()) // a connection that is closed wakes by itself
	})
	defer func() {
		if !stop() {
			<-woken // or it would cut the next line off, too
		}
	}()
	return writeReply(c, rep)
}
