//go:build bench

package bench

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/snapgate/gateway/internal/proctest"
)

// rounds is how often everything is measured; medians are printed.
const rounds = 5

// times are repeated measurements, in seconds.
type times []float64

func (s times) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(s)-1)/2] + sorted[len(s)/2]) / 2
}

func seconds(f func()) float64 {
	start := time.Now()
	f()
	return time.Since(start).Seconds()
}

// tell prints a line for docs/BENCHMARKS.md.
func tell(t *testing.T, format string, args ...any) {
	t.Helper()
	load, _ := os.ReadFile("/proc/loadavg")
	t.Logf("%s (load %.4s)", fmt.Sprintf(format, args...), load)
}

// compare prints the medians of both sides and their ratio.
func compare(t *testing.T, what string, gateway, sshd times) {
	t.Helper()
	tell(t, "%s: gateway %.2f s, sshd %.2f s, ratio of times %.2f", what, gateway.median(), sshd.median(), gateway.median()/sshd.median())
}

// random writes a file of random bytes.
func random(t *testing.T, path string, size int64, seed uint64) {
	t.Helper()
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, io.LimitReader(rand.NewChaCha8(key), size)); err != nil {
		t.Fatal(err)
	}
}

// TestLargeFile puts a file that neither side has seen, on the gateway until its snapshot
// exists, and gets it: from the live tree and from the snapshot.
func TestLargeFile(t *testing.T) {
	size := int64(128 << 20)
	if full() {
		size = 1 << 30
	}
	g, s := gateway(t, disk, "{ snapshot: { when: close } }"), sshd(t, disk)
	see, err := g.login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer see.Close()
	local := filepath.Join(t.TempDir(), "local")
	back := shm(t, "back")
	var put, closed, live, old, sshPut, sshGet times
	for round := range uint64(rounds) {
		random(t, local, size, 2*round)
		before := snapshots(t, see)
		var acknowledged float64
		put = append(put, seconds(func() {
			acknowledged = seconds(func() { g.sftp(t, "put "+local+" "+g.remote("large")) })
			if _, err := proctest.Wait(t.Context(), limit, func() bool { return snapshots(t, see) > before }); err != nil {
				t.Fatal(err)
			}
		}))
		closed = append(closed, acknowledged)
		sshPut = append(sshPut, seconds(func() { s.sftp(t, "put "+local+" "+s.remote("large")) }))
		live = append(live, seconds(func() { g.sftp(t, "get "+g.remote("large")+" "+back) }))
		sshGet = append(sshGet, seconds(func() { s.sftp(t, "get "+s.remote("large")+" "+back) }))
		old = append(old, seconds(func() { g.sftp(t, "get /.snapshots/latest/large "+back) }))
	}
	mib := size >> 20
	compare(t, fmt.Sprintf("put of %d MiB until acknowledged", mib), closed, sshPut)
	compare(t, fmt.Sprintf("put of %d MiB until its snapshot exists", mib), put, sshPut)
	compare(t, fmt.Sprintf("get of %d MiB, live", mib), live, sshGet)
	compare(t, fmt.Sprintf("get of %d MiB from a snapshot", mib), old, sshGet)
	tell(t, "peak memory of the gateway %d MiB, key derivation included", g.peak(t))
}

// shm is a path on tmpfs for what a client writes, so that no disk of the client counts.
func shm(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(tmpfs, "sgbench")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, name)
}

// places are the disks that servers are measured on.
func places() map[string]string { return map[string]string{"tmpfs": tmpfs, "disk": disk} }

// TestMirror uploads many small files with lftp.
func TestMirror(t *testing.T) {
	const parallel = 4
	files := 1000
	if full() {
		files = 5000
	}
	local := filepath.Join(t.TempDir(), "files")
	small(t, local, files, 4<<10)
	for place, parent := range places() {
		t.Run(place, func(t *testing.T) {
			g, s := gateway(t, parent, "{ snapshot: { when: batch } }"), sshd(t, parent)
			var ours, theirs, flushes times
			for round := range rounds {
				flushes = append(flushes, flush(t, parent))
				mirror := func(s *server) float64 {
					commands := fmt.Sprintf("set sftp:connect-program \"ssh -a -x -F %s -c %s\"; set net:max-retries 1; set cmd:fail-exit yes; set sftp:auto-confirm yes; open -u %s,none sftp://%s; mirror -R --parallel=%d %s %s",
						s.config, cipher, s.user, s.name, parallel, local, s.remote(fmt.Sprintf("mirror%d", round)))
					return seconds(func() { run(t, "lftp", "--norc", "-c", commands) })
				}
				ours, theirs = append(ours, mirror(g)), append(theirs, mirror(s))
			}
			compare(t, fmt.Sprintf("lftp mirror -R of %d files of 4 KiB, %d parallel", files, parallel), ours, theirs)
			rate, flushed := float64(files)/ours.median(), 1/flushes.median()
			tell(t, "gateway %.0f files/s, sshd %.0f files/s; one after the other, this disk flushes %.0f appends of 4 KiB a second: %.2f files a flush",
				rate, float64(files)/theirs.median(), flushed, rate/flushed)
		})
	}
}

