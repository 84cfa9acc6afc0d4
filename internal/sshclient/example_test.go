package sshclient_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/snapgate/gateway/internal/sshclient"
)

// A Dialer is made once for a server, and dials as often as connections are wanted. The
// server may be an alias of ~/.ssh/config, with jump hosts and keys of its own.
func Example() {
	list := func(ctx context.Context, d *sshclient.Dialer) error {
		conn, err := d.Dial(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		files, err := conn.SFTP(ctx)
		if err != nil {
			return err
		}
		defer files.Close()
		entries, err := files.ReadDir("/srv/data")
		if err != nil {
			return err
		}
		fmt.Println(len(entries), "entries")
		return nil
	}

	d, err := sshclient.New(sshclient.Config{
		Host:       "no-such-host.invalid",
		Files:      []string{}, // no ssh_config
		Passphrase: sshclient.Secret{File: "/etc/snapgate/key-passphrase"},
		Timeout:    10 * time.Second,
		Log:        slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := list(context.Background(), d); err != nil {
		fmt.Println("kind:", sshclient.KindOf(err))
		fmt.Println("is a wrong name:", errors.Is(err, sshclient.KindDNS))
	}
	// Output:
	// kind: host name not found
	// is a wrong name: true
}
