package main

import (
	"strings"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/pull"
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
