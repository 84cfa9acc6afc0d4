package remote

import (
	"context"
	"strings"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/pull"
)

// elsewhereLimit bounds Elsewhere: a login, and a round trip for each directory of the path.
const elsewhereLimit = 20 * time.Second

// Elsewhere looks on a server for a directory that a location's path may mean whose own is not there: an account
// that is confined to /srv/jail sees /srv/jail/data as /data. It returns "" when there is none, or nobody can tell.
// Nobody is asked for a password.
func Elsewhere(ctx context.Context, r *config.Remote) string {
	if r.Location.Scheme == pull.SchemeFS || r.Location.Home {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, elsewhereLimit)
	defer cancel()
	top := *r
	top.Location.Path = "/"
	server, err := Open(ctx, &top, Options{})
	if err != nil {
		return ""
	}
	defer server.Close()
	for path := r.Location.Path; ; {
		_, below, more := strings.Cut(path[1:], "/")
		if !more || ctx.Err() != nil {
			return ""
		}
		path = "/" + below
		if e, err := server.Lstat(ctx, path); err == nil && e.Type == pull.Dir {
			return path
		}
	}
}
