//go:build crash

package crash

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// ftpScript serves a directory with pyftpdlib, which shows modes, times to the second, and names as they are. It leaves
// out symbolic links that lead nowhere.
const ftpScript = `
import logging, sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.ioloop import AsyncChat
from pyftpdlib.servers import FTPServer
logging.disable(logging.CRITICAL)
directory, password, port, perm = sys.argv[1:]

class Handler(FTPHandler):
    authorizer, use_gmt_times, unicode_errors = DummyAuthorizer(), True, 'surrogateescape'
    def push(self, s): # which its own does not do for names that are not UTF-8
        AsyncChat.push(self, s.encode('utf8', self.unicode_errors))

Handler.authorizer.add_user('alice', open(password).read().strip(), directory, perm=perm)
FTPServer(('127.0.0.1', int(port)), Handler).serve_forever()
`

// ftpd is an FTP server without TLS.
type ftpd struct {
	location string // of its directory
	password string // file
}

// What a client of ftpd may do, in pyftpdlib's letters.
const (
	ftpReads  = "elr"
	ftpWrites = "elradfmwMT"
)

// startFTPD serves tree over FTP to a client that may do what perm says; dir is for its files.
func startFTPD(t *testing.T, dir, tree, perm string) ftpd {
	t.Helper()
	port := proctest.FreePort(t)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	f := ftpd{location: fmt.Sprintf("ftp://alice@%s/", addr), password: filepath.Join(dir, "ftp-password")}
	if err := os.WriteFile(f.password, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	proctest.StartServer(t, "pyftpdlib", addr, exec.Command("/usr/bin/python3", "-c", ftpScript, tree, f.password, strconv.Itoa(port), perm))
	return f
}
