//go:build stores

package stores

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// s3Domain is what names of buckets are put in front of.
const s3Domain = "s3.test"

// tunnels is an HTTP proxy that leads to one server, whatever host is asked for: only it knows the hosts of s3Domain.
type tunnels struct {
	URL string

	to string // host:port
	mu sync.Mutex
	// hosts are those that were asked for, each once; guarded by mu.
	hosts []string
}

// newTunnels starts the proxy, which ends with the test.
func newTunnels(t *testing.T, to string) *tunnels {
	t.Helper()
	p := &tunnels{to: to}
	server := httptest.NewServer(p)
	p.URL = server.URL
	t.Cleanup(server.Close)
	return p
}

// ServeHTTP implements http.Handler: it answers CONNECT (RFC 9110, section 9.3.6).
func (p *tunnels) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil || r.Method != http.MethodConnect {
		http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	p.mu.Lock()
	if !slices.Contains(p.hosts, host) {
		p.hosts = append(p.hosts, host)
	}
	p.mu.Unlock()
	server, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", p.to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.Close()
	w.WriteHeader(http.StatusOK)
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	var there sync.WaitGroup
	there.Go(func() {
		_, _ = io.Copy(server, buffered) // until either side ends
		_ = server.Close()
	})
	_, _ = io.Copy(client, server)
	_ = client.Close()
	there.Wait()
}

// TestServeBucketInHost has a store whose bucket is part of its server's name, and that name in a certificate that only
// ca_file makes good.
func TestServeBucketInHost(t *testing.T) {
	cert, key := proctest.Certificate(t, filepath.Join(t.TempDir(), "s3"), bucket+"."+s3Domain)
	server := proctest.StartS3(t, "--virtual-domain", s3Domain, "--cert", cert, "--key", key)
	if err := os.Mkdir(filepath.Join(server.Dir, bucket), 0o700); err != nil { // minio-go makes one at the host without it
		t.Fatal(err)
	}
	proxy := newTunnels(t, server.Addr)
	r := newRig(t, server.Addr, func(string) string { return "s3://" + s3Domain + ":8443/" + bucket + "/pre" }, fmt.Sprintf(
		"bucket_in_host: true, ca_file: %q, access_key: %s, secret_key_file: ./secret, retries: 1", cert, server.AccessKey))
	r.server, r.dir = server, filepath.Join(server.Dir, bucket, "pre")
	r.write("secret", server.SecretKey+"\n")
	_, err := r.Start(t.Context(), "HTTPS_PROXY="+proxy.URL, "NO_PROXY=", "no_proxy=")
	r.must(err)
	r.must(r.put("/small", 100))
	r.must(r.put("/parts", 20<<20))
	r.commit()
	r.verify()
	r.must(r.Stop())
	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	if want := []string{bucket + "." + s3Domain}; !slices.Equal(proxy.hosts, want) {
		t.Errorf("requests went to %q, want %q", proxy.hosts, want)
	}
}
