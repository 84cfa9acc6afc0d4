package store

import (
	"fmt"
	"path/filepath"
	"strings"
)

// scheme is the only kind of location that can be opened so far.
const scheme = "fs://"

// parseLocation returns the directory that a location names. A location without a scheme
// is a path; a relative path is relative to the working directory.
func parseLocation(location string) (string, error) {
	path := location
	if head, rest, ok := strings.Cut(location, "://"); ok && !strings.Contains(head, "/") {
		if head+"://" != scheme {
			return "", fmt.Errorf("store location %q: scheme %q is not available, use fs://", location, head)
		}
		path = rest
	}
	if path == "" {
		return "", fmt.Errorf("store location %q: no path", location)
	}
	if strings.ContainsRune(path, 0) {
		return "", fmt.Errorf("store location %q: NUL in path", location)
	}
	if strings.HasSuffix(path, ".ptar") {
		// kloset takes such a path for an archive in one file, which cannot be written to.
		return "", fmt.Errorf("store location %q: .ptar archives cannot be written to", location)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("store location %q: %w", location, err)
	}
	return abs, nil
}
