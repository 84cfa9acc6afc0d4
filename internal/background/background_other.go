//go:build !linux

package background

func do(f func()) { f() }
