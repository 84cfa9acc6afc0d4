package storetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/store"
)

// S3Server is as much of an S3 server in this process as stores need whose files are below 16 MiB. It checks no
// signatures. Its objects are in memory. It ends with the test. Safe for concurrent use.
type S3Server struct {
	addr string

	mu      sync.Mutex
	objects map[string][]byte // guarded by mu: by name in the store
	busy    map[string]bool   // guarded by mu
	refused int               // guarded by mu
}

// s3Bucket is where the store is.
const s3Bucket = "bucket"

// ServeS3 starts a server.
func ServeS3(tb testing.TB) *S3Server {
	tb.Helper()
	s := &S3Server{objects: make(map[string][]byte)}
	srv := httptest.NewServer(s)
	tb.Cleanup(srv.Close)
	s.addr = srv.Listener.Addr().String()
	return s
}

// Use is an option of New: the store is on the server. A request is repeated once.
func (s *S3Server) Use(cfg *store.Config) {
	cfg.Location = "s3://" + s.addr + "/" + s3Bucket
	cfg.S3 = store.S3{
		AccessKey: "user", SecretKey: func(context.Context) ([]byte, error) { return []byte("secret"), nil },
		Region: "us-east-1", NoTLS: true, Retries: 1,
	}
}

// Files lists the files of the store below a directory of it, in order.
func (s *S3Server) Files(dir string) (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.objects {
		if strings.HasPrefix(name, dir+"/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Size returns the size of a file of the store in bytes.
func (s *S3Server) Size(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.objects[name]))
}

// Busy names the files of the store that it has and does not give: it answers 503 for them, as a server of several disks does
// for what is on those that are away.
func (s *S3Server) Busy(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = make(map[string]bool)
	for _, name := range names {
		s.busy[name] = true
	}
}

// Refused returns how many requests for files it has answered with 503.
func (s *S3Server) Refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// ServeHTTP implements http.Handler.
func (s *S3Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, "/"+s3Bucket+"/")
	switch {
	case !ok || name == "":
		s.bucket(w, r)
	case r.Method == http.MethodPut:
		s.put(w, r, name)
	case r.Method == http.MethodDelete:
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.objects, name)
		w.WriteHeader(http.StatusNoContent)
	default:
		s.get(w, r, name)
	}
}

// bucket answers requests for the bucket, which is there.
func (s *S3Server) bucket(w http.ResponseWriter, r *http.Request) {
	type content struct {
		Key          string
		Size         int
		LastModified string
	}
	var list struct {
		XMLName  xml.Name `xml:"ListBucketResult"`
		Contents []content
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.objects)) {
		if strings.HasPrefix(name, r.URL.Query().Get("prefix")) {
			list.Contents = append(list.Contents, content{name, len(s.objects[name]), time.Unix(1e9, 0).UTC().Format(time.RFC3339)})
		}
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(list) // whoever asked may have gone
}

func (s *S3Server) put(w http.ResponseWriter, r *http.Request, name string) {
	data, err := io.ReadAll(r.Body)
	if err == nil && strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		data, err = unchunked(data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[name] = data
	w.Header().Set("Etag", `"0"`)
}

// unchunked takes the signatures out of a body that is signed in chunks: size in hex, ";chunk-signature=…", a line
// break, the bytes, and another one.
func unchunked(body []byte) (data []byte, err error) {
	rd := bufio.NewReader(bytes.NewReader(body))
	for {
		line, err := rd.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseInt(size, 16, 32)
		if err != nil || n == 0 {
			return data, err
		}
		chunk := make([]byte, n+2)
		if _, err := io.ReadFull(rd, chunk); err != nil {
			return nil, err
		}
		data = append(data, chunk[:n]...)
	}
}

func (s *S3Server) get(w http.ResponseWriter, r *http.Request, name string) {
	s.mu.Lock()
	data, ok := s.objects[name]
	busy := s.busy[name]
	if busy {
		s.refused++
	}
	s.mu.Unlock()
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case busy:
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		w.Header().Set("Etag", `"0"`)
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(data))
	}
}
