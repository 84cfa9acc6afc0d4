package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A local source that has the gateway's own data in it is warned of, unless that is excluded.
func TestOwnData(t *testing.T) {
	const again = "each run would store what the one before has stored"
	for name, tt := range map[string]struct {
		data, store, location, exclude string // R stands for a directory
		want                           []string
	}{
		"above": {
			data: "R/var/gw", location: "fs://R",
			want: []string{`sources.me: data_dir is in it, and ` + again + `: add exclude: ["/var/gw"]`},
		},
		"by a path":                {data: "R/var/gw", location: "R/var", want: []string{`add exclude: ["/gw"]`}},
		"itself":                   {data: "R/var/gw", location: "R/var/gw", want: []string{"sources.me: it is data_dir: " + again}},
		"its store":                {data: "R/var/gw", location: "R/var/gw/store", want: []string{"it is the store default"}},
		"a store elsewhere":        {data: "R/var/gw", store: "fs://R/st/1", location: "R/st", want: []string{`the store default is in it, and ` + again + `: add exclude: ["/1"]`}},
		"both":                     {data: "R/var/gw", store: "fs://R/st/1", location: "R", want: []string{`data_dir is in it`, `the store default is in it`}},
		"another store":            {data: "R/var/gw", location: "R/more", want: []string{`the store more is in it, and ` + again + `: add exclude: ["/st"]`}},
		"excluded":                 {data: "R/var/gw", location: "R", exclude: "/var/gw, /more/st"},
		"excluded by name":         {data: "R/var/gw", location: "R", exclude: "gw/, st"},
		"excluded above":           {data: "R/var/gw", location: "R", exclude: "/var, /more"},
		"the store alone excluded": {data: "R/var/gw", location: "R/var", exclude: "store", want: []string{`add exclude: ["/gw"]`}},
		"excluded and taken back":  {data: "R/var/gw", location: "R/var", exclude: "/gw, '!gw'", want: []string{`add exclude: ["/gw"]`}},
		"a name that is a pattern": {data: "R/var/a[1]", location: "R/var", want: []string{`add exclude: ["/a\\[1]"]`}},
		"contents excluded":        {data: "R/var/gw", location: "R", exclude: "/var/gw/*, /more/st/**"},
		"some contents excluded":   {data: "R/var/gw", location: "R/var", exclude: "/gw/.*", want: []string{`add exclude: ["/gw"]`}},
		"beside":                   {data: "R/var/gw", location: "R/there"},
		"a longer name":            {data: "R/var/gw", location: "R/var/g"},
		"below":                    {data: "R/var/gw", location: "R/var/gw/ssh"},
		"on a server":              {data: "R/var/gw", location: "sftp://h/"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			store := ""
			if tt.store != "" {
				store = "location: " + tt.store + ","
			}
			text := strings.ReplaceAll(fmt.Sprintf(`version: 1
data_dir: %q
store: { %s plaintext: true }
stores: { more: { location: "fs://R/more/st", plaintext: true } }
sources: { me: { location: %q, exclude: [%s] } }
`, tt.data, store, tt.location, tt.exclude), "R", dir)
			file := filepath.Join(dir, "config.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			warnings := load(t, file).Warnings
			got := strings.Join(warnings, "\n")
			if name == "above" || name == "both" { // the other store is there, too
				tt.want = append(tt.want, "the store more is in it")
			}
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("warnings %q, want %q", got, want)
				}
			}
			if len(warnings) != len(tt.want) {
				t.Errorf("%d warnings, want %d: %q", len(warnings), len(tt.want), warnings)
			}
		})
	}
}
