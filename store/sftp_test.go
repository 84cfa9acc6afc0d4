package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/snapgate/gateway/internal/sshclient"
)

// TestDialError has errors of a login: what they are caused by is not passed off as an error of a
// file of the store.
func TestDialError(t *testing.T) {
	for _, tt := range []struct {
		kind  sshclient.Kind
		login bool // that it does not let us in
	}{
		{sshclient.KindAuth, true},
		{sshclient.KindHostKeyUnknown, true},
		{sshclient.KindHostKeyChanged, true},
		{sshclient.KindKey, true},
		{sshclient.KindConfig, true},
		{sshclient.KindDNS, false},
		{sshclient.KindRefused, false},
		{sshclient.KindTimeout, false},
		{sshclient.KindClosed, false},
		{sshclient.KindChroot, false},
		{sshclient.KindOther, false},
	} {
		cause := errors.Join(fs.ErrNotExist, fs.ErrPermission, context.DeadlineExceeded)
		var err error = &dialError{&sshclient.Error{Kind: tt.kind, Hint: "try this", Err: cause}}
		err = fmt.Errorf("get CONFIG: %w", err)
		if got := errors.Is(err, ErrLogin); got != tt.login {
			t.Errorf("%v: ErrLogin %v, want %v", tt.kind, got, tt.login)
		}
		if Hint(err) != "try this" {
			t.Errorf("%v: hint %q", tt.kind, Hint(err))
		}
		for _, hidden := range []error{fs.ErrNotExist, fs.ErrPermission, context.DeadlineExceeded} {
			if errors.Is(err, hidden) {
				t.Errorf("%v passes for: %v", tt.kind, hidden)
			}
		}
	}
}
