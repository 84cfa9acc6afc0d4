package sshsrv

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/snapgate/gateway/vfs"
)

const (
	// readdirEntries is the most entries in one reply; OpenSSH's server sends 100. At
	// 50 ms round trip it decides how long a directory of 100,000 takes.
	readdirEntries = 1000
	// readdirBytes ends a reply early: what is left of maxPacket holds the longest entry.
	readdirBytes = 200 << 10
	// readdirChunk is how many entries are asked for at a time.
	readdirChunk = 100
)

// dirLister is a directory that is being listed.
type dirLister struct {
	dir  *vfs.Dir
	rest []vfs.Info // read, but not sent yet; "." and ".." at first
	done bool
}

// Close ends the listing.
func (d *dirLister) Close() error { return d.dir.Close() }

// ListAt satisfies sftp.ListerAt for a directory's handle. The shim answers READDIR, so
// that pkg/sftp never calls it.
func (f *openFile) ListAt([]os.FileInfo, int64) (int, error) { return 0, io.EOF }

// openDir opens a directory. A listing starts with "." and "..", as OpenSSH's does.
func (h *handler) openDir(name string) (*dirLister, error) {
	dir, err := h.sess.ReadDir(h.ctx, name)
	if err != nil {
		return nil, err
	}
	l := &dirLister{dir: dir}
	for _, dot := range []string{".", ".."} {
		info, err := h.sess.Stat(h.ctx, name+"/"+dot)
		if err != nil {
			continue // gone meanwhile, or not for this principal to see
		}
		info.Name = dot
		l.rest = append(l.rest, info)
	}
	return l, nil
}

// readDir implements shimOps.
func (h *handler) readDir(ctx context.Context, f *openFile) (_ func(*encoder), err error) {
	defer recovered(h.log, "readdir", &err)
	d := f.dir
	entries := &encoder{}
	count := uint32(0)
	for count < readdirEntries && len(entries.b) < readdirBytes {
		if len(d.rest) == 0 {
			if err := d.fill(ctx); err != nil {
				return nil, report(h.log, h.count, "readdir", f.name, err)
			}
			if len(d.rest) == 0 {
				break
			}
		}
		info := d.rest[0]
		d.rest = d.rest[1:]
		h.names.learn(info)
		entries.string(info.Name).string(longName(info.Name, info, time.Now())).info(info)
		count++
	}
	if count == 0 {
		return nil, io.EOF
	}
	return func(e *encoder) {
		e.uint32(count)
		e.b = append(e.b, entries.b...)
	}, nil
}

// fill reads on; at the end rest stays empty.
func (d *dirLister) fill(ctx context.Context) error {
	if d.done {
		return nil
	}
	infos, err := d.dir.Next(ctx, readdirChunk)
	if errors.Is(err, io.EOF) {
		d.done, err = true, nil
	}
	if err != nil {
		return err
	}
	d.done = d.done || len(infos) == 0
	d.rest = infos
	return nil
}
