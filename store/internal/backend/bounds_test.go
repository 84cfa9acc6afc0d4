package backend_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/store/internal/backend"
)

// strangeS3 is a backend on a server that answers every GET so.
func strangeS3(t *testing.T, answer http.HandlerFunc) *backend.S3 {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	b, err := backend.NewS3(backend.S3Config{
		Endpoint: strings.TrimPrefix(server.URL, "http://"), Bucket: "bucket", Region: "r", AccessKey: "a", SecretKey: "s", NoTLS: true, Retries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestS3WithoutEnd has a server send more than it was asked for, without an end.
func TestS3WithoutEnd(t *testing.T) {
	const limit = 1000
	b := strangeS3(t, func(w http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; {
			_, err = w.Write(make([]byte, 1<<16))
		}
	})
	rd, err := b.Get(t.Context(), backend.ConfigName, 0, limit)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(rd, 2*limit))
	if err = errors.Join(err, rd.Close()); n != limit || err != nil {
		t.Fatalf("%d bytes, want %d; %v", n, limit, err)
	}
	if data, err := backend.GetBytes(t.Context(), b, backend.ConfigName, limit); err == nil {
		t.Errorf("%d bytes and no error", len(data))
	}
}

// TestS3BucketMadeMeanwhile: who makes a bucket is not the only one who does, or was not told that it has.
func TestS3BucketMadeMeanwhile(t *testing.T) {
	for name, tt := range map[string]struct {
		codes []string // that making it is answered with, one after the other
		lists string   // what is in it
		want  error
		says  string
	}{
		"made":                       {},
		"by us":                      {codes: []string{"BucketAlreadyOwnedByYou"}},
		"by us, and has a store":     {codes: []string{"BucketAlreadyOwnedByYou"}, lists: "packfiles/ab/x", want: backend.ErrOrphaned},
		"by us, and has other files": {codes: []string{"BucketAlreadyOwnedByYou"}, lists: "something", says: "something"},
		"is being made":              {codes: []string{"OperationAborted", "BucketAlreadyOwnedByYou"}},
		"by others":                  {codes: []string{"BucketAlreadyExists"}, says: "BucketAlreadyExists"},
	} {
		t.Run(name, func(t *testing.T) {
			var made atomic.Int32
			b := strangeS3(t, func(w http.ResponseWriter, r *http.Request) {
				switch n := int(made.Load()); {
				case r.Method == http.MethodHead:
					w.WriteHeader(http.StatusNotFound)
				case r.Method == http.MethodPut && n < len(tt.codes):
					made.Add(1)
					w.WriteHeader(http.StatusConflict)
					_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code></Error>", tt.codes[n])
				case r.Method == http.MethodGet:
					list := "<ListBucketResult>"
					if tt.lists != "" {
						list += "<Contents><Key>" + tt.lists + "</Key></Contents>"
					}
					_, _ = io.WriteString(w, list+"</ListBucketResult>")
				}
			})
			err := b.Create(t.Context())
			switch {
			case tt.want == nil && tt.says == "" && err != nil, tt.want != nil && !errors.Is(err, tt.want), tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("got %v, want %v %s", err, tt.want, tt.says)
			}
			if n := int(made.Load()); n != len(tt.codes) {
				t.Errorf("%d refusals, want %d", n, len(tt.codes))
			}
		})
	}
}

// TestS3Ranges has servers send other bytes than those that they were asked for: they are not taken for these.
func TestS3Ranges(t *testing.T) {
	const data = "0123456789"
	var asked atomic.Pointer[string]
	for name, tt := range map[string]struct {
		offset       int64
		want         string
		noRanges     bool
		contentRange string
	}{
		"as it should":          {contentRange: "bytes 5-7/10", offset: 5, want: "567"},
		"all of it":             {offset: 5, noRanges: true},
		"another range":         {contentRange: "bytes 0-2/10", offset: 5, noRanges: true},
		"a range that is alike": {contentRange: "bytes 51-53/99", offset: 5, noRanges: true},
		"all, from its start":   {offset: 0, want: "012"},
	} {
		t.Run(name, func(t *testing.T) {
			b := strangeS3(t, func(w http.ResponseWriter, r *http.Request) {
				header := r.Header.Get("Range")
				asked.Store(&header)
				body := data
				if tt.contentRange != "" {
					w.Header().Set("Content-Range", tt.contentRange)
					w.WriteHeader(http.StatusPartialContent)
					body = data[5:8]
				}
				_, _ = io.WriteString(w, body)
			})
			rd, err := b.Get(t.Context(), "packfiles/ab/x", tt.offset, 3)
			if h := fmt.Sprintf("bytes=%d-%d", tt.offset, tt.offset+2); *asked.Load() != h {
				t.Errorf("asked for %s, want %s", *asked.Load(), h)
			}
			if errors.Is(err, backend.ErrNoRanges) != tt.noRanges || !tt.noRanges && err != nil {
				t.Fatalf("%v", err)
			}
			if err != nil {
				return
			}
			defer rd.Close()
			if got, err := io.ReadAll(rd); err != nil || string(got) != tt.want {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// deepSFTP is a server whose directories have a directory each.
type deepSFTP struct {
	*pipeDialer
	name string // of each
}

func (d deepSFTP) Dial(context.Context) (*backend.SFTPLink, error) {
	near, far := net.Pipe()
	server := sftp.NewRequestServer(far, sftp.Handlers{FileList: d})
	d.wg.Go(func() {
		_ = server.Serve() // it ends with the connection
		_ = far.Close()
	})
	client, err := sftp.NewClientPipe(near, near)
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	return &backend.SFTPLink{Client: client, HangUp: near.Close, Heard: func() time.Time { return time.Time{} }}, nil
}

// Filelist implements sftp.FileLister.
func (d deepSFTP) Filelist(*sftp.Request) (sftp.ListerAt, error) { return deepList{d.name}, nil }

type deepList struct{ name string }

// ListAt implements sftp.ListerAt.
func (l deepList) ListAt(to []os.FileInfo, off int64) (int, error) {
	if off > 0 {
		return 0, io.EOF
	}
	to[0] = deepDir(l)
	return 1, io.EOF
}

// deepDir is a directory.
type deepDir struct{ name string }

func (d deepDir) Name() string     { return d.name }
func (deepDir) Size() int64        { return 0 }
func (deepDir) Mode() os.FileMode  { return os.ModeDir | 0o700 }
func (deepDir) ModTime() time.Time { return time.Unix(0, 0) }
func (deepDir) IsDir() bool        { return true }
func (deepDir) Sys() any           { return nil }

// TestSFTPWithoutEnd lists directories without an end, which are none of a store: it goes without them.
func TestSFTPWithoutEnd(t *testing.T) {
	for _, name := range []string{"a", "a/.."} {
		b := backend.NewSFTP(backend.SFTPConfig{Dialer: deepSFTP{newPipeDialer(t), name}, Root: "/store", Token: "token", Retries: 1})
		t.Cleanup(func() { _ = b.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := b.List(ctx, "", func(name string) error { return errors.New(name) }); err != nil {
			t.Errorf("%s: List: %v", name, err)
		}
		if err := b.Sweep(ctx, time.Now()); err != nil {
			t.Errorf("%s: Sweep: %v", name, err)
		}
	}
}

// TestSFTPDeepIsNotVacant makes no store where there is something, however deep it is.
func TestSFTPDeepIsNotVacant(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a/b/c/d/e"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "a/b/c/d/e/f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := backend.NewSFTP(backend.SFTPConfig{Dialer: newPipeDialer(t), Root: root, Token: "token", Retries: 1})
	t.Cleanup(func() { _ = b.Close() })
	var occupied *backend.OccupiedError
	if err := b.Create(t.Context()); !errors.As(err, &occupied) {
		t.Errorf("%v", err)
	}
}

// TestS3ErrorText shows of an answer that is no XML what can be shown.
func TestS3ErrorText(t *testing.T) {
	for _, body := range []string{"\x1b[2Jgone", "\u202egone", strings.Repeat("gone ", 200)} {
		b := strangeS3(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, body)
		})
		_, err := b.Get(t.Context(), backend.ConfigName, 0, 10)
		if err == nil || !strings.Contains(err.Error(), "gone") || len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\x1b\u202e") {
			t.Errorf("%q", err)
		}
	}
}
