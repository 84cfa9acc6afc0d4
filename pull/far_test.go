package pull

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/snapgate/gateway/snapshotter"
)

const (
	// farLogin is how long it takes until a connection of SSH carries SFTP.
	farLogin = 12 * 2 * farDelay
	// farWindow is that of a channel of x/crypto/ssh and OpenSSH.
	farWindow = 2 << 20
)

// farRemote is an SFTP server at 50 ms, in the time of a bubble: only what is waited for counts.
func farRemote(t *testing.T, dir string) *SFTP {
	t.Helper()
	h := &sftpHouse{}
	r, err := NewSFTP(SFTPConfig{Root: dir, Timeout: time.Minute, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		near, err := h.dial(ctx)
		if err != nil {
			return nil, err
		}
		<-time.After(farLogin)
		return newFar(&windowed{ReadWriteCloser: near, ctx: ctx, window: semaphore.NewWeighted(farWindow)}, farDelay), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); h.wg.Wait() })
	return r
}

// windowed gives no more to be carried than the other side has room for, of which this side
// hears a round trip later.
type windowed struct {
	io.ReadWriteCloser
	ctx    context.Context //nolint:containedctx // that of the connection
	window *semaphore.Weighted
}

func (w *windowed) Read(p []byte) (int, error) {
	n, err := w.ReadWriteCloser.Read(p)
	if n > 0 {
		if aerr := w.window.Acquire(w.ctx, int64(n)); aerr != nil {
			return 0, aerr
		}
		time.AfterFunc(2*farDelay, func() { w.window.Release(int64(n)) })
	}
	return n, err
}

// pullFar reads all of a remote that differs from nothing, and returns how long that took.
func pullFar(t *testing.T, r Remote) (took time.Duration, counts Counts) {
	t.Helper()
	began := time.Now()
	counts = pullAll(t.Context(), t, r, FetchConfig{Ingest: func(ctx context.Context, c snapshotter.Change) (snapshotter.Change, error) {
		rd, err := c.Content.Open(ctx)
		if err == nil {
			_, err = io.Copy(io.Discard, rd)
			_ = rd.Close()
		}
		return c, err
	}})
	return time.Since(began), counts
}

// pullAll fetches all of a remote that differs from nothing.
func pullAll(ctx context.Context, t *testing.T, r Remote, cfg FetchConfig) Counts {
	t.Helper()
	var report Report
	cfg.Report = &report
	changes := Plan(ctx, r, Scan(ctx, r, ScanConfig{Report: &report}), PlanConfig{Report: &report})
	for _, err := range Fetch(ctx, changes, cfg) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if report.Failed() > 0 {
		t.Fatalf("%+v", report.Counts())
	}
	return report.Counts()
}

// One large file comes over several connections: one would take 3.2 s for it and the time until it
// is there, and two would take half of that.
func TestFarLargeFile(t *testing.T) {
	const size, most = 128 << 20, 2700 * time.Millisecond
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		if took, _ := pullFar(t, farRemote(t, dir)); took > most {
			t.Errorf("it takes %v, want %v", took, most)
		}
	})
}

// Small files come many at a time.
func TestFarSmallFiles(t *testing.T) {
	const files, atLeast = 3000, 1500 // files/s once we are in
	dir := smallFiles(t, files)
	synctest.Test(t, func(t *testing.T) {
		took, counts := pullFar(t, farRemote(t, dir))
		if rate := files / (took - farLogin).Seconds(); counts.Read != files || rate < atLeast {
			t.Errorf("%d files, %.0f/s, want %d", counts.Read, rate, atLeast)
		}
	})
}
