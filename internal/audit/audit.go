package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Event is a line of the log. Time is filled in by Write. Empty fields are left out.
type Event struct {
	Time  string `json:"time"`  // RFC 3339 with microseconds, UTC
	Event string `json:"event"` // what was done: login, upload, remove, …
	// Result is ok, denied (there is no permission, or the login was refused), or failed.
	Result string `json:"result"`
	Error  string `json:"error,omitempty"`

	User     string `json:"user,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Remote   string `json:"remote,omitempty"` // host:port
	Conn     string `json:"conn,omitempty"`   // as in the log
	Method   string `json:"method,omitempty"` // of a login: password, publickey
	Key      string `json:"key,omitempty"`    // fingerprint
	Client   string `json:"client,omitempty"` // what the client says it is

	Share    string   `json:"share,omitempty"`
	Path     string   `json:"path,omitempty"`
	PathRaw  string   `json:"path_base64,omitempty"` // the bytes of a path that is not UTF-8
	To       string   `json:"to,omitempty"`          // of a rename, a link; the target of a symbolic link
	ToRaw    string   `json:"to_base64,omitempty"`
	Bytes    *int64   `json:"bytes,omitempty"`
	Hash     string   `json:"hash,omitempty"` // as blake3:64 hexadecimal digits
	Set      string   `json:"set,omitempty"`  // attributes, as mode=0644 mtime=…
	Snapshot string   `json:"snapshot,omitempty"`
	Changes  int      `json:"changes,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Users    []string `json:"users,omitempty"` // whose changes are in a snapshot
	Job      string   `json:"job,omitempty"`
	Detail   string   `json:"detail,omitempty"`
	Millis   *int64   `json:"ms,omitempty"` // how long it took
}

// The results of events.
const (
	OK     = "ok"
	Denied = "denied"
	Failed = "failed"
)

// timeFormat sorts as text.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// mode of the file: who reads it learns names of files and users.
const mode = 0o600

// Config configures a Log.
type Config struct {
	File   string
	Logger *slog.Logger
	Now    func() time.Time // nil: the clock
}

// Log is an audit log. Safe for concurrent use.
type Log struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex // guards what follows; held while a line is written
	path string
	file *os.File // nil after an error; the next event opens it
	torn bool     // the file may end in the middle of a line
	err  error    // of the last event, nil when it was written
	lost uint64
}

// Open opens the log, or makes it.
func Open(cfg Config) (*Log, error) {
	if cfg.Logger == nil || cfg.File == "" {
		return nil, errors.New("audit: no file or no logger")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Log{log: cfg.Logger, now: cfg.Now, path: cfg.File}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return l, nil
}

// open opens the file; mu is held, or nobody else has l yet.
func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_RDWR, mode)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	switch {
	case err == nil && info.Mode().Perm()&0o077 != 0 && info.Mode().IsRegular():
		err = f.Chmod(mode)
	case err == nil && info.IsDir():
		err = errors.New(l.path + " is a directory")
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.torn = f, endsTorn(f, info)
	return nil
}

// endsTorn reports whether a file ends in the middle of a line: the machine has lost power.
func endsTorn(f *os.File, info os.FileInfo) bool {
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	var last [1]byte
	_, err := f.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}

// Write appends an event.
func (l *Log) Write(e Event) {
	now := l.now().UTC()
	e.Time = now.Format(timeFormat)
	e.Path, e.PathRaw = text(e.Path)
	e.To, e.ToRaw = text(e.To)
	line, err := encode(&e)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		err = l.append(line)
	}
	l.note(e.Event, err)
}

// append writes a line; mu is held.
func (l *Log) append(line []byte) error {
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := l.file.Write(line)
	if err == nil {
		l.torn = false
		return nil
	}
	l.torn = l.torn || n > 0
	if errors.Is(err, os.ErrClosed) {
		l.file = nil
	}
	return err
}

// note keeps the account of losses and logs their begin and end; mu is held.
func (l *Log) note(event string, err error) {
	switch {
	case err != nil:
		l.lost++
		if l.err == nil {
			l.log.Error("the audit log cannot be written, events are lost", "file", l.path, "event", event, "err", err)
		}
	case l.err != nil:
		l.log.Warn("the audit log can be written again", "file", l.path, "lost", l.lost)
	}
	l.err = err
}

// Reopen closes the file and opens path, which may be the same: a file that was moved away is
// left alone from then on. On an error the old file stays in use.
func (l *Log) Reopen(path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, oldPath, oldTorn := l.file, l.path, l.torn
	l.path = path
	if err := l.open(); err != nil {
		l.file, l.path, l.torn = old, oldPath, oldTorn
		return fmt.Errorf("audit log: %w", err)
	}
	if old != nil {
		return old.Close()
	}
	return nil
}

// Status tells how many events are lost since the start, and why the last one was, nil when it
// was written.
func (l *Log) Status() (lost uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost, l.err
}

// Close flushes the file to the disk and closes it.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	err := f.Sync()
	if info, serr := f.Stat(); serr == nil && !info.Mode().IsRegular() {
		err = nil // pipes and terminals cannot be flushed
	}
	return errors.Join(err, f.Close())
}

// text is a name as text, and its bytes in base64 when they are none.
func text(name string) (s, raw string) {
	if utf8.ValidString(name) {
		return name, ""
	}
	return string(bytes.ToValidUTF8([]byte(name), []byte("\uFFFD"))), base64.StdEncoding.EncodeToString([]byte(name))
}

// encode makes a line.
func encode(e *Event) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, err
	}
	return printable(b.Bytes()), nil
}

// printable escapes, in JSON, what a terminal could act upon: everything that is not printable,
// as controls, the C1 ones too, and marks that turn the direction of text.
func printable(line []byte) []byte {
	clean := true
	for _, r := range string(line) {
		clean = clean && (r == '\n' || unicode.IsPrint(r))
	}
	if clean {
		return line
	}
	var out bytes.Buffer
	for _, r := range string(line) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			_, _ = out.WriteRune(r)
		case r > 0xffff:
			_, _ = fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			_, _ = fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}
