package store

import (
	"fmt"
	"path/filepath"
	"strings"
)

// The kinds of locations.
const schemeFS = "fs"

// location is where a store is.
type location struct {
	scheme   string
	endpoint string // host and port of one that is elsewhere
	path     string // on this machine, absolute
}

// String returns the location as plakar takes it.
func (l location) String() string { return l.scheme + "://" + l.endpoint + l.path }

// key is what the location is told from others by, in names of files that are kept.
func (l location) key() string { return l.path }

// parseLocation reads a location. One without a scheme is a path; a relative path is relative
// to the working directory.
func parseLocation(text string) (location, error) {
	path := text
	if head, rest, ok := strings.Cut(text, "://"); ok && !strings.Contains(head, "/") {
		if head != schemeFS {
			return location{}, fmt.Errorf("store location %q: scheme %q is not available, use fs://", text, head)
		}
		path = rest
	}
	if path == "" {
		return location{}, fmt.Errorf("store location %q: no path", text)
	}
	if strings.ContainsRune(path, 0) {
		return location{}, fmt.Errorf("store location %q: NUL in path", text)
	}
	if strings.HasSuffix(path, ".ptar") {
		// kloset takes such a path for an archive in one file, which cannot be written to.
		return location{}, fmt.Errorf("store location %q: .ptar archives cannot be written to", text)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return location{}, fmt.Errorf("store location %q: %w", text, err)
	}
	return location{scheme: schemeFS, path: abs}, nil
}