// flush appends to a file below parent and flushes it, and returns how long one takes.
func flush(t *testing.T, parent string) float64 {
	t.Helper()
	const n = 200
	f, err := os.CreateTemp(parent, "flush")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	data := make([]byte, 4<<10)
	return seconds(func() {
		for range n {
			if _, err := f.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}) / n
}

// small makes a directory of small files of random bytes.
func small(t *testing.T, dir string, n int, size int64) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		random(t, filepath.Join(dir, fmt.Sprintf("%05d", i)), size, uint64(i))
	}
}

// TestManyClients has 200 clients at once upload files of their own.
func TestManyClients(t *testing.T) {
	const clients, files, size = 200, 20, 100 << 10
	for place, parent := range places() {
		t.Run(place, func(t *testing.T) {
			g, s := gateway(t, parent, "{ snapshot: { when: batch } }"), sshd(t, parent)
			g.resetPeak(t)
			var ours, theirs times
			for round := range rounds {
				ours = append(ours, seconds(func() { swarm(t, g, round, clients, files, size) }))
				theirs = append(theirs, seconds(func() { swarm(t, s, round, clients, files, size) }))
			}
			what := fmt.Sprintf("%d clients with %d files of %d KiB each", clients, files, size>>10)
			compare(t, what, ours, theirs)
			tell(t, "%s: gateway %.0f files/s, sshd %.0f files/s, peak memory of the gateway %d MiB", what,
				clients*files/ours.median(), clients*files/theirs.median(), g.peak(t))
		})
	}
}

// swarm runs clients that log in and upload; all must succeed.
func swarm(t *testing.T, s *server, round, clients, files, size int) {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(round)}).Read(data)
	group, ctx := errgroup.WithContext(t.Context())
	for n := range clients {
		group.Go(func() error {
			c, err := s.login(ctx)
			if err != nil {
				return fmt.Errorf("client %d: %w", n, err)
			}
			defer c.Close()
			dir := s.remote(fmt.Sprintf("r%d-c%d", round, n))
			if err := c.Mkdir(dir); err != nil {
				return err
			}
			for i := range files {
				if err := upload(c, fmt.Sprintf("%s/%d", dir, i), data, nil); err != nil {
					return fmt.Errorf("client %d: %w", n, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// upload writes a file and notes how long CLOSE took.
func upload(c client, name string, data []byte, closes *times) error {
	f, err := c.Create(name)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	took := seconds(func() { err = f.Close() })
	if closes != nil {
		*closes = append(*closes, took)
	}
	return err
}

// TestCloseDuringCommit uploads small files while a large commit runs, and while none does.
func TestCloseDuringCommit(t *testing.T) {
	files := 20_000
	if full() {
		files = 100_000
	}
	for place, parent := range places() {
		t.Run(place, func(t *testing.T) { closeDuringCommit(t, parent, files) })
	}
}

func closeDuringCommit(t *testing.T, parent string, files int) {
	t.Helper()
	g := gateway(t, parent, "{ snapshot: { when: manual } }", "changes: 300000") // so that all are one commit
	fill(t, g, files)
	c := g.mustLogin(t)
	data := make([]byte, 4<<10)
	var idle, busy times
	uploads := func(into *times, name string, done func() bool) {
		for n := 0; !done(); n++ {
			if err := upload(c, fmt.Sprintf("/%s-%d", name, n), data, into); err != nil {
				t.Fatal(err)
			}
		}
	}
	uploads(&idle, "idle", func() bool { return len(idle) == 1000 })
	ended := make(chan error, 1)
	start := time.Now()
	go func() {
		_, err := g.g.Command(t.Context(), "snapshot", "main")
		ended <- err
	}()
	uploads(&busy, "busy", func() bool {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return true
		default:
			return false
		}
	})
	took := time.Since(start)
	p99 := func(s times) float64 { return 1000 * slices.Sorted(slices.Values(s))[len(s)*99/100] }
	tell(t, "CLOSE of 4 KiB: p50 %.2f ms idle, %.2f ms while a commit of %d files runs (%.1f s); p99 %.2f ms and %.2f ms, ratio %.2f (%d closes)",
		1000*idle.median(), 1000*busy.median(), files, took.Seconds(), p99(idle), p99(busy), p99(busy)/p99(idle), len(busy))
}

// perDir is how many files fill puts into a directory.
const perDir = 100

func dirName(d int) string { return fmt.Sprintf("/dir-%05d", d) }

func fileName(n int) string { return fmt.Sprintf("%s/file-%05d", dirName(n/perDir), n%perDir) }

// fill uploads small files in directories of 100 over several connections.
func fill(t *testing.T, s *server, files int) (closes times) {
	t.Helper()
	const connections = 16
	group, ctx := errgroup.WithContext(t.Context())
	took := make([]times, connections)
	for w := range connections {
		group.Go(func() error {
			c, err := s.login(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			for d := w; d < files/perDir; d += connections {
				if err := c.Mkdir(dirName(d)); err != nil {
					return err
				}
				for i := range perDir {
					name := fileName(d*perDir + i)
					if err := upload(c, name, []byte(name), &took[w]); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return slices.Concat(took...)
}
