package snapshotter

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
)

// Totals are what is in a directory and below it.
type Totals struct {
	Files, Directories, Symlinks, Others uint64 // Others are devices and the like
	Size                                 uint64 // logical bytes
	Errors                               uint64 // paths that could not be captured
}

// Totals returns what the snapshot says of a directory, without reading it; false when it says
// nothing. Errors: fs.ErrNotExist, fs.ErrInvalid for what is no directory, ErrUnavailable.
func (v *View) Totals(ctx context.Context, path string) (Totals, bool, error) {
	e, err := v.stored(ctx, path)
	if err == nil && !e.IsDir() {
		err = errNotDir
	}
	if err != nil {
		return Totals{}, false, v.fail("describe", path, err)
	}
	sum, err := v.summaryOf(path, e)
	if err != nil || sum == nil {
		if err != nil {
			err = v.fail("describe", path, err)
		}
		return Totals{}, false, err
	}
	d, b := &sum.Directory, &sum.Below
	return Totals{
		Files: d.Files + b.Files, Directories: d.Directories + b.Directories, Symlinks: d.Symlinks + b.Symlinks,
		Others: d.Devices + d.Pipes + d.Sockets + b.Devices + b.Pipes + b.Sockets,
		Size:   d.Size + b.Size, Errors: d.Errors + b.Errors,
	}, true, nil
}

// summaryOf returns the summary of a directory, nil when the snapshot has none.
func (v *View) summaryOf(path string, e *storedEntry) (*vfs.Summary, error) {
	if v.summary == (objects.MAC{}) {
		return e.Summary, nil
	}
	s := v.tree.s
	x, err := s.openIndex(v.summary, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, strings.Compare)
	if err != nil {
		return nil, err
	}
	p, err := v.abs(path)
	if err != nil {
		return nil, err
	}
	mac, ok, err := x.Find(p)
	if err != nil {
		return nil, readError("index", err)
	}
	if !ok {
		return e.Summary, nil
	}
	return s.readSummary(mac)
}

// Hash returns the store's own hash of the bytes of a file, 64 hexadecimal digits: within one
// store it is the same for the same bytes and for no others. It is keyed in stores that are
// encrypted, so it is no SHA-256 of them. "" for the zero ID.
func (s *Snapshotter) Hash(ctx context.Context, id ObjectID) (string, error) {
	if id == (ObjectID{}) || ctx.Err() != nil {
		return "", ctx.Err()
	}
	obj, err := s.object(objects.MAC(id))
	if err != nil {
		return "", fmt.Errorf("hash of a file: %w", err)
	}
	return hex.EncodeToString(obj.ContentMAC[:]), nil
}
