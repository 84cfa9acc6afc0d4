package ftpsrv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/snapgate/gateway/internal/logtest"
	"github.com/snapgate/gateway/vfs"
	"github.com/snapgate/gateway/vfs/vfstest"
)

// TestMain fails when anything that a test started is still there at the end, but for what
// the example's store leaves: kloset's repository cannot be closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, storeLeaves())
}

func storeLeaves() goleak.Option {
	return goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener")
}

// patience bounds waits for something that another goroutine does.
const patience = time.Minute

// password is what a test's users log in with.
const password = "secret"

// fakeAuth lets everybody in who knows the password.
type fakeAuth struct {
	local *vfstest.Local
	delay chan struct{} // Password waits for it or for ctx, when not nil

	mu    sync.Mutex // guards calls
	calls []ConnMeta
}

func (a *fakeAuth) Password(ctx context.Context, m ConnMeta, given []byte) (*vfs.Principal, error) {
	a.mu.Lock()
	a.calls = append(a.calls, m)
	a.mu.Unlock()
	if a.delay != nil {
		select {
		case <-a.delay:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if string(given) != password {
		return nil, errors.New("wrong password")
	}
	return a.local.Principal(m.User), nil
}

// testServer is a server of a share in memory, on a local port. Its users are all who know
// the password; they may do everything.
type testServer struct {
	*Server
	addr     string          // speaks plain text first
	implicit string          // begins with TLS; "" without
	local    *vfstest.Local  // what it serves
	auth     *fakeAuth       // who it lets in
	log      *logtest.Buffer // what it logs, debugging included
	client   *tls.Config     // for its clients; nil without TLS
	stop     func()          // ends Serve's context, and waits
	closed   <-chan struct{} // when Serve has returned
}

// startServer starts a server that ends with the test; then nothing of it may be left.
// Each of changes may set what it likes in the configuration; withTLS is one.
func startServer(tb testing.TB, changes ...func(*Config)) *testServer {
	tb.Helper()
	return startShare(tb, nil, changes...)
}

// startShare is startServer with a share whose settings are changed.
func startShare(tb testing.TB, share func(*vfs.ShareConfig), changes ...func(*Config)) *testServer {
	tb.Helper()
	before := goleak.IgnoreCurrent()
	tb.Cleanup(func() { goleak.VerifyNone(tb, before, storeLeaves()) })
	ts := &testServer{local: vfstest.StartLocal(tb, share), log: &logtest.Buffer{}}
	ts.auth = &fakeAuth{local: ts.local}
	cfg := Config{
		Auth: ts.auth,
		Sessions: func(ctx context.Context, p *vfs.Principal, from vfs.ConnInfo) (*vfs.Session, error) {
			return ts.local.System().Session(ctx, p, from) // another one after a restart
		},
		Logger:       slog.New(slog.NewTextHandler(ts.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		FailureDelay: time.Millisecond,
	}
	for _, change := range changes {
		change(&cfg)
	}
	var err error
	if ts.Server, err = New(cfg); err != nil {
		tb.Fatal(err)
	}
	ts.serve(tb)
	return ts
}

// beside starts another server of the same share, for the same users.
func (ts *testServer) beside(tb testing.TB, changes ...func(*Config)) *testServer {
	tb.Helper()
	return startServer(tb, append(changes, func(c *Config) { c.Sessions, c.Auth = ts.cfg.Sessions, ts.cfg.Auth })...)
}

// serve starts the listeners.
func (ts *testServer) serve(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	start := func(serve func(context.Context, net.Listener) error) string {
		ln := listenLocal(tb)
		served.Go(func() {
			if err := serve(ctx, ln); err != nil {
				tb.Errorf("serve: %v", err)
			}
		})
		return ln.Addr().String()
	}
	ts.addr = start(ts.Serve)
	if ts.cfg.TLS != nil {
		ts.client = ts.clientTLS(tb)
		ts.implicit = start(ts.ServeImplicit)
	}
	closed := make(chan struct{})
	ts.closed = closed
	go func() {
		served.Wait()
		close(closed)
	}()
	ts.stop = func() {
		cancel()
		ts.wantClosed(tb)
	}
	tb.Cleanup(ts.stop)
}

// wantClosed waits until Serve has returned.
func (ts *testServer) wantClosed(tb testing.TB) {
	tb.Helper()
	select {
	case <-ts.closed:
	case <-time.After(patience):
		tb.Error("Serve does not return")
	}
}

func listenLocal(tb testing.TB) net.Listener {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return ln
}

// withTLS gives the server a certificate.
func withTLS(tb testing.TB) func(*Config) {
	tb.Helper()
	cert := newCertificate(tb)
	serving := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	return func(c *Config) { c.TLS = func() *tls.Config { return serving } }
}

// newCertificate makes one for 127.0.0.1.
func newCertificate(tb testing.TB) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// clientTLS are the settings of a client that trusts the server's certificate alone. Each
// client that is dialled gets a session cache of its own.
func (ts *testServer) clientTLS(tb testing.TB) *tls.Config {
	tb.Helper()
	roots := x509.NewCertPool()
	for _, cert := range ts.cfg.TLS().Certificates {
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			tb.Fatal(err)
		}
		roots.AddCert(leaf)
	}
	return &tls.Config{
		RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12,
		CurvePreferences: []tls.CurveID{tls.X25519}, // the cheapest: tests make thousands of handshakes
	}
}

// wantSessionEnd waits until the server has ended the session of a client that was logged
// in, with all that belongs to it.
func (ts *testServer) wantSessionEnd(tb testing.TB, c *client) {
	tb.Helper()
	ts.log.Wait(tb, "remote="+c.raw.LocalAddr().String()+" ", `msg="session ended"`)
}
