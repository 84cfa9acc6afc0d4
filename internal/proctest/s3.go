package proctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// s3Limit is how long the S3 server may take to start.
const s3Limit = 30 * time.Second

// S3 is a real S3 server (bin/versitygw) on a directory of its own. Its methods are for one
// goroutine.
type S3 struct {
	Addr                 string // host:port, the same after a restart
	AccessKey, SecretKey string
	Dir                  string // its buckets are the directories below

	binary string
	args   []string
	cmd    *exec.Cmd
	out    bytes.Buffer
}

// StartS3 starts an S3 server, which ends with the test. The arguments are further ones of
// versitygw.
func StartS3(tb testing.TB, args ...string) *S3 {
	tb.Helper()
	s := &S3{
		Addr:      net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(tb))),
		AccessKey: "test-access", SecretKey: "test-secret-that-nobody-shows",
		Dir: filepath.Join(ShortDir(tb), "s3"), binary: Binary(tb, "versitygw"), args: args,
	}
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Stop(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("the S3 server's log:\n%s", s.out.String())
		}
	})
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// Start starts the server again after Stop.
func (s *S3) Start(ctx context.Context) error {
	args := append([]string{"--port", s.Addr, "--quiet"}, s.args...)
	s.cmd = exec.Command(s.binary, append(args, "posix", s.Dir)...)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("starting the S3 server: %w", err)
	}
	_, err := Wait(ctx, s3Limit, func() bool {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the S3 server: %w", err)
	}
	return nil
}

// Stop kills the server: connections to it are refused from then on.
func (s *S3) Stop() error {
	if s.cmd == nil {
		return nil
	}
	err := s.cmd.Process.Kill()
	if err == nil {
		_ = s.cmd.Wait() // it was killed
	}
	s.cmd = nil
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
