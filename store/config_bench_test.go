package store

import (
	"testing"

	"github.com/PlakarKorp/kloset/encryption"
)

// BenchmarkDeriveKey derives the key of a new store, in memory that the system has to give first.
func BenchmarkDeriveKey(b *testing.B) {
	p := encryption.NewDefaultConfiguration().KDFParams
	p.Argon2idParams.Threads = argonLanes
	for b.Loop() {
		if _, err := deriveKey(&p, []byte("correct horse battery staple")); err != nil {
			b.Fatal(err)
		}
	}
}
