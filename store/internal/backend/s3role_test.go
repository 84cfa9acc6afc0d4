package backend

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Credentials of a role come from the machine, are used for requests, and are asked for again when
// they end. Without the machine's word there is an error, and no request without a name.
func TestS3Role(t *testing.T) {
	for _, name := range []string{
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "who I am")
	var mu sync.Mutex // guards what follows
	given := 0
	away := false
	var names []string
	role := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if away || r.Header.Get("Authorization") != "who I am" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		given++
		_, _ = fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":"KEY%d","SecretAccessKey":"secret","Token":"token","Expiration":%q}`,
			given, time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)) // it is over at once
	}))
	defer role.Close()
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.URL+"/creds")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, key, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		key, _, _ = strings.Cut(key, "/")
		names = append(names, key+" "+r.Header.Get("X-Amz-Security-Token"))
		w.Header().Set("Content-Length", "4")
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"e"`)
		_, _ = io.WriteString(w, "text")
	}))
	defer server.Close()
	s, err := NewS3(S3Config{
		Endpoint: strings.TrimPrefix(server.URL, "http://"), Bucket: "bucket", Region: "us-east-1", NoTLS: true, Role: true, Retries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Stat(t.Context(), "packfiles/00/x"); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	got := strings.Join(names, ", ")
	away, names = true, nil
	mu.Unlock()
	if got != "KEY1 token, KEY2 token" {
		t.Errorf("requests with %s", got)
	}
	_, err = s.Stat(t.Context(), "packfiles/00/x")
	mu.Lock()
	defer mu.Unlock()
	if err == nil || errors.Is(err, ErrCredentials) || len(names) > 0 {
		t.Errorf("without credentials: %v, requests with %v", err, names)
	}
}
