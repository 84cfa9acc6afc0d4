package store

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The kinds of locations.
const (
	schemeFS   = "fs"
	schemeS3   = "s3"
	schemeSFTP = "sftp"
)

// location is where a store is.
type location struct {
	scheme   string
	endpoint string // [user@]host[:port], the user of SFTP only; "" for a store on this machine
	path     string // on its machine, absolute; of S3: /bucket or /bucket/prefix
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

// account returns the user, host and port of SFTP; what is not given is zero.
func (l location) account() (user, host string, port int) {
	u, err := url.Parse(l.scheme + "://" + l.endpoint)
	if err != nil {
		return "", "", 0 // parseSFTP has refused it
	}
	port, _ = strconv.Atoi(u.Port()) // "" is none
	return u.User.Username(), u.Hostname(), port
}

// CheckLocation returns what is wrong with a location, nil when nothing is. It does not look
// whether something is there.
func CheckLocation(text string) error {
	var err error
	switch scheme, _, _ := strings.Cut(text, "://"); scheme {
	case schemeS3:
		_, err = parseS3(text)
	case schemeSFTP:
		_, err = parseSFTP(text)
	default:
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
		case schemeS3, schemeSFTP:
			parse := parseS3
			if head == schemeSFTP {
				parse = parseSFTP
			}
			l, err := parse(text)
			if err != nil {
				return location{}, fmt.Errorf("store location: %w", err)
			}
			return l, nil
		default:
			return location{}, fmt.Errorf("store location %q: scheme %q is not available, use fs://, s3:// or sftp://", text, head)
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
	path, err := remotePath(u, errS3)
	if err != nil {
		return location{}, fmt.Errorf("%q: %w", text, err)
	}
	return location{scheme: schemeS3, endpoint: u.Host, path: path}, nil
}

// errSFTP is how locations on SFTP servers look.
var errSFTP = errors.New("want sftp://[user@]host[:port]/path")

// parseSFTP reads sftp://[user@]host[:port]/path, as plakar's connector takes it. What may be a
// password is not repeated in the error.
func parseSFTP(text string) (location, error) {
	u, err := url.Parse(text)
	if err != nil {
		return location{}, errSFTP
	}
	if _, has := u.User.Password(); has {
		return location{}, fmt.Errorf("%w: a password does not belong into it", errSFTP)
	}
	port := u.Port()
	number, err := strconv.ParseUint(port, 10, 16)
	switch {
	case u.RawQuery != "", u.Fragment != "", strings.HasSuffix(text, "?"), strings.HasSuffix(text, "#"):
		return location{}, fmt.Errorf("%q: %w: no ? and #", text, errSFTP)
	case port != "" && (err != nil || number == 0):
		return location{}, fmt.Errorf("%q: %w: the port is 1 to 65535", text, errSFTP)
	}
	path, err := remotePath(u, errSFTP)
	if err != nil {
		return location{}, fmt.Errorf("%q: %w", text, err)
	}
	endpoint := u.Host
	if user := u.User.Username(); user != "" {
		endpoint = u.User.String() + "@" + endpoint
	}
	return location{scheme: schemeSFTP, endpoint: endpoint, path: path}, nil
}

// remotePath returns the path of a location that has a host; otherwise the error is want.
func remotePath(u *url.URL, want error) (string, error) {
	path := strings.TrimSuffix(u.Path, "/")
	elems := strings.Split(path, "/")
	switch {
	case u.Hostname() == "" || len(elems) < 2:
		return "", want
	case slices.ContainsFunc(elems[1:], func(e string) bool { return e == "" || e == "." || e == ".." || strings.ContainsRune(e, 0) }):
		return "", fmt.Errorf("%w: an empty element, . or .. is none of a path", want)
	}
	return path, nil
}
