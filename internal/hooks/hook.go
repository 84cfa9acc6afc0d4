package hooks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Event is what a hook is told, as JSON. Empty fields are left out.
type Event struct {
	ID       string   `json:"id"`    // the same each time that the event is told; random when none is set
	Event    string   `json:"event"` // one of the events below
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
	Files    uint64   `json:"files,omitempty"` // in the snapshot

	// Of an alarm.
	Kind    string `json:"kind,omitempty"`
	Subject string `json:"subject,omitempty"`
	Text    string `json:"text,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Since   string `json:"since,omitempty"` // RFC 3339, UTC
}

// The events.
const (
	Upload       = "upload"        // an upload is complete
	Snapshot     = "snapshot"      // a snapshot of a share or source was made
	Alarm        = "alarm"         // something is wrong
	AlarmCleared = "alarm-cleared" // it is over
	Test         = "test"          // somebody tries the hook out
)

// Events are those that a hook can want.
func Events() []string { return []string{Upload, Snapshot, Alarm, AlarmCleared} }

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

// Deliver tells h of an event at once, beside any queue. Time, and an ID that is missing, are filled in.
func (h *Hook) Deliver(ctx context.Context, client *http.Client, e Event) error {
	now := time.Now()
	if err := h.check(); err != nil {
		return err
	}
	body, err := e.complete(now)
	if err != nil {
		return err
	}
	return h.deliver(ctx, client, &e, body, now)
}

// NameID is an ID for an event that is named by texts: another one of the same texts is the same event.
func NameID(texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// complete fills in what an event needs, and returns its JSON.
func (e *Event) complete(now time.Time) ([]byte, error) {
	if e.ID == "" {
		var id [16]byte
		if _, err := rand.Read(id[:]); err != nil {
			return nil, err
		}
		e.ID = hex.EncodeToString(id[:])
	}
	e.Time = now.UTC().Format(time.RFC3339Nano)
	if !utf8.ValidString(e.Path) {
		e.PathRaw = []byte(e.Path)
	}
	return json.Marshal(e)
}

// NewClient returns a client that follows no redirections. ca are more authorities, as PEM, whose
// certificates are good; nil for none.
func NewClient(ca []byte) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if ca != nil {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(ca) {
			return nil, errors.New("there is no certificate in it")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
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
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the URL may be a secret
		}
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
