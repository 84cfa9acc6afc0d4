//go:build !linux

package argon2id

import "runtime/debug"

func allocate(size int) (mem []byte, free func(), err error) {
	return make([]byte, size), debug.FreeOSMemory, nil
}
