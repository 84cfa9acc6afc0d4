//go:build darwin || freebsd

package disk

import "golang.org/x/sys/unix"

func blockSize(st *unix.Statfs_t) uint64 { return uint64(st.Bsize) }

func readOnly(st *unix.Statfs_t) bool { return uint64(st.Flags)&unix.MNT_RDONLY != 0 }
