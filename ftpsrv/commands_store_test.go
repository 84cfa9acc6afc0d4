package ftpsrv

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// With acknowledge: stored, 226 comes when the snapshot exists.
func TestAcknowledgeStored(t *testing.T) {
	ts := startShare(t, func(c *vfs.ShareConfig) { c.When, c.AckStored, c.AckTimeout = vfs.WhenClose, true, patience }, hasty)
	c := ts.login(t, "alice")
	gate := ts.local.Repo.Block()
	d := c.begins(t, "STOR f")
	if _, err := d.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	d.Close()
	<-gate.Entered()
	c.asks(ask{"STAT", codeSystem, "STOR f under way"}) // no final reply yet
	gate.Release()
	c.want(codeClosingData)
	c.wantFile("/.snapshots/latest/f", "hello")
	c.wantFile("f", "hello")
}

// When it does not come to a snapshot in time, the client is told to try again, and that makes no second
// version.
func TestAcknowledgeNotStored(t *testing.T) {
	ts := startShare(t, func(c *vfs.ShareConfig) { c.When, c.AckStored, c.AckTimeout = vfs.WhenClose, true, short }, hasty)
	c := ts.login(t, "alice")
	ts.local.Repo.FailCommits(fmt.Errorf("secret detail: %w", snapshotter.ErrUnavailable))
	before := ts.snapshots(t)
	wantRefused(t, "STOR without a store", c.put([]byte("again"), "STOR f"), codeTransient)
	ts.local.Repo.FailCommits(nil)
	err := c.put([]byte("again"), "STOR f")
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		wantRefused(t, "STOR on a busy machine", err, codeTransient)
		err = c.put([]byte("again"), "STOR f")
	}
	if err != nil {
		t.Error(err)
	}
	c.wantFile("/.snapshots/latest/f", "again")
	if n := ts.snapshots(t); n != before+1 {
		t.Errorf("%d snapshots, want %d", n, before+1)
	}
}

// While the store is away, names are there and uploads are taken; stored bytes are not to be
// had, and no download without them looks complete.
func TestStoreAway(t *testing.T) {
	ts := startServer(t, hasty, withTLS(t))
	for _, c := range []*client{ts.dial(t), ts.dialTLS(t)} {
		c.login("alice")
		c.mustPut("f", []byte(strings.Repeat("stored ", 100_000)))
		c.do("SITE SNAPSHOT", codeOK)
		if err := ts.local.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	c := ts.login(t, "alice")
	ts.local.Repo.FailReads(fmt.Errorf("secret detail: %w", snapshotter.ErrUnavailable))
	c.asks(ask{"SIZE f", codeFile, "700000"}, ask{"XMD5 f", codeTransient, "f: store unavailable, try again later"})
	for _, lines := range [][]string{{"RETR f"}, {"REST 699999", "RETR f"}} {
		d, err := c.begin(lines...)
		if err != nil {
			wantRefused(t, "RETR", err, codeTransient)
			continue
		}
		d.Close()
		if r := c.want(codeTransient); !strings.Contains(r.text(), "f: store unavailable") {
			t.Errorf("RETR: %v", r)
		}
	}
	c.mustPut("g", []byte("new"))
	c.wantFile("g", "new")
	ts.local.Repo.FailReads(nil)
	c.wantFile("f", strings.Repeat("stored ", 100_000))
}
