package remote

import (
	"context"
	"strings"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/pull"
)

// elsewhereLimit bounds Elsewhere: two logins, and a round trip for each directory of the path.
const elsewhereLimit = 20 * time.Second

// Elsewhere looks on a server for a directory that a location's path may mean whose own is not there: below where the login
// arrives, as curl and others take paths of FTP (RFC 1738, 3.2.2), or without its beginning, as an account that is
// confined to /srv/jail sees /srv/jail/data as /data. It reports false when there is none, or nobody can tell. Nobody is asked
// for a password.
func Elsewhere(ctx context.Context, r *config.Remote) (pull.Location, bool) {
	l := r.Location
	if l.Scheme == pull.SchemeFS || l.Home {
		return l, false
	}
	ctx, cancel := context.WithTimeout(ctx, elsewhereLimit)
	defer cancel()
	path := l.Path
	l.Home, l.Path = true, strings.TrimPrefix(path, "/")
	if found := below(ctx, r, l, "/"); found != "" {
		return l, true
	}
	l.Home, l.Path = false, "/"
	var shorter []string
	for i, c := range path[1:] {
		if c == '/' {
			shorter = append(shorter, path[1+i:])
		}
	}
	l.Path = below(ctx, r, l, shorter...)
	return l, l.Path != ""
}

// below returns the first of paths below a location that is a directory, "" when none is.
func below(ctx context.Context, r *config.Remote, l pull.Location, paths ...string) string {
	there := *r
	there.Location = l
	server, err := Open(ctx, &there, Options{})
	if err != nil {
		return ""
	}
	defer server.Close()
	for _, path := range paths {
		if e, err := server.Lstat(ctx, path); err == nil && e.Type == pull.Dir {
			return path
		}
		if ctx.Err() != nil {
			break
		}
	}
	return ""
}
