package hooks

import (
	"crypto/hmac"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/logtest"
)

// script makes a program of sh.
func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// A command gets the event on its standard input and nothing of the gateway's environment;
// what a client has put into a name is never part of a command line.
func TestCommand(t *testing.T) {
	t.Setenv("PASSPHRASE", "secret")
	out := filepath.Join(t.TempDir(), "out")
	h := Hook{Name: "x", Command: []string{script(t, `{ cat; env; pwd; echo "args: $*"; } > "$1.new" && mv "$1.new" "$1"`), out, "$(id)"}}
	q := open(t, t.TempDir(), &logtest.Buffer{}, func(c *Config) { c.Hooks = []Hook{h} })
	stop := serve(q)
	defer stop()
	evil := "/$(touch pwned); `id`\n'\xff"
	add(t, q, evil)
	idle(t, q)
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	var e Event
	if err := dec.Decode(&e); err != nil || string(e.PathRaw) != evil || e.Event != Upload || len(e.ID) != 32 {
		t.Errorf("event %+v, %v", e, err)
	}
	for _, want := range []string{"SNAPGATE_EVENT=upload\n", "args: " + out + " $(id)\n", "\n/\n"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %q in:\n%s", want, data)
		}
	}
	if strings.Contains(string(data), "PASSPHRASE") {
		t.Errorf("the gateway's environment is there:\n%s", data)
	}
}

func TestCommandFails(t *testing.T) {
	for name, tt := range map[string]struct {
		text, want string
		timeout    time.Duration
	}{
		"status":   {"cat >/dev/null; echo no disk >&2; exit 7", "exit status 7: no disk", 0},
		"too long": {"exec tail -f /dev/null", "it took too long", 50 * time.Millisecond},
		"chatty":   {"cat >/dev/null; head -c 100000 /dev/zero | tr '\\0' x; exit 1", "exit status 1: " + strings.Repeat("x", maxAnswer), 0},
	} {
		h := Hook{Name: "x", Command: []string{script(t, tt.text)}, Timeout: tt.timeout}
		err := h.deliver(t.Context(), nil, &Event{}, []byte("{}"), time.Now())
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
	// A command that reads nothing and one that leaves somebody behind have done their work.
	for name, text := range map[string]string{"reads nothing": "exit 0", "leaves a child": "tail -f /dev/null & echo $! > \"$0.pid\"; exit 0"} {
		file := script(t, text)
		h := Hook{Name: "x", Command: []string{file}}
		if err := h.deliver(t.Context(), nil, &Event{}, []byte("{}"), time.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if pid, err := os.ReadFile(file + ".pid"); err == nil {
			kill := Hook{Name: "x", Command: []string{"/bin/sh", "-c", "kill $1", "sh", strings.TrimSpace(string(pid))}}
			if err := kill.deliver(t.Context(), nil, &Event{}, nil, time.Now()); err != nil {
				t.Error(err)
			}
		}
	}
}

// What is posted is signed, with the time; a redirection is no success.
func TestPost(t *testing.T) {
	secret, now := []byte("key"), time.Unix(1795287869, 0)
	var elsewhere bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/elsewhere":
			elsewhere = true
		case "/redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		default:
			want := "sha256=" + Sign(secret, "1795287869", body)
			if got := r.Header.Get("X-Snapgate-Signature"); !hmac.Equal([]byte(got), []byte(want)) || r.Header.Get("X-Snapgate-Timestamp") != "1795287869" {
				t.Errorf("signature %q of %q, want %q", got, r.Header.Get("X-Snapgate-Timestamp"), want)
			}
			if r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || string(body) != `{"a":1}` {
				t.Errorf("%s %v %q", r.Method, r.Header, body)
			}
		}
	}))
	defer srv.Close()
	q := open(t, t.TempDir(), &logtest.Buffer{}, func(c *Config) { c.Client = nil })
	defer q.cfg.Client.CloseIdleConnections()
	h := Hook{Name: "x", URL: srv.URL + "/ok", Secret: secret}
	if err := h.deliver(t.Context(), q.cfg.Client, &Event{}, []byte(`{"a":1}`), now); err != nil {
		t.Error(err)
	}
	h.URL = srv.URL + "/redirect"
	if err := h.deliver(t.Context(), q.cfg.Client, &Event{}, []byte(`{"a":1}`), now); err == nil || elsewhere {
		t.Errorf("redirection: error %v, followed %v", err, elsewhere)
	}
}

// The signature is what others compute: printf 1.body | openssl dgst -sha256 -hmac key
func TestSign(t *testing.T) {
	got, want := Sign([]byte("key"), "1", []byte("body")), "91b5374b153842ad05b2c4eab9349b8321b14703165bd3fb8b034dfb8be98ae5"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
