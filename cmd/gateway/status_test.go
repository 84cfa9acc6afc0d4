package main

import (
	"strings"
	"testing"

	"github.com/snapgate/gateway/vfs"
)

// A share whose uploads wait for commits is not as it should be, and says why.
func TestProblemsOfSlowedShares(t *testing.T) {
	for _, tt := range []struct {
		name string
		st   vfs.ShareStatus
		want string // "" for no problem
	}{
		{"well", vfs.ShareStatus{Name: "main", Changes: 1000}, ""},
		{"slowed down", vfs.ShareStatus{Name: "main", Changes: 1000, Slowed: true}, "share main: uploads are slowed down to the rate of commits: 1000 changes"},
		{"refusing", vfs.ShareStatus{Name: "main", Changes: 1000, Slowed: true, Refusing: true}, "share main: changes are refused: 1000 wait"},
	} {
		got := strings.Join(shareProblems(&tt.st), "; ")
		if !strings.HasPrefix(got, tt.want) || (tt.want == "") != (got == "") {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
