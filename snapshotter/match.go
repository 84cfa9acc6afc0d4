package snapshotter

import (
	"fmt"
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// MatchNames makes the Name of a Query: it matches paths with any of several patterns, nil for none.
// A pattern with a slash is matched with the whole path, another with the name alone; ** stands for
// any directories.
func MatchNames(globs []string, ignoreCase bool) (func(path string) bool, error) {
	if len(globs) == 0 {
		return nil, nil
	}
	var names, paths []string
	for _, g := range globs {
		if g == "" || !doublestar.ValidatePattern(g) {
			return nil, fmt.Errorf("%q: no pattern", g)
		}
		if ignoreCase {
			g = strings.ToLower(g)
		}
		if strings.Contains(g, "/") {
			paths = append(paths, "/"+strings.TrimPrefix(g, "/"))
		} else {
			names = append(names, g)
		}
	}
	return func(p string) bool {
		if ignoreCase {
			p = strings.ToLower(p)
		}
		for _, g := range names {
			if ok, err := doublestar.Match(g, path.Base(p)); ok && err == nil {
				return true
			}
		}
		for _, g := range paths {
			if ok, err := doublestar.Match(g, p); ok && err == nil {
				return true
			}
		}
		return false
	}, nil
}
