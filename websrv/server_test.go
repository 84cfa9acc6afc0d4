package websrv

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/snapgate/gateway/internal/acceptor/acceptortest"
	"github.com/snapgate/gateway/internal/logtest"
)

func TestMain(m *testing.M) {
	// net/http waits for half a second with a connection that it closes while its client may be sending.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"),
		goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener")) // kloset's repository cannot be closed
}

// good is a configuration of a gateway that is well.
func good() Config {
	return Config{
		Healthy: func(context.Context) error { return nil },
		Ready:   func(context.Context) (bool, []string) { return true, nil },
		Logger:  slog.New(slog.DiscardHandler),
	}
}

// serve serves cfg until the test ends and returns the address.
func serve(t *testing.T, cfg Config, change ...func(*Server)) (s *Server, addr string) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(s)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, ln.Addr().String()
}

// ask sends a request with a Host and returns status and body.
func ask(t *testing.T, addr, method, path, host string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func TestPages(t *testing.T) {
	metrics := good()
	metrics.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "m 1\n") })
	ill := good()
	ill.Healthy = func(context.Context) error { return errors.New("the main loop does not answer") }
	ill.Ready = func(context.Context) (bool, []string) {
		return false, []string{"uploads are refused: the spool limit is reached"}
	}
	away := good()
	away.Ready = func(context.Context) (bool, []string) {
		return true, []string{"store: cannot be reached; accepting into the spool"}
	}
	for _, tt := range []struct {
		name         string
		cfg          Config
		method, path string
		status       int
		body         string
	}{
		{"alive", good(), "GET", "/healthz", 200, "ok\n"},
		{"head", good(), "HEAD", "/healthz", 200, ""},
		{"not alive", ill, "GET", "/healthz", 503, "the main loop does not answer\n"},
		{"ready", good(), "GET", "/readyz", 200, "ready\n"},
		{"ready without store", away, "GET", "/readyz", 200, "ready\nstore: cannot be reached; accepting into the spool\n"},
		{"not ready", ill, "GET", "/readyz", 503, "not ready\nuploads are refused: the spool limit is reached\n"},
		{"metrics", metrics, "GET", "/metrics", 200, "m 1\n"},
		{"no metrics", good(), "GET", "/metrics", 404, "404 page not found\n"},
		{"no such page", metrics, "GET", "/", 404, "404 page not found\n"},
		{"no page below", metrics, "GET", "/healthz/x", 404, "404 page not found\n"},
		{"no debugging", metrics, "GET", "/debug/pprof/", 404, "404 page not found\n"},
		{"another method", good(), "POST", "/healthz", 405, "Method Not Allowed\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, addr := serve(t, tt.cfg)
			status, body, header := ask(t, addr, tt.method, tt.path, "")
			if status != tt.status || body != tt.body {
				t.Errorf("got %d %q, want %d %q", status, body, tt.status, tt.body)
			}
			if got := header.Get("X-Content-Type-Options"); got != "nosniff" {
				t.Errorf("X-Content-Type-Options: %q", got)
			}
		})
	}
}

// A name that somebody made to lead here is refused (DNS rebinding).
func TestHosts(t *testing.T) {
	cfg := good()
	cfg.Hosts = []string{"Gateway.example.com"}
	_, addr := serve(t, cfg)
	for host, want := range map[string]int{
		"127.0.0.1:8022":             200,
		"[::1]:8022":                 200,
		"[::1]":                      200,
		"localhost:8022":             200,
		"LOCALHOST":                  200,
		"gateway.example.com":        200,
		"gateway.example.com.:8022":  200,
		"evil.example.com":           421,
		"127.0.0.1.evil.example.com": 421,
		"gateway.example.com.evil":   421,
	} {
		if status, body, _ := ask(t, addr, "GET", "/healthz", host); status != want {
			t.Errorf("Host %s: got %d %q, want %d", host, status, body, want)
		}
	}
}

// raw sends bytes and returns the first line of the answer, "" when there is none.
func raw(t *testing.T, addr, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, request) // may be cut off when it is too long
	line, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line)
}

