package proctest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// S3 is a real S3 server (bin/versitygw) on a directory of its own. Its methods are for one
// goroutine.
type S3 struct {
	daemon
	AccessKey, SecretKey string
	Dir                  string // its buckets are the directories below
}

// StartS3 starts an S3 server, which ends with the test. The arguments are further ones of
// versitygw.
func StartS3(tb testing.TB, args ...string) *S3 {
	tb.Helper()
	s := &S3{
		daemon:    daemon{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(tb))), name: "the S3 server"},
		AccessKey: "test-access", SecretKey: "test-secret-that-nobody-shows",
		Dir: filepath.Join(ShortDir(tb), "s3"),
	}
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	binary := Binary(tb, "versitygw")
	args = append(append([]string{"--port", s.Addr, "--quiet"}, args...), "posix", s.Dir)
	s.command = func() *exec.Cmd {
		cmd := exec.Command(binary, args...)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
		return cmd
	}
	s.begin(tb)
	return s
}
