package argon2id

import "golang.org/x/sys/unix"

// allocate takes memory from the system, which has it back after free: in large pages where it
// can, as a page fault each 4 KiB would cost a third of the time.
func allocate(size int) (mem []byte, free func(), err error) {
	mem, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // small ones do, too
	return mem, func() { _ = unix.Munmap(mem) }, nil
}
