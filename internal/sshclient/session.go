package sshclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// closeLimit is how long a server may take to confirm that a session is closed, before
	// the connection is.
	closeLimit = 10 * time.Second
	// explainLimit is how long to wait for what a server says after a session has failed.
	explainLimit = 500 * time.Millisecond
	// keptOutput is how much of what a server says besides SFTP is kept for the error, in
	// bytes.
	keptOutput = 512

	refusedHint = "the server let us in and then ended the session: its ChrootDirectory must exist, belong to root and be writable by nobody else, all the way up, and the account's home and shell must exist; the server's log names what is missing"
)

// session is a channel on which the server runs SFTP.
type session struct {
	ssh.Channel
	c      *Client
	closed chan struct{} // when the server has closed it, too
	said   chan struct{} // when all of stderr has been read
	stderr tail
	output head // what came where SFTP should

	mu     sync.Mutex // guards status
	status string     // how the server's process ended
}

// openSession opens a channel and starts the subsystem (RFC 4254, 6.1 and 6.5).
func (c *Client) openSession() (*session, error) {
	ch, reqs, err := c.SSH().OpenChannel("session", nil)
	if err != nil {
		return nil, c.refused(err)
	}
	s := &session{Channel: ch, c: c, closed: make(chan struct{}), said: make(chan struct{})}
	c.tasks.Go(func() {
		defer close(s.closed)
		for req := range reqs {
			s.note(req)
		}
	})
	c.tasks.Go(func() {
		defer close(s.said)
		_, _ = io.Copy(&s.stderr, ch.Stderr())
	})
	ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
	if err == nil && ok {
		return s, nil
	}
	_ = s.Close()
	if err != nil {
		return nil, c.refused(err)
	}
	return nil, c.noSFTP("the server refuses the subsystem sftp")
}

// note remembers how the process ended (RFC 4254, 6.10).
func (s *session) note(req *ssh.Request) {
	s.mu.Lock()
	switch req.Type {
	case "exit-status":
		var m struct{ Status uint32 }
		if ssh.Unmarshal(req.Payload, &m) == nil {
			s.status = fmt.Sprintf("exit status %d", m.Status)
		}
	case "exit-signal":
		s.status = "ended by a signal"
	}
	s.mu.Unlock()
	if req.WantReply {
		_ = req.Reply(false, nil)
	}
}

func (s *session) Read(p []byte) (int, error) {
	n, err := s.Channel.Read(p)
	_, _ = s.output.Write(p[:n])
	return n, err
}

// Close closes the channel. The connection is closed when the server does not confirm it.
func (s *session) Close() error {
	timer := time.AfterFunc(closeLimit, func() {
		s.c.end(timeoutError(s.c.String(), errors.New("the server does not end a session")))
	})
	s.c.tasks.Go(func() {
		<-s.closed
		timer.Stop()
	})
	if err := s.Channel.Close(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// refused is the error when a session cannot be had although the login was fine.
func (c *Client) refused(err error) *Error {
	e := &Error{
		Kind: KindChroot, Host: c.String(), Err: err,
		Hint: refusedHint,
	}
	if errors.Is(err, io.EOF) {
		e.Err, e.Detail = nil, "the server closed the connection"
	}
	return e
}

func (c *Client) noSFTP(detail string) *Error {
	return &Error{
		Kind: KindSubsystem, Host: c.String(), Detail: detail,
		Hint: "the server needs a line like Subsystem sftp internal-sftp in sshd_config; a shell's start files must print nothing when no terminal is there",
	}
}

// explain makes the error when the session was opened but did not become SFTP.
func (s *session) explain(err error) error {
	// What the server has to say about it comes before the end of the channel, if it ends.
	drained := make(chan struct{})
	s.c.tasks.Go(func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, s)
	})
	timer := time.NewTimer(explainLimit)
	defer timer.Stop()
	for _, over := range []chan struct{}{s.closed, s.said, drained} {
		select {
		case <-over:
		case <-timer.C:
			timer.Reset(0)
		}
	}
	s.mu.Lock()
	status := s.status
	s.mu.Unlock()
	text, junk := s.stderr.text(), s.output.said()
	var parts []string
	for _, p := range []string{status, text} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	said := strings.Join(parts, ": ")
	switch {
	case strings.Contains(strings.ToLower(text), "chroot"), s.output.empty() && status == "" && s.c.guard().broken() != nil:
		e := s.c.refused(io.EOF)
		if said != "" {
			e.Detail = said
		}
		return e
	case junk != "":
		return s.c.noSFTP(junk)
	case said != "":
		return s.c.noSFTP("the server's SFTP program ended: " + said)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return s.c.refused(io.EOF)
	}
	e := s.c.noSFTP("")
	e.Err = err
	return e
}

// head keeps the first bytes written to it, tail the last ones. Both are safe for
// concurrent use.
type head struct {
	mu   sync.Mutex // guards data
	data []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if room := keptOutput - len(h.data); room > 0 {
		h.data = append(h.data, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (h *head) empty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.data) == 0
}

// said is what a server says before it speaks SFTP, "" for nothing. Packets follow text of a shell's start
// files; they begin with a zero byte.
func (h *head) said() string {
	h.mu.Lock()
	text, _, _ := bytes.Cut(h.data, []byte{0})
	h.mu.Unlock()
	if len(text) == 0 {
		return ""
	}
	return fmt.Sprintf("the server answers with text instead of SFTP: %q", strings.TrimSpace(printable(text)))
}

type tail struct {
	mu   sync.Mutex // guards data
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if n := len(t.data) - 8*keptOutput; n > 0 {
		t.data = append(t.data[:0], t.data[n:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return printable(bytes.TrimSpace(t.data))
}

// printable replaces what a hostile server could use to play with a terminal. Zero bytes stay.
func printable(data []byte) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == 0, r == '\n', r == '\t':
			return r
		case r == '\r':
			return -1
		case r < ' ', r == 0x7f, r >= 0x80 && r < 0xa0:
			return '?'
		}
		return r
	}, string(data))
}
