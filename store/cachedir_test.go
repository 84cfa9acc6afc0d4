package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestRemoveTemp removes a directory in which files are made meanwhile, and does not hide what else goes wrong.
func TestRemoveTemp(t *testing.T) {
	for name, tt := range map[string]struct {
		late int // how often a file is made while the directory is removed
		fail error
		want error
	}{
		"as a rule":       {},
		"files come late": {late: 3},
		"without an end":  {late: removeTries, want: syscall.ENOTEMPTY},
		"not permitted":   {fail: fs.ErrPermission, want: fs.ErrPermission},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			err := removeTemp(dir, func(path string) error {
				switch {
				case tt.fail != nil:
					return tt.fail
				case tt.late > 0:
					tt.late--
					return &fs.PathError{Op: "unlinkat", Path: path, Err: syscall.ENOTEMPTY}
				}
				return os.RemoveAll(path)
			})
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if _, serr := os.Stat(dir); (serr == nil) != (err != nil) {
				t.Errorf("the directory: %v, after %v", serr, err)
			}
		})
	}
}
