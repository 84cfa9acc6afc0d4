package ftpsrv_test

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"

	"github.com/snapgate/gateway/ftpsrv"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// onlyAlice lets one user in; a real program brings its own accounts.
type onlyAlice struct{ principal *vfs.Principal }

func (a onlyAlice) Password(_ context.Context, conn ftpsrv.ConnMeta, password []byte) (*vfs.Principal, error) {
	if conn.User == "alice" && subtle.ConstantTimeCompare(password, []byte("secret")) == 1 {
		return a.principal, nil
	}
	return nil, errors.New("unknown user or wrong password")
}

// open opens a store in dir, its snapshots, and the live trees above them.
func open(ctx context.Context, dir string) (sys *vfs.System, closeStore func(), err error) {
	st, err := store.Open(ctx, store.Config{
		Location: filepath.Join(dir, "store"), Create: true, CheapKDF: true,
		Passphrase: func(context.Context) ([]byte, error) { return []byte("correct horse"), nil },
	})
	if err != nil {
		return nil, nil, err
	}
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st})
	if err != nil {
		return nil, nil, errors.Join(err, st.Close())
	}
	closeStore = func() { snaps.Close(); st.Close() }
	key, err := st.DeriveKey("spool")
	if err == nil {
		sys, err = vfs.Open(ctx, vfs.Config{
			DataDir: filepath.Join(dir, "data"), Repository: vfs.FromSnapshotter(snaps), SpoolKey: key,
			Shares: []vfs.ShareConfig{{Name: "main", When: vfs.WhenClose}},
		})
	}
	if err != nil {
		closeStore()
	}
	return sys, closeStore, err
}

// serve embeds a gateway. Beyond a machine's own network, clients should be made to
// encrypt: see the fields TLS and TLSRequired.
func serve(ctx context.Context, dir string, ln net.Listener) error {
	sys, closeStore, err := open(ctx, dir)
	if err != nil {
		return err
	}
	defer closeStore()
	defer sys.Close(context.Background())
	alice := &vfs.Principal{
		User: "alice", Perms: vfs.PermFull,
		Mounts: []vfs.Mount{{At: vfs.Root(), Share: "main", Root: vfs.Root()}},
	}
	server, err := ftpsrv.New(ftpsrv.Config{
		Auth: onlyAlice{alice}, Sessions: sys.Session, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	return server.Serve(ctx, ln)
}

// A program that embeds the gateway, and a client that uploads, asks for a snapshot and
// reads the file back from it.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- serve(ctx, dir, ln) }()

	if err := visit(ln.Addr().String()); err != nil {
		fmt.Println(err)
	}
	cancel()
	<-done
	// Output:
	// never to be lost
}

func visit(addr string) error {
	conn, err := textproto.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, _, err := conn.ReadResponse(220); err != nil {
		return err
	}
	for _, step := range []struct {
		line string
		code int
	}{{"USER alice", 331}, {"PASS secret", 230}} {
		if _, err := ask(conn, step.code, step.line); err != nil {
			return err
		}
	}
	if _, err := transfer(conn, addr, "STOR /report.txt", "never to be lost"); err != nil {
		return err
	}
	if _, err := ask(conn, 200, "SITE SNAPSHOT"); err != nil { // tells the snapshot's id
		return err
	}
	data, err := transfer(conn, addr, "RETR /.snapshots/latest/report.txt", "")
	fmt.Println(data)
	return err
}

// ask sends a command and reads the reply, which must have a code.
func ask(conn *textproto.Conn, code int, line string) (string, error) {
	if err := conn.PrintfLine("%s", line); err != nil {
		return "", err
	}
	_, text, err := conn.ReadResponse(code)
	return text, err
}

// transfer sends a command with a data connection, writes to it or else reads from it.
func transfer(conn *textproto.Conn, addr, line, body string) (string, error) {
	text, err := ask(conn, 229, "EPSV")
	if err != nil {
		return "", err
	}
	_, port, _ := strings.Cut(text, "(|||")
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	data, err := net.Dial("tcp", net.JoinHostPort(host, strings.TrimSuffix(port, "|)")))
	if err != nil {
		return "", err
	}
	defer data.Close()
	if _, err := ask(conn, 150, line); err != nil {
		return "", err
	}
	var got []byte
	if body != "" {
		_, err = io.WriteString(data, body)
	} else {
		got, err = io.ReadAll(data)
	}
	data.Close() // the end of the file
	_, _, rerr := conn.ReadResponse(226)
	return string(got), errors.Join(err, rerr)
}
