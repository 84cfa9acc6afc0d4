package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// View is a command that looks into snapshots, as somebody has called it.
type View struct {
	// Args are the name of the command, its flags and its arguments: bytes, since names in
	// snapshots need not be UTF-8.
	Args [][]byte `json:"args"`
	// Zone is the caller's time zone as tzfile(5) has it. Times are read and shown in it.
	Zone []byte `json:"zone"`
	// Store is where the caller's configuration says that the store is. The gateway answers for
	// that one alone.
	Store string `json:"store"`
}

// The streams of an Output.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// MaxOutput is how many bytes an Output has at most.
const MaxOutput = 256 << 10

// Output is what a command prints. Its bytes stand behind its line as they are, so that the bytes of
// files cost nothing to pass on.
type Output struct {
	Stream string `json:"stream"`
	Length int    `json:"length"` // of Data
	Data   []byte `json:"-"`      // of one that was received, until the next line is
}

// errOutput means that an Output is none.
var errOutput = errors.New("output of a wrong length")

// writeReply writes a line, with the bytes that belong to it.
func writeReply(c net.Conn, rep Reply) error {
	var data []byte
	if rep.Output != nil {
		o := *rep.Output
		o.Length = len(o.Data)
		rep.Output, data = &o, o.Data
	}
	line, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	parts := net.Buffers{append(line, '\n'), data}
	_, err = parts.WriteTo(c)
	return err
}

// replies reads the lines of an answer.
type replies struct {
	r    *bufio.Reader
	line []byte
	data []byte // of the last Output
}

func newReplies(r io.Reader) *replies { return &replies{r: bufio.NewReaderSize(r, 64<<10)} }

// next reads a line; io.EOF at the end.
func (l *replies) next() (rep Reply, err error) {
	l.line = l.line[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		l.line = append(l.line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return rep, err
		}
		if len(l.line) > maxLine {
			return rep, errors.New("a line that is too long")
		}
	}
	if err := json.Unmarshal(l.line, &rep); err != nil {
		return rep, err
	}
	if o := rep.Output; o != nil {
		if o.Length < 0 || o.Length > MaxOutput {
			return rep, fmt.Errorf("%w: %d bytes", errOutput, o.Length)
		}
		if cap(l.data) < o.Length {
			l.data = make([]byte, max(o.Length, 64<<10))
		}
		o.Data = l.data[:o.Length]
		if _, err := io.ReadFull(l.r, o.Data); err != nil {
			return rep, err
		}
	}
	return rep, nil
}
