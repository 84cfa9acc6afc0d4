package vfstest

import "testing"

// A case that is renamed must not stay left out under its old name, for ever unseen.
func TestLeftOutCasesExist(t *testing.T) {
	cases := []testCase{{name: "one"}, {name: "two"}}
	tests := []struct {
		name    string
		leftOut map[string]string
		want    int
	}{
		{"nothing", nil, 0},
		{"a case", map[string]string{"two": "no words for it"}, 0},
		{"no case", map[string]string{"three": "no words for it"}, 1},
		{"no reason", map[string]string{"one": ""}, 1},
		{"neither", map[string]string{"three": ""}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := checkLeftOut(cases, tt.leftOut); len(got) != tt.want {
				t.Errorf("problems: %q, want %d", got, tt.want)
			}
		})
	}
}
