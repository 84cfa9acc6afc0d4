package proctest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// FTP is what programs need to reach a test gateway over FTP. Plain text is allowed.
type FTP struct {
	Port         int    // plain, and encrypted after AUTH TLS
	ImplicitPort int    // encrypted from the first byte
	Certificate  string // PEM file: the gateway's own, of 127.0.0.1 and localhost
	Key          string // PEM file
}

// Addr is the address of Port, host:port.
func (f *FTP) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(f.Port)) }

func newFTP(tb testing.TB, dir string) *FTP {
	tb.Helper()
	f := &FTP{Port: FreePort(tb), ImplicitPort: FreePort(tb)}
	f.Certificate, f.Key = Certificate(tb, filepath.Join(dir, "ftp"), "localhost", "127.0.0.1")
	return f
}

// config is the configuration's section.
func (f *FTP) config(passive string) string {
	s := fmt.Sprintf("ftp:\n  listen: \"127.0.0.1:%d\"\n  implicit_listen: \"127.0.0.1:%d\"\n"+
		"  tls: { mode: both, required: false, certificate: %q, key: %q }\n", f.Port, f.ImplicitPort, f.Certificate, f.Key)
	if passive != "" {
		s += fmt.Sprintf("  passive_ports: %q\n", passive)
	}
	return s
}

// answers reports whether a port of 127.0.0.1 greets with these bytes.
func answers(ctx context.Context, port int, greeting string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, len(greeting))
	_, err = conn.Read(buf)
	return err == nil && string(buf) == greeting
}
