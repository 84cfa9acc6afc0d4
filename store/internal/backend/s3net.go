package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
)

// dialTimeout is how long to wait for a connection, and again for TLS.
const dialTimeout = 10 * time.Second

// s3Idle is how many connections are kept for the next requests: those of two large files.
const s3Idle = 2 * s3Parts

// s3Transport makes what requests are sent with.
func s3Transport(cfg S3Config) (http.RoundTripper, error) {
	tr, err := minio.DefaultTransport(!cfg.NoTLS)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: min(dialTimeout, cfg.Timeout)}
	tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &movingConn{Conn: conn, timeout: cfg.Timeout}, nil
	}
	tr.TLSHandshakeTimeout = min(dialTimeout, cfg.Timeout)
	tr.ResponseHeaderTimeout = cfg.Timeout
	tr.MaxIdleConnsPerHost = s3Idle
	if cfg.NoTLS {
		return tr, nil
	}
	tr.TLSClientConfig.InsecureSkipVerify = cfg.Insecure //nolint:gosec // as configured
	if len(cfg.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(cfg.CA) {
			return nil, errors.New("no certificate in what the certificates are to be checked with")
		}
		tr.TLSClientConfig.RootCAs = pool
	}
	tr.TLSClientConfig.MinVersion = tls.VersionTLS12
	return tr, nil
}

// movingConn fails when nothing moves for a while. Time begins anew with every write and
// read: a connection that is kept for the next request is not used up by waiting for it.
type movingConn struct {
	net.Conn
	timeout time.Duration
}

func (c *movingConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *movingConn) Write(p []byte) (int, error) {
	// Both: net/http reads all the time, so what it began before this must not end the
	// wait for the answer.
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
