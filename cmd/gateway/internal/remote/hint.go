package remote

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"syscall"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
)

// Hint says what to try about an error of a remote, "" when nothing is known that the error
// does not say.
func Hint(r *config.Remote, err error) string {
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
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
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
	case errors.Is(err, pull.ErrDataConnection):
		return "does a firewall let the server's passive ports through?"
	case e.Kind == pull.KindConnection && e.Op == "connect":
		return "is the server up, and does a firewall let this machine through?"
	case e.Kind == pull.KindNotFound:
		return "does the location's path exist, as the account sees it?"
	case e.Kind == pull.KindPermission:
		return "may the account read the directory of the location?"
	}
	return ""
}
