//go:build gc && !purego

package argon2id

import "golang.org/x/sys/cpu"

func usable() bool { return cpu.X86.HasAVX2 }

// fill is the compression function G (RFC 9106 section 3.5) of two blocks. dst is neither of
// them.
//
//go:noescape
func fill(dst, prev, ref *byte)

// fillXOR is fill XOR what dst has.
//
//go:noescape
func fillXOR(dst, prev, ref *byte)
