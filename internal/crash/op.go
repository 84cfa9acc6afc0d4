package crash

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Kind says what an operation does.
type Kind string

// The kinds of operations.
const (
	Put      Kind = "put"      // write a whole file, new or over an old one
	Patch    Kind = "patch"    // write a range of an existing file
	Truncate Kind = "truncate" // set the size of an existing file
	Rename   Kind = "rename"   // to a free name
	Replace  Kind = "replace"  // rename over an existing file, as POSIX does
	Remove   Kind = "remove"
	Mkdir    Kind = "mkdir"
	Rmdir    Kind = "rmdir"
)

// Writes reports whether an operation of this kind sends file contents.
func (k Kind) Writes() bool { return k == Put || k == Patch }

// Op is one operation of a client.
type Op struct {
	Seq  int    `json:"seq"` // 1, 2, 3 … within a log
	Kind Kind   `json:"kind"`
	Path string `json:"path"`
	To   string `json:"to,omitempty"`   // Rename, Replace
	Seed uint64 `json:"seed,omitempty"` // Put, Patch: of the bytes sent
	Off  int64  `json:"off,omitempty"`  // Patch
	Size int64  `json:"size,omitempty"` // Put, Patch: bytes sent; Truncate: the new size
}

// entry is a line of a log.
type entry struct {
	Begin   *Op    `json:"begin,omitempty"`
	Ack     int    `json:"ack,omitempty"`
	Refused int    `json:"refused,omitempty"` // the server answered with an error
	Error   string `json:"error,omitempty"`
}

// Log is a client's record of what it did. Each line is on the disk before the client goes
// on. It is for one goroutine.
type Log struct{ file *os.File }

// OpenLog opens a log for appending.
func OpenLog(path string) (*Log, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	return &Log{file: file}, nil
}

func (l *Log) write(e entry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("logging: %w", err)
	}
	if _, err := l.file.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("logging: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("logging: %w", err)
	}
	return nil
}

// Begin records that op is about to be sent.
func (l *Log) Begin(op Op) error { return l.write(entry{Begin: &op}) }

// Ack records that the server has acknowledged operation seq.
func (l *Log) Ack(seq int) error { return l.write(entry{Ack: seq}) }

// Refused records that the server answered operation seq with an error.
func (l *Log) Refused(seq int, reason error) error {
	return l.write(entry{Refused: seq, Error: reason.Error()})
}

// Close closes the log.
func (l *Log) Close() error { return l.file.Close() }

// History is what a log says.
type History struct {
	Acked    []Op
	InFlight *Op    // begun, and neither acknowledged nor refused
	Refused  string // what the server refused, and why; "" is the good case
}

// ReadLog reads a log. A log that is not there is an empty history.
func ReadLog(path string) (History, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return History{}, nil
	}
	if err != nil {
		return History{}, fmt.Errorf("reading a log: %w", err)
	}
	defer file.Close()
	return parseLog(file)
}

func parseLog(r io.Reader) (History, error) {
	var h History
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return h, fmt.Errorf("reading a log: line %d: %w", n, err)
		}
		switch {
		case e.Begin != nil && h.InFlight == nil:
			h.InFlight = e.Begin
		case e.Ack > 0 && h.InFlight != nil && e.Ack == h.InFlight.Seq:
			h.Acked = append(h.Acked, *h.InFlight)
			h.InFlight = nil
		case e.Refused > 0 && h.InFlight != nil && e.Refused == h.InFlight.Seq:
			h.Refused = fmt.Sprintf("%s %s: %s", h.InFlight.Kind, h.InFlight.Path, e.Error)
			h.InFlight = nil
		default:
			return h, fmt.Errorf("reading a log: line %d is out of order", n)
		}
	}
	return h, lines.Err()
}
