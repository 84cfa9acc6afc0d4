//go:build stores

package restore_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
)

// OpenSSH's sshd, by the native client: a restore, one that loses the network, and one that
// finishes it.
func TestServeSSHD(t *testing.T) {
	sshd := proctest.StartSSHD(t)
	proxy := proctest.StartProxy(t, sshd.Addr)
	host, port, err := net.SplitHostPort(proxy.Addr)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte("["+host+"]:"+port+" "+sshd.HostKey), 0o600); err != nil {
		t.Fatal(err)
	}
	dialer, err := sshclient.New(sshclient.Config{
		Host: host, Port: number, User: sshd.User, IdentityFiles: []string{sshd.KeyFile}, KnownHosts: []string{known}, Agent: "none",
	})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context) (io.ReadWriteCloser, error) { return dialer.Stream(ctx) }
	tr := house().links().file("/huge", string(randomBytes(24<<20)))
	dir := filepath.Join(t.TempDir(), "a", "dest")
	target := openSFTP(t, dir, dial)

	// The network goes away while the large file is on its way.
	_, err = try(t, target, tr, func(c *restore.Config) {
		c.Retry.Attempts = 1
		c.Target = &dying{Target: target, kill: func() { proxy.Set(proctest.Trouble{Reset: true}) }}
	})
	if err == nil || pull.KindOf(err) != pull.KindConnection {
		t.Fatalf("without a network: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "huge")); err == nil {
		t.Fatal("half a file has its name")
	}
	proxy.Set(proctest.Trouble{})
	report := run(t, target, tr, func(c *restore.Config) { c.Verify = true })
	clean(t, report)
	differences(t, describe(t, dir), tr.describe())
	if c := report.Counts(); c.Verified != c.Files+c.Symlinks || c.SentBytes >= c.Bytes {
		t.Errorf("counts %+v", c)
	}
	owned := run(t, target, tr, func(c *restore.Config) { c.Owner = true })
	clean(t, owned)
	if c := owned.Counts(); c.SentBytes != 0 {
		t.Errorf("again: %+v", c)
	}
}

// dying is a target that is killed in the middle of the large file.
type dying struct {
	pull.Target
	kill func()
}

type dyingWriter struct {
	pull.Writer
	d *dying
	n int
}

func (d *dying) Create(ctx context.Context, p string, offset int64) (pull.Writer, error) {
	w, err := d.Target.Create(ctx, p, offset)
	if err != nil || filepath.Base(p)[:5] != ".huge" {
		return w, err
	}
	return &dyingWriter{w, d, 0}, nil
}

func (w *dyingWriter) Write(ctx context.Context, p []byte) error {
	if w.n += len(p); w.n > 12<<20 {
		w.d.kill()
	}
	return w.Writer.Write(ctx, p)
}
