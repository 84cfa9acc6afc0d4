package vfstest

import (
	"context"
	"errors"
	"io"

	"github.com/snapgate/gateway/vfs"
)

// listPage is how many entries a Client of a Session asks for at once: few enough that
// listings of the suite take several pages.
const listPage = 100

// SessionClient is a Client that calls a Session directly. ctx is what every call gets.
func SessionClient(ctx context.Context, s *vfs.Session) Client { return sessionClient{ctx, s} }

// sessionClient keeps a context because Client, as the client libraries, takes none.
type sessionClient struct {
	ctx context.Context
	s   *vfs.Session
}

func (c sessionClient) Open(path string, flag vfs.OpenFlag) (File, error) {
	f, err := c.s.Open(c.ctx, path, flag, vfs.AttrSet{})
	if err != nil {
		return nil, err
	}
	return sessionFile{f, c.ctx}, nil
}

func (c sessionClient) Remove(path string) error { return c.s.Remove(c.ctx, path) }
func (c sessionClient) Rename(from, to string, replace bool) error {
	return c.s.Rename(c.ctx, from, to, replace)
}
func (c sessionClient) SetAttr(path string, set vfs.AttrSet) error {
	return c.s.SetAttr(c.ctx, path, set, true)
}
func (c sessionClient) Mkdir(path string) error              { return c.s.Mkdir(c.ctx, path, vfs.AttrSet{}) }
func (c sessionClient) Rmdir(path string) error              { return c.s.Rmdir(c.ctx, path) }
func (c sessionClient) Stat(path string) (vfs.Info, error)   { return c.s.Stat(c.ctx, path) }
func (c sessionClient) Lstat(path string) (vfs.Info, error)  { return c.s.Lstat(c.ctx, path) }
func (c sessionClient) Symlink(target, path string) error    { return c.s.Symlink(c.ctx, target, path) }
func (c sessionClient) Readlink(path string) (string, error) { return c.s.Readlink(c.ctx, path) }
func (c sessionClient) Link(from, to string) error           { return c.s.Link(c.ctx, from, to) }
func (c sessionClient) RealPath(path string) (string, error) { return c.s.RealPath(c.ctx, path) }
func (c sessionClient) Drop() error                          { return c.s.Close() }

func (c sessionClient) List(path string) (infos []vfs.Info, err error) {
	d, err := c.s.ReadDir(c.ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for {
		page, err := d.Next(c.ctx, listPage)
		infos = append(infos, page...)
		switch {
		case errors.Is(err, io.EOF):
			return infos, nil
		case err != nil:
			return infos, err
		}
	}
}

type sessionFile struct {
	*vfs.File
	ctx context.Context
}

func (f sessionFile) Stat() (vfs.Info, error)       { return f.File.Stat(f.ctx) }
func (f sessionFile) SetAttr(set vfs.AttrSet) error { return f.File.SetAttr(f.ctx, set) }
