//go:build !amd64 || !gc || purego

package aes8

// Usable reports whether there is a kernel.
func Usable() bool { return false }

// kernel is none.
type kernel struct{}

func newKernel([]byte) *kernel { return nil }

func (*kernel) encrypt(_, _, _ []byte) {}
func (*kernel) decrypt(_, _, _ []byte) {}
