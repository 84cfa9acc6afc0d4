//go:build !amd64 || !gc || purego

package argon2id

func usable() bool { return false }

func fill(dst, prev, ref *byte)    {}
func fillXOR(dst, prev, ref *byte) {}
