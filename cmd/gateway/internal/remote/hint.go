package remote

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
)

// Hint says what to try about an error of a remote, "" when nothing is known that the error
// does not say. Each line is a hint of its own.
func Hint(r *config.Remote, err error) string {
	lines := []string{hintOf(r, err)}
	var e *pull.Error
	if errors.As(err, &e) {
		missing := e.Kind == pull.KindNotFound
		if missing || e.Op == "connect" && errors.Is(err, syscall.ECONNREFUSED) {
			lines = append(lines, portHint(r.Location))
		}
		if missing {
			lines = append(lines, pathHint(r.Location))
		}
	}
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return l == "" }), "\n")
}

// portHint says where the port stands, when the location's path ends as if it had one. A path may end so.
func portHint(l pull.Location) string {
	i := strings.LastIndexByte(l.Path, ':')
	if i < 0 || l.Scheme == pull.SchemeFS || l.Port != 0 {
		return ""
	}
	port, err := strconv.ParseUint(l.Path[i+1:], 10, 16)
	if err != nil || port == 0 {
		return ""
	}
	l.Port, l.Alias, l.Path = int(port), false, l.Path[:i]
	return fmt.Sprintf("if %d is meant as the port, write it behind the host: %s", port, l)
}

// pathHint says what may be wrong with a path that is not there, from how it is written.
func pathHint(l pull.Location) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(l.Path, "/"), "/")
	switch {
	case l.Path != strings.TrimSpace(l.Path):
		return "the path begins or ends with a space"
	case l.Scheme == pull.SchemeFS:
		return ""
	case !l.Home && strings.HasPrefix(first, "~"):
		return "~ has no meaning there: /~/path begins where the login arrives; of other users write the whole path"
	case strings.Contains(l.Path, `\`):
		return `names are separated by /: is a \ in the path meant so?`
	case strings.Contains(l.Path, "/$"):
		return "variables have no meaning in a location"
	}
	return ""
}

// hintOf is what Hint says of the kind of the error.
func hintOf(r *config.Remote, err error) string {
	if hint := sshclient.HintOf(err); hint != "" {
		return hint
	}
	var e *pull.Error
	var cert *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	var dns *net.DNSError
	ftp := r.Location.Scheme == pull.SchemeFTP || r.Location.Scheme == pull.SchemeFTPS
	switch {
	case errors.Is(err, ErrNoPassword):
		return "set password_file or password_env"
	case errors.As(err, &cert):
		return "the server's certificate is not of an authority that this machine knows, or of another name: name its authority with ca_file"
	case !errors.As(err, &e):
		return ""
	case errors.As(err, &plain) && r.TLS == config.TLSImplicit:
		return "the server does not begin with TLS on that port: ftp:// is for TLS after AUTH TLS"
	case e.Op == "log in" && r.TLS == config.TLSOff && e.Err != nil && strings.Contains(e.Err.Error(), "TLS"):
		return "the server wants TLS: leave tls at explicit"
	case disk.IsFull(err):
		return "the disk of the location is full: make room there"
	case errors.Is(err, syscall.EROFS):
		return "the file system of the location is read-only: mount it for writing, or choose another place"
	case e.Op == "log in" && e.Kind != pull.KindConnection:
		return "are username and password right, and may the account log in from here?"
	case ftp && e.Op == "connect" && e.Kind == pull.KindUnsupported:
		return "the server has no TLS; only with tls: off, which sends the password in plain text, it can be reached"
	case ftp && e.Op == "connect" && e.Kind == pull.KindProtocol:
		return "is it the right port, and an FTP server that listens there? a server with TLS from the first byte needs ftps://"
	case ftp && e.Op == "connect" && errors.As(err, &dns) && !dns.Timeout():
		return "is the name spelled right?"
	case ftp && e.Op == "connect" && errors.Is(err, syscall.ECONNREFUSED):
		return "does the FTP server run, and on that port?"
	case errors.Is(err, pull.ErrSilent):
		return "the server is there and stands still: is it overloaded? timeout says how long it may"
	case errors.Is(err, pull.ErrDataConnection):
		return "does a firewall let the server's passive ports through?"
	case e.Kind == pull.KindConnection && e.Op == "connect":
		return "is the server up, and does a firewall let this machine through?"
	case e.Kind == pull.KindNotFound:
		return "does the location's path exist, as the account sees it?"
	case e.Op == "make" && (e.Kind == pull.KindPermission || ftp && e.Kind == pull.KindOther): // some servers say no more
		return "may the account write there?"
	case e.Kind == pull.KindPermission:
		return "may the account read the directory of the location?"
	}
	return ""
}
