package hooks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Event is what a hook is told, as JSON. Empty fields are left out.
type Event struct {
	ID       string   `json:"id"`    // random; the same each time that the event is told
	Event    string   `json:"event"` // upload or snapshot
	Time     string   `json:"time"`  // RFC 3339, UTC
	Share    string   `json:"share,omitempty"`
	Path     string   `json:"path,omitempty"`
	PathRaw  []byte   `json:"path_base64,omitempty"` // of a path that is not UTF-8
	User     string   `json:"user,omitempty"`
	Protocol string   `json:"protocol,omitempty"`
	Remote   string   `json:"remote,omitempty"`
	Bytes    *int64   `json:"bytes,omitempty"`
	Hash     string   `json:"hash,omitempty"`
	Snapshot string   `json:"snapshot,omitempty"`
	Changes  int      `json:"changes,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Users    []string `json:"users,omitempty"`
}

// The events.
const (
	Upload   = "upload"   // an upload is complete
	Snapshot = "snapshot" // a snapshot of a share was made
)

// Hook is somebody to be told.
type Hook struct {
	Name   string   // names its state, and it in the log
	Events []string // that it wants; none: all
	Shares []string // whose events it wants; none: all
	// Command is a program and its arguments. There is no shell: nothing of an event is among
	// them. The event is on its standard input. It succeeds with status 0.
	Command []string
	Dir     string // its working directory; "": /
	// URL is where the event is posted to, if there is no Command. Any status of 200 to 299 is
	// a success; redirections are not followed.
	URL string
	// Secret signs what is posted; nil: nothing does.
	Secret  []byte
	Timeout time.Duration // of a command and a request; 30 s
}

// defaultTimeout is long enough for a program that copies a file or sends a mail.
const defaultTimeout = 30 * time.Second

// maxAnswer is how much of an answer is read, for the log.
const maxAnswer = 2 << 10

func (h *Hook) check() error {
	switch {
	case h.Name == "" || strings.ContainsAny(h.Name, "/\x00"):
		return fmt.Errorf("hooks: bad name %q", h.Name)
	case (len(h.Command) == 0) == (h.URL == ""):
		return fmt.Errorf("hooks: %s needs a command or a URL, and not both", h.Name)
	case h.Timeout < 0:
		return fmt.Errorf("hooks: %s has a negative timeout", h.Name)
	}
	return nil
}

// wants reports whether h is to be told of e.
func (h *Hook) wants(e *Event) bool {
	return (len(h.Events) == 0 || slices.Contains(h.Events, e.Event)) &&
		(len(h.Shares) == 0 || slices.Contains(h.Shares, e.Share))
}

// deliver tells h of an event, whose JSON is body.
func (h *Hook) deliver(ctx context.Context, client *http.Client, e *Event, body []byte, now time.Time) error {
	timeout := h.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if len(h.Command) > 0 {
		return h.run(ctx, e, body)
	}
	return h.post(ctx, client, e, body, now)
}

// run runs the command in an environment of its own: that of the gateway may hold secrets.
func (h *Hook) run(ctx context.Context, e *Event, body []byte) error {
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...)
	cmd.Dir = h.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "SNAPGATE_EVENT=" + e.Event}
	cmd.Stdin = bytes.NewReader(body)
	var said head
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second // its children may hold the pipes open
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrWaitDelay): // the command itself has ended well
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errors.New("it took too long")
	case err != nil && said.b.Len() > 0:
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.b.Bytes()))
	}
	return err
}

// post sends the event to a web server.
func (h *Hook) post(ctx context.Context, client *http.Client, e *Event, body []byte, now time.Time) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(now.Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "snapgate")
	req.Header.Set("X-Snapgate-Event", e.Event)
	req.Header.Set("X-Snapgate-Id", e.ID)
	req.Header.Set("X-Snapgate-Timestamp", at)
	if h.Secret != nil {
		req.Header.Set("X-Snapgate-Signature", "sha256="+Sign(h.Secret, at, body))
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	text, rerr := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err := errors.Join(rerr, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

// Sign is the HMAC-SHA256, in hexadecimal digits, of a time stamp, a dot and a body. A server
// compares it in constant time, and refuses time stamps that are minutes old.
func Sign(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write(append([]byte(timestamp+"."), body...)) // never fails
	return hex.EncodeToString(mac.Sum(nil))
}

// head keeps the first bytes of what is written.
type head struct{ b bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	_, _ = h.b.Write(p[:min(len(p), maxAnswer-min(h.b.Len(), maxAnswer))])
	return len(p), nil
}
