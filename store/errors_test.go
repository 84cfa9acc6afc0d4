package store_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// indexError looks as an error of SQLite does.
type indexError int

func (e indexError) Error() string { return fmt.Sprintf("index error %d", int(e)) }
func (e indexError) Code() int     { return int(e) }

// A local index that cannot be written, because the disk is full for example, is no damage
// and may work again.
func TestCacheError(t *testing.T) {
	s, err := store.Open(t.Context(), storetest.Config(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	tests := []struct {
		name string
		err  error
		want bool
	}{
		{"no error", nil, false},
		{"another error", errors.New("x"), false},
		{"full database", fmt.Errorf("insert: %w", indexError(13)), true},
		{"no space for shared memory", indexError(4874), true},
		{"read-only database", indexError(8), true},
		{"cannot open", indexError(14), true},
		{"damaged database", indexError(11), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := s.CacheError(tt.err)
			if errors.Is(got, store.ErrUnavailable) != tt.want {
				t.Errorf("CacheError: %v, ErrUnavailable wanted: %v", got, tt.want)
			}
			if !errors.Is(got, tt.err) {
				t.Errorf("CacheError: %v, which has lost %v", got, tt.err)
			}
		})
	}
}
