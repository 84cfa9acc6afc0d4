package snapshotter

import (
	"errors"
	"testing"

	"github.com/snapgate/gateway/store"
)

// TestGiveUpUntold: nothing is given up while it is not known what there is: the state of a snapshot, say, may be damaged.
func TestGiveUpUntold(t *testing.T) {
	state, packfile := ledgerKey{kind: ledgerState}, ledgerKey{kind: ledgerPackfile}
	for name, tc := range map[string]struct {
		r    scrubbing
		want error
	}{
		"packfile":            {scrubbing{ledger: &ledger{}, damage: map[ledgerKey]*Damage{packfile: {}}}, nil},
		"state":               {scrubbing{ledger: &ledger{}, damage: map[ledgerKey]*Damage{state: {}}}, store.ErrDamaged},
		"configuration":       {scrubbing{ledger: &ledger{}, damage: map[ledgerKey]*Damage{configKey(): {}}}, store.ErrDamaged},
		"state, not named":    {scrubbing{ledger: &ledger{at: map[ledgerKey]ledgerEntry{state: {when: suspect}}}}, store.ErrDamaged},
		"packfile, not named": {scrubbing{ledger: &ledger{at: map[ledgerKey]ledgerEntry{packfile: {when: suspect}}}}, nil},
		"something":           {scrubbing{ledger: &ledger{}, more: true}, ErrUnread},
	} {
		if err := tc.r.toldWhole(t.Context()); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}
