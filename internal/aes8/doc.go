// Package aes8 is AES-256 (FIPS 197) on eight blocks at a time, for modes of operation that the
// standard library does not have: its ciphers take one block a call, and AES instructions have a
// latency of four cycles of which two start in each. On amd64 there is a kernel; elsewhere the
// blocks are done one after the other. It knows nobody of the gateway.
package aes8

const (
	// KeySize is the size of a key in bytes.
	KeySize = 32
	// BlockSize is the size of a block in bytes.
	BlockSize = 16
	// Lanes is how many blocks are done at a time.
	Lanes = 8
)