func TestMalformed(t *testing.T) {
	_, addr := serve(t, good())
	for name, tt := range map[string]struct{ request, want string }{
		"no host":      {"GET /healthz HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request: missing required Host header"},
		"large header": {"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large"},
		"not HTTP":     {"SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	} {
		if got := raw(t, addr, tt.request); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

// Of too many connections those go that idle, and when none does the new one; the others go on.
func TestConnectionLimit(t *testing.T) {
	cfg, asked, answer := good(), make(chan struct{}), make(chan struct{})
	cfg.Ready = func(context.Context) (bool, []string) {
		asked <- struct{}{}
		<-answer
		return true, nil
	}
	var trusted atomic.Bool
	cfg.Proxies = func() (list []netip.Prefix) {
		if trusted.Load() {
			list = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}
		return list
	}
	// However long the machine takes to open them all, the first of the busy ones still has time.
	_, addr := serve(t, cfg, func(s *Server) { s.http.WriteTimeout = 0 })
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ask := func(c net.Conn, page string) bool {
		_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", page)
		return err == nil
	}
	served := func(c net.Conn) bool {
		line, err := bufio.NewReader(c).ReadString('\n')
		return err == nil && strings.Contains(line, "200")
	}
	var busy []chan bool                                 // what tells, once, whether an answer has come
	for _, most := range []int{maxAddrConns, maxConns} { // of an address, and of all
		trusted.Store(most == maxConns)
		for i := range most + 1 {
			await(t, fmt.Sprintf("connection %d", i+1), func() bool { // they idle soon after their answers
				c := dial()
				return ask(c, "/healthz") && served(c)
			})
		}
		for len(busy) < most {
			await(t, fmt.Sprintf("busy connection %d", len(busy)+1), func() bool {
				c, came := dial(), make(chan bool, 1)
				if !ask(c, "/readyz") {
					return false
				}
				go func() { came <- served(c) }()
				select {
				case <-asked:
					busy = append(busy, came)
					return true
				case <-came:
					return false
				}
			})
		}
		if c := dial(); ask(c, "/healthz") && served(c) {
			t.Errorf("connection %d is served, and none idles", most+1)
		}
	}
	close(answer)
	for i, came := range busy {
		if !<-came {
			t.Errorf("busy connection %d was closed", i+1)
		}
	}
}

// A process that has run out of descriptors, or of buffers, serves again when it has some.
func TestAcceptFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(good())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context(), &acceptortest.Failing{Listener: ln}) }()
	if status, body, _ := ask(t, ln.Addr().String(), http.MethodGet, "/healthz", ""); status != http.StatusOK {
		t.Errorf("%d %q", status, body)
	}
	if err := errors.Join(s.Shutdown(t.Context()), <-ended); err != nil {
		t.Error(err)
	}
}

// Shutdown lets an answer end that is under way.
func TestShutdown(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	cfg := good()
	cfg.Ready = func(context.Context) (bool, []string) {
		close(asked)
		<-answer
		return true, nil
	}
	s, addr := serve(t, cfg)
	got := make(chan string, 1)
	go func() { got <- raw(t, addr, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n") }()
	<-asked
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(context.Background()) }()
	close(answer)
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if line := <-got; line != "HTTP/1.1 200 OK" {
		t.Errorf("the answer was %q", line)
	}
}

// With TLS, plain text is refused, and the settings may change between two connections.
func TestTLS(t *testing.T) {
	var log logtest.Buffer
	cfg := good()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	first, second := certificate(t, "first"), certificate(t, "second")
	var now atomic.Pointer[tls.Certificate]
	cfg.TLS = func() *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{*now.Load()}, MinVersion: tls.VersionTLS12}
	}
	_, addr := serve(t, cfg)
	for _, want := range []*tls.Certificate{first, second} {
		now.Store(want)
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().PeerCertificates[0].Subject.CommonName; got != want.Leaf.Subject.CommonName {
			t.Errorf("certificate of %q, want %q", got, want.Leaf.Subject.CommonName)
		}
		_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "200 OK") {
			t.Errorf("got %q, %v", line, err)
		}
		_ = c.Close()
	}
	if got := raw(t, addr, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); !strings.Contains(got, "400") {
		t.Errorf("plain text: got %q", got)
	}
	log.Wait(t, "TLS handshake error")
}

func TestNew(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no health":    func(c *Config) { c.Healthy = nil },
		"no readiness": func(c *Config) { c.Ready = nil },
		"no logger":    func(c *Config) { c.Logger = nil },
	} {
		cfg := good()
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// certificate makes a self-signed certificate for a name.
func certificate(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// deadlines has a time limit for reading.
type deadlines struct {
	*httptest.ResponseRecorder
	off bool
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.off = t.IsZero()
	return nil
}

// body asks, when it is read, whether there is a limit.
type body func() bool

func (b body) Read([]byte) (int, error) {
	if !b() {
		return 0, os.ErrDeadlineExceeded
	}
	return 0, io.EOF
}

// What a client has said it sends has to come in time, also where nobody wants it: net/http waits for
// it before it answers.
func TestBodyComesInTime(t *testing.T) {
	for what, status := range map[string]int{"in time": http.StatusOK, "never": http.StatusBadRequest} {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/login", body(func() bool {
			if w.off {
				t.Errorf("%s: the limit was taken away before the body was read", what)
			}
			return what == "in time"
		}))
		new(viewer).headed(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })(w, r)
		if w.Code != status || w.off != (status == http.StatusOK) {
			t.Errorf("%s: %d, and the limit off is %v", what, w.Code, w.off)
		}
	}
}
