package sshclient

import (
	"bytes"
	"crypto/ed25519"
	"testing"

	"golang.org/x/crypto/ssh"
)

// testAddr is an address of nobody.
type testAddr struct{}

func (testAddr) Network() string { return "tcp" }
func (testAddr) String() string  { return "192.0.2.1:22" }

// testKey is a key that depends on n only.
func testKey(tb testing.TB, n byte) ed25519.PrivateKey {
	tb.Helper()
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func testSigner(tb testing.TB, n byte) ssh.Signer {
	tb.Helper()
	s, err := ssh.NewSignerFromKey(testKey(tb, n))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func testPublicKey(tb testing.TB, n byte) ssh.PublicKey {
	tb.Helper()
	return testSigner(tb, n).PublicKey()
}
