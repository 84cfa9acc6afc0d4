package sshclient

import (
	"io"
	"testing"
)

// Whether a server that ends the connection has let one log in, ssh says by its words.
func TestSSHErrorOfClosedConnection(t *testing.T) {
	for text, want := range map[string]Kind{
		"Connection to web closed by remote host.\n":                                            KindChroot,
		"client_loop: send disconnect: Broken pipe\n":                                           KindChroot,
		"kex_exchange_identification: Connection closed by remote host\n":                       KindClosed,
		"Connection closed by 192.0.2.1 port 22\n":                                              KindClosed,
		"Connection reset by 192.0.2.1 port 22\nConnection to web port 22 timed out, try again": KindTimeout,
	} {
		if e := sshError("web", text, io.EOF); e.Kind != want {
			t.Errorf("%q: %s, want %s", text, e.Kind, want)
		}
	}
}
