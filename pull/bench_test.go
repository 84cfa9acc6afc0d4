package pull

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// far is a connection over a long way: what is written arrives a while later, in order.
type far struct {
	io.ReadWriteCloser
	out  chan delayed
	done chan struct{}
	in   *io.PipeReader
}

type delayed struct {
	data []byte
	due  time.Time
}

// newFar makes near a connection with a delay each way. Closing it ends its goroutines.
func newFar(near io.ReadWriteCloser, delay time.Duration) *far {
	r, w := io.Pipe()
	f := &far{ReadWriteCloser: near, out: make(chan delayed, 1<<16), done: make(chan struct{}), in: r}
	deliver := func(from <-chan delayed, to io.Writer) {
		for {
			select {
			case d, ok := <-from:
				if !ok {
					return
				}
				select {
				case <-time.After(time.Until(d.due)):
				case <-f.done:
					return
				}
				if _, err := to.Write(d.data); err != nil {
					return
				}
			case <-f.done:
				return
			}
		}
	}
	go deliver(f.out, near)
	back := make(chan delayed, 1<<16)
	go func() { deliver(back, w); _ = w.CloseWithError(io.ErrUnexpectedEOF) }()
	go func() {
		defer close(back)
		for {
			buf := make([]byte, 64<<10)
			n, err := near.Read(buf)
			if err != nil {
				return
			}
			back <- delayed{buf[:n], time.Now().Add(delay)}
		}
	}()
	return f
}

func (f *far) Write(p []byte) (int, error) {
	f.out <- delayed{append([]byte(nil), p...), time.Now().Add(farDelay)}
	return len(p), nil
}

func (f *far) Read(p []byte) (int, error) { return f.in.Read(p) }

func (f *far) Close() error {
	close(f.done)
	_ = f.in.Close()
	return f.ReadWriteCloser.Close()
}

// farDelay is one way: 50 ms there and back.
const farDelay = 25 * time.Millisecond

// BenchmarkSmallFilesFar pulls 4,000 files of 4 KiB over SFTP at 50 ms, without storing them.
func BenchmarkSmallFilesFar(b *testing.B) {
	const files = 4000
	dir := b.TempDir()
	for i := range files {
		p := filepath.Join(dir, fmt.Sprint(i%20), fmt.Sprint(i))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(p, randomBytes(4096), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	h := &sftpHouse{}
	r, err := NewSFTP(SFTPConfig{Root: dir, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		near, err := h.dial(ctx)
		if err != nil {
			return nil, err
		}
		return newFar(near, farDelay), nil
	}})
	if err != nil {
		b.Fatal(err)
	}
	defer h.wg.Wait()
	defer r.Close()
	took := func(_ context.Context, c snapshotter.Change) (snapshotter.Change, error) { return c, nil }
	for b.Loop() {
		var report Report
		changes := Plan(b.Context(), r, Scan(b.Context(), r, ScanConfig{Report: &report}), PlanConfig{Report: &report})
		for _, err := range Fetch(b.Context(), changes, FetchConfig{Ingest: took, Report: &report}) {
			if err != nil {
				b.Fatal(err)
			}
		}
		if c := report.Counts(); c.Read != files || report.Failed() > 0 {
			b.Fatalf("%+v", c)
		}
	}
	b.ReportMetric(float64(files*b.N)/b.Elapsed().Seconds(), "files/s")
}
