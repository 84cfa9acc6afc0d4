package snapshotter

import "context"

// Holds reports whether the file at a path has the content that Store or Ingest.Seal has put.
// Errors: fs.ErrNotExist, ErrUnavailable.
func (v *View) Holds(ctx context.Context, path string, stored []byte) (bool, error) {
	f, err := v.tree.s.unseal(stored)
	if err != nil {
		return false, v.fail("compare", path, err)
	}
	e, err := v.stored(ctx, path)
	if err != nil {
		return false, v.fail("compare", path, err)
	}
	if !e.FileInfo.Mode().IsRegular() || e.FileInfo.Size() != f.size || !e.HasObject() {
		return false, nil
	}
	obj, err := v.tree.s.object(e.Object)
	if err != nil {
		return false, v.fail("compare", path, err)
	}
	return obj.ContentMAC == f.obj.ContentMAC, nil
}
