package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"
)

// RemoteError is an answer of the gateway that it could not do what was asked.
type RemoteError struct {
	Msg  string
	Hint string
}

func (e *RemoteError) Error() string { return e.Msg }

// Call sends a request to the gateway that holds dataDir and returns the last line of its
// answer; each, when not nil, is called for the lines before it, and ends the call with
// its error. ErrNoServer means that no gateway runs there; a *RemoteError is its refusal.
func Call(ctx context.Context, dataDir string, req Request, each func(Reply) error) (Reply, error) {
	c, err := dial(ctx, dataDir)
	if err != nil {
		return Reply{}, err
	}
	defer func() { _ = c.Close() }() // nothing is written after the request
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	rep, err := call(c, req, each)
	if ctx.Err() != nil {
		return Reply{}, context.Cause(ctx)
	}
	return rep, err
}

func call(c net.Conn, req Request, each func(Reply) error) (Reply, error) {
	if err := json.NewEncoder(c).Encode(req); err != nil {
		return Reply{}, fmt.Errorf("ask the gateway: %w", err)
	}
	lines := newReplies(c)
	for {
		rep, err := lines.next()
		if errors.Is(err, io.EOF) {
			err = errors.New("it ended before it had answered")
		}
		switch {
		case err != nil:
			return Reply{}, fmt.Errorf("answer of the gateway: %w", err)
		case rep.Done && rep.Error != "":
			return rep, &RemoteError{Msg: rep.Error, Hint: rep.Hint}
		case rep.Done:
			return rep, nil
		case each != nil:
			if err := each(rep); err != nil {
				return Reply{}, err
			}
		}
	}
}

func dial(ctx context.Context, dataDir string) (net.Conn, error) {
	var c net.Conn
	err := reach(dataDir, func(dir string) error {
		var d net.Dialer
		var err error
		c, err = d.DialContext(ctx, "unix", filepath.Join(dir, SocketName))
		return err
	})
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s", ErrNoServer, dataDir)
	}
	return nil, fmt.Errorf("control socket %s: %w", filepath.Join(dataDir, SocketName), err)
}
