package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/snapgate/gateway/internal/crash"
)

// ftpTimeout bounds each step of an FTP client.
const ftpTimeout = 20 * time.Second

// ftpClient works over FTP (RFC 959), with TLS (RFC 4217) when there are settings for it.
// What it sends is acknowledged when the reply that ends the transfer has been read.
type ftpClient struct {
	conn net.Conn // of the control connection; TLS on TCP, or TCP
	text *textproto.Conn
	host string
	tls  *tls.Config // nil: plain
}

func loginFTP(addr, user, password string, encrypted bool) (*ftpClient, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("tcp", addr, ftpTimeout)
	if err != nil {
		return nil, err
	}
	f := &ftpClient{conn: conn, text: textproto.NewConn(conn), host: host}
	if _, _, err := f.text.ReadResponse(220); err != nil {
		return nil, err
	}
	if encrypted {
		if err := f.encrypt(); err != nil {
			return nil, err
		}
	}
	if err := f.command(331, "USER "+user); err != nil {
		return nil, err
	}
	if err := f.command(230, "PASS "+password); err != nil {
		return nil, err
	}
	return f, f.command(200, "TYPE I")
}

func (f *ftpClient) encrypt() error {
	if err := f.command(234, "AUTH TLS"); err != nil {
		return err
	}
	// The certificate is of no interest: client and server share a test's machine.
	f.tls = &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	t := tls.Client(f.conn, f.tls)
	f.conn, f.text = t, textproto.NewConn(t)
	if err := f.command(200, "PBSZ 0"); err != nil {
		return err
	}
	return f.command(200, "PROT P")
}

// command sends one and reads its reply. An error of the type *textproto.Error is a reply
// that is another one.
func (f *ftpClient) command(want int, line string) error {
	_, err := f.ask(want, line)
	return err
}

func (f *ftpClient) ask(want int, line string) (string, error) {
	if err := f.conn.SetDeadline(time.Now().Add(ftpTimeout)); err != nil {
		return "", err
	}
	if err := f.text.PrintfLine("%s", line); err != nil {
		return "", err
	}
	_, text, err := f.text.ReadResponse(want)
	return text, err
}

// do does an operation.
func (f *ftpClient) do(op crash.Op) error {
	switch op.Kind {
	case crash.Put:
		return f.store(op)
	case crash.Rename, crash.Replace:
		if err := f.command(350, "RNFR "+op.Path); err != nil {
			return err
		}
		return f.command(250, "RNTO "+op.To)
	case crash.Remove:
		return f.command(250, "DELE "+op.Path)
	case crash.Mkdir:
		return f.command(257, "MKD "+op.Path)
	case crash.Rmdir:
		return f.command(250, "RMD "+op.Path)
	}
	return fmt.Errorf("no such operation over FTP: %q", op.Kind)
}

// refused reports whether an error is the server's answer.
func (*ftpClient) refused(err error) bool {
	var reply *textproto.Error
	return errors.As(err, &reply)
}

// store uploads a file; reply 226 is the acknowledgement.
func (f *ftpClient) store(op crash.Op) error {
	text, err := f.ask(229, "EPSV")
	if err != nil {
		return err
	}
	_, port, _ := strings.Cut(text, "|||")
	port, _, _ = strings.Cut(port, "|")
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return &textproto.Error{Code: 229, Msg: text}
	}
	data, err := net.DialTimeout("tcp", net.JoinHostPort(f.host, port), ftpTimeout)
	if err != nil {
		return err
	}
	defer data.Close()
	if err := f.command(150, "STOR "+op.Path); err != nil {
		return err
	}
	if f.tls != nil {
		data = tls.Client(data, f.tls)
	}
	if err := data.SetDeadline(time.Now().Add(ftpTimeout)); err != nil {
		return err
	}
	w := bufio.NewWriter(data)
	_, err = io.Copy(w, bytes.NewReader(crash.Bytes(op.Seed, op.Size)))
	if err = errors.Join(err, w.Flush()); err != nil {
		return err // of the connection: no orderly end follows
	}
	if t, ok := data.(*tls.Conn); ok && op.Size == 0 {
		if err := t.Handshake(); err != nil { // else it happens with the first byte
			return err
		}
	}
	if err := data.Close(); err != nil {
		return err
	}
	_, _, err = f.text.ReadResponse(226)
	return err
}
