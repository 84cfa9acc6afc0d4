package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/store"
)

// A directory of which nothing can be seen is named, also a local one.
func TestPullErrorNamesTheRoot(t *testing.T) {
	for _, location := range []string{"fs:///srv/www", "sftp://h/srv/www"} {
		src, _, err := config.AdHoc(t.TempDir(), map[string]any{"location": location})
		if err != nil {
			t.Fatal(err)
		}
		err = pullError(t.Context(), &src.Remote, &pull.Error{Op: "list", Path: "/", Kind: pull.KindPermission})
		if want := location + ": list /: permission denied"; err.Error() != want || !strings.Contains(hintFor(err), "may the account read") {
			t.Errorf("%v, hint %q, want %s", err, hintFor(err), want)
		}
	}
}

// What the SSH client says of the server of the store is not said of the source's.
func TestPullErrorOfTheStore(t *testing.T) {
	src, _, err := config.AdHoc(t.TempDir(), map[string]any{"location": "sftp://web1/srv/www"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind  sshclient.Kind
		login bool
	}{{sshclient.KindChroot, false}, {sshclient.KindRefused, false}, {sshclient.KindAuth, true}} {
		ssh := &sshclient.Error{Host: "nas", Kind: tt.kind, Hint: "of the SSH client"}
		cause := error(ssh)
		if tt.login {
			cause = fmt.Errorf("%w: %w", store.ErrLogin, ssh)
		}
		err := pullError(t.Context(), &src.Remote, fmt.Errorf("commit: %w", store.Unavailable("list states", cause)))
		want := "commit: list states: store unavailable: " + cause.Error()
		if err.Error() != want || hintFor(err) != ssh.Hint || worthRetrying(err) == tt.login {
			t.Errorf("%v: got %q, hint %q, retry %v, want %q", tt.kind, err, hintFor(err), worthRetrying(err), want)
		}
	}
}
