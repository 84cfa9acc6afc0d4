//go:build !linux

package disk

import "os"

// syncData uses os.File.Sync, which is F_FULLFSYNC on darwin and fsync elsewhere.
func syncData(f *os.File) error { return f.Sync() }

func syncDir(d *os.File) error { return d.Sync() }

func preallocate(*os.File, int64) error { return nil }
