package store

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// The kinds of locations.
const (
	schemeFS = "fs"
	schemeS3 = "s3"
)

// location is where a store is.
type location struct {
	scheme   string
	endpoint string // of S3: host, or host:port; "" for a store on this machine
	path     string // on this machine, absolute; of S3: /bucket or /bucket/prefix
}

// String returns the location as plakar takes it.
func (l location) String() string { return l.scheme + "://" + l.endpoint + l.path }

// key is what the location is told from others by, in names of files that are kept.
func (l location) key() string {
	if l.scheme == schemeFS {
		return l.path
	}
	return l.String()
}

// bucket returns the bucket of S3, and the prefix of all names in it.
func (l location) bucket() (bucket, prefix string) {
	bucket, prefix, _ = strings.Cut(strings.TrimPrefix(l.path, "/"), "/")
	return bucket, prefix
}

// CheckLocation returns what is wrong with a location, nil when nothing is. It does not look
// whether something is there.
func CheckLocation(text string) error {
	var err error
	if strings.HasPrefix(text, schemeS3+"://") {
		_, err = parseS3(text)
	} else {
		_, err = parseLocation(text)
	}
	return err
}

// parseLocation reads a location. One without a scheme is a path; a relative path is relative
// to the working directory.
func parseLocation(text string) (location, error) {
	path := text
	if head, rest, ok := strings.Cut(text, "://"); ok && !strings.Contains(head, "/") {
		switch head {
		case schemeFS:
		case schemeS3:
			l, err := parseS3(text)
			if err != nil {
				return location{}, fmt.Errorf("store location: %w", err)
			}
			return l, nil
		default:
			return location{}, fmt.Errorf("store location %q: scheme %q is not available, use fs:// or s3://", text, head)
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

// errS3 is how locations in S3 look.
var errS3 = errors.New("want s3://host[:port]/bucket[/prefix]")

// parseS3 reads s3://host[:port]/bucket[/prefix], as plakar's connector takes it. What may be
// a password is not repeated in the error.
func parseS3(text string) (location, error) {
	u, err := url.Parse(text)
	if err != nil {
		return location{}, errS3
	}
	switch {
	case u.User != nil:
		return location{}, fmt.Errorf("%w: keys do not belong into it", errS3)
	case u.RawQuery != "", u.Fragment != "", strings.HasSuffix(text, "?"), strings.HasSuffix(text, "#"):
		return location{}, fmt.Errorf("%q: %w: no ? and #", text, errS3)
	}
	path := strings.TrimSuffix(u.Path, "/")
	elems := strings.Split(path, "/")
	switch {
	case u.Hostname() == "" || len(elems) < 2:
		return location{}, fmt.Errorf("%q: %w", text, errS3)
	case slices.ContainsFunc(elems[1:], func(e string) bool { return e == "" || e == "." || e == ".." || strings.ContainsRune(e, 0) }):
		return location{}, fmt.Errorf("%q: %w: an empty element, . or .. is none of a path", text, errS3)
	}
	return location{scheme: schemeS3, endpoint: u.Host, path: path}, nil
}
