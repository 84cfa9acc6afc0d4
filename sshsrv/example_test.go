package sshsrv_test

import (
	"context"
	"crypto/ed25519"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/sshsrv"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// onlyAlice lets one user in; a real program brings its own accounts.
type onlyAlice struct{ principal *vfs.Principal }

func (a onlyAlice) Password(_ context.Context, conn sshsrv.ConnMeta, password []byte) (*vfs.Principal, error) {
	if conn.User == "alice" && subtle.ConstantTimeCompare(password, []byte("secret")) == 1 {
		return a.principal, nil
	}
	return nil, errors.New("unknown user or wrong password")
}

func (onlyAlice) PublicKey(context.Context, sshsrv.ConnMeta, ssh.PublicKey) (*vfs.Principal, error) {
	return nil, errors.New("no keys here")
}

// serve embeds a gateway: a store, its snapshots, the live trees and a server.
func serve(ctx context.Context, dir string, ln net.Listener) error {
	st, err := store.Open(ctx, store.Config{
		Location: filepath.Join(dir, "store"), Create: true, CheapKDF: true,
		Passphrase: func(context.Context) ([]byte, error) { return []byte("correct horse"), nil },
	})
	if err != nil {
		return err
	}
	defer st.Close()
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st})
	if err != nil {
		return err
	}
	defer snaps.Close()
	key, err := st.DeriveKey("spool")
	if err != nil {
		return err
	}
	sys, err := vfs.Open(ctx, vfs.Config{
		DataDir: filepath.Join(dir, "data"), Repository: vfs.FromSnapshotter(snaps), SpoolKey: key,
		Shares: []vfs.ShareConfig{{Name: "main", When: vfs.WhenClose}},
	})
	if err != nil {
		return err
	}
	defer sys.Close(context.Background())
	_, hostKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromKey(hostKey)
	if err != nil {
		return err
	}
	alice := &vfs.Principal{
		User: "alice", Perms: vfs.PermFull,
		Mounts: []vfs.Mount{{At: vfs.Root(), Share: "main", Root: vfs.Root()}},
	}
	server, err := sshsrv.New(sshsrv.Config{
		HostKeys: []ssh.Signer{signer}, Auth: onlyAlice{alice}, Sessions: sys.Session,
		Logger: slog.New(slog.DiscardHandler),
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
	conn, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User: "alice", Auth: []ssh.AuthMethod{ssh.Password("secret")},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // an example: a client should know its server
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	client, err := sftp.NewClient(conn)
	if err != nil {
		return err
	}
	defer client.Close()
	f, err := client.Create("/report.txt")
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f, "never to be lost"); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	sess, err := conn.NewSession()
	if err != nil {
		return err
	}
	if _, err := sess.Output("snapshot"); err != nil { // prints the snapshot's id
		return err
	}
	old, err := client.Open("/.snapshots/latest/report.txt")
	if err != nil {
		return err
	}
	defer old.Close()
	data, err := io.ReadAll(old)
	fmt.Println(string(data))
	return err
}
