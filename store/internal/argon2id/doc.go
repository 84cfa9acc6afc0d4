// Package argon2id is Argon2id (RFC 9106) for one lane, as keys of stores are derived: the same
// keys as golang.org/x/crypto/argon2 makes, in less than half of the time where the processor has
// AVX2, and in memory that the process has no longer when it is done. Every command of the gateway
// waits for it.
package argon2id
