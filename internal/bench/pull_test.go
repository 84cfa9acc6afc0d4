//go:build bench

package bench

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// roundTrip is that of a far link.
const roundTrip = 50 * time.Millisecond

// farLink passes connections on to addr with half a round trip of delay each way, and as much
// throughput as there is: the machine may have no netem. It returns its port.
func farLink(t *testing.T, addr string) int {
	t.Helper()
	return listen(t, func(near net.Conn) { carry(near, addr) })
}

// carry takes one connection the long way to addr.
func carry(near net.Conn, addr string) {
	far, err := net.Dial("tcp", addr)
	if err != nil {
		_ = near.Close()
		return
	}
	both(near, far)
}

// both carries what either side of a connection sends.
func both(near, far net.Conn) {
	var back sync.WaitGroup
	back.Go(func() { late(far, near) })
	late(near, far)
	back.Wait()
}

// listen serves connections on a port of its own until the test ends.
func listen(t *testing.T, serve func(net.Conn)) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accept(t, ln, serve)
	return ln.Addr().(*net.TCPAddr).Port
}

// accept serves the connections of a listener until the test ends.
func accept(t *testing.T, ln net.Listener, serve func(net.Conn)) {
	t.Helper()
	var all sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serve(conn) })
		}
	})
}

// late copies what comes with a delay.
func late(to, from net.Conn) {
	type piece struct {
		data []byte
		due  time.Time
	}
	under := make(chan piece, 1<<10) // up to 64 MiB: more than a window at this delay
	go func() {
		defer close(under)
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				under <- piece{bytes.Clone(buf[:n]), time.Now().Add(roundTrip / 2)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range under {
		<-time.After(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			_ = from.Close() // ends the reader, whose pieces are dropped
			continue
		}
	}
	_ = to.Close()
}

// link is a way to an SSH server.
type link struct {
	name string
	port int
}

// links are the ways to a server.
func links(t *testing.T, s *server) []link {
	t.Helper()
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	near, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return []link{{"loopback", near}, {"50 ms", farLink(t, s.addr)}}
}

// key is the private key that logs in to an sshd.
func (s *server) key() string { return filepath.Join(filepath.Dir(s.config), "key") }

// sshSettings are those of a source or a destination on an sshd.
func (s *server) sshSettings(l link, dir string) string {
	return fmt.Sprintf("{ location: %q, ssh_config: %q, port: %d, agent: none }", "sftp://"+s.user+"@sshd:"+dir, s.config, l.port)
}

// puller is a gateway without a server that has a source, peer, and a destination, back.
func puller(t *testing.T, source, destination string) *proctest.Gateway {
	t.Helper()
	return proctest.NewGateway(t, proctest.Options{Parent: disk, Extra: fmt.Sprintf("sources: { peer: %s }\ndestinations: { back: %s }\n", source, destination)})
}

// rclone runs rclone with the settings of an SSH server.
func rclone(t *testing.T, s *server, l link, args ...string) {
	t.Helper()
	run(t, "rclone", append(args, "--config", "/dev/null", "--sftp-host", "127.0.0.1", "--sftp-port", strconv.Itoa(l.port),
		"--sftp-user", s.user, "--sftp-key-file", s.key(), "--sftp-disable-hashcheck", "--quiet")...)
}

// restic backs up a directory into a new repository.
func restic(t *testing.T, dir string) {
	t.Helper()
	t.Setenv("RESTIC_PASSWORD", "benchmark")
	repo := filepath.Join(t.TempDir(), "restic")
	run(t, "restic", "-q", "-r", repo, "init")
	run(t, "restic", "-q", "-r", repo, "--no-cache", "backup", dir)
}

// load is what is moved.
type load struct {
	name  string
	dir   string // on the server
	files int
	bytes int64 // of the largest file
}

// rate is how many times as fast one side is as the other, which may have moved fewer files: the median of the rounds',
// as a disk that others share is another one in each.
func rate(ours times, files int, theirs times, theirFiles int) float64 {
	var ratios times
	for i := range ours {
		ratios = append(ratios, theirs[i]/ours[i])
	}
	return ratios.median() * float64(files) / float64(theirFiles)
}

// TestPull pulls trees from an sshd into a new store, beside rclone sync and restic backup of
// what that has brought, and restores them to it, beside rclone copy. Over the far link rclone,
// which takes minutes for some thousand files, gets fewer, and files a second are compared.
func TestPull(t *testing.T) {
	const few = 500
	size, files := int64(128<<20), 2000
	if full() {
		size, files = 1<<30, 20_000
	}
	s := sshd(t, disk)
	one := load{fmt.Sprintf("%d MiB in one file", size>>20), filepath.Join(s.dir, "one"), 1, size}
	if err := os.Mkdir(one.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	random(t, filepath.Join(one.dir, "large"), size, 1)
	many := load{fmt.Sprintf("%d files of 4 KiB", files), filepath.Join(s.dir, "many"), files, 4 << 10}
	small(t, many.dir, files, 4<<10)
	part := load{"", filepath.Join(s.dir, "part"), few, 4 << 10}
	small(t, part.dir, few, 4<<10)
	for i, l := range links(t, s) {
		far := i > 0
		s.pulls(t, one, one, l, 5) // a round takes long
		if far {
			s.pulls(t, many, part, l, 1)
		} else {
			s.pulls(t, many, many, l, 3)
		}
	}
}

// pulls measures pulls of ours, beside others' tools with theirs, and restores.
func (s *server) pulls(t *testing.T, ours, theirs load, l link, rounds int) {
	t.Run(ours.name+", "+l.name, func(t *testing.T) {
		var pull, copied, restored, plain, synced times
		for round := range rounds {
			back := ours.dir + "-back"
			g := puller(t, s.sshSettings(l, ours.dir), s.sshSettings(l, back))
			there := filepath.Join(t.TempDir(), "there")
			used(t, filepath.Join(s.dir, "used"), 3*ours.bytes) // a store here; a copy and a repository there
			inTurns(round, func() {
				pull = append(pull, seconds(func() { command(t, g, "pull", "--quiet", "peer") }))
			}, func() {
				copied = append(copied, seconds(func() {
					rclone(t, s, l, "sync", ":sftp:"+theirs.dir, there)
					restic(t, there)
				}))
			})
			used(t, filepath.Join(s.dir, "used"), ours.bytes)
			inTurns(round, func() {
				restored = append(restored, seconds(func() { command(t, g, "restore", "--quiet", "peer", "--to", "back") }))
				empty(t, back)
			}, func() {
				synced = append(synced, seconds(func() { // until it is on the disk, as what was restored is
					plain = append(plain, seconds(func() { rclone(t, s, l, "copy", there, ":sftp:"+back) }))
					syscall.Sync()
				}))
				empty(t, back)
			})
		}
		tell(t, "pull of %s, %s: %.2f s (%.0f files/s), rclone sync and restic backup of %d files %.2f s, ratio %.2f; restore %.2f s (%.0f files/s), rclone copy %.2f s, ratio %.2f, and its flush %.2f s, ratio %.2f",
			ours.name, l.name, pull.median(), float64(ours.files)/pull.median(), theirs.files, copied.median(), rate(pull, ours.files, copied, theirs.files),
			restored.median(), float64(ours.files)/restored.median(), plain.median(), rate(restored, ours.files, plain, theirs.files),
			synced.median(), rate(restored, ours.files, synced, theirs.files))
	})
}

// inTurns measures two sides, in each round another one first. Neither pays for what the one before has left to
// the disk.
func inTurns(round int, sides ...func()) {
	if round%2 == 1 {
		slices.Reverse(sides)
	}
	for _, side := range sides {
		syscall.Sync()
		side()
	}
}

// used writes a file and removes it, so that what is measured finds blocks that a virtual disk has given already:
// those cost several times as much as others.
func used(t *testing.T, name string, size int64) {
	t.Helper()
	random(t, name, size, 2)
	syscall.Sync()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// empty removes a directory and all that it holds.
func empty(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// TestPullParts pulls one large file over loopback, beside what that is made of: fetching it with OpenSSH's sftp, and
// storing it from the local disk. Both keep two cores busy, so no pull takes less than their sum there.
func TestPullParts(t *testing.T) {
	size := int64(128 << 20)
	if full() {
		size = 1 << 30
	}
	s := sshd(t, disk)
	dir := filepath.Join(s.dir, "one")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "large")
	random(t, file, size, 1)
	near := s.sshSettings(links(t, s)[0], dir)
	local := fmt.Sprintf("{ location: %q }", "fs://"+dir)
	var pull, fetch, store times
	for range rounds {
		far, here := puller(t, near, near), puller(t, local, near)
		used(t, filepath.Join(s.dir, "used"), 2*size)
		syscall.Sync()
		pull = append(pull, seconds(func() { command(t, far, "pull", "--quiet", "peer") }))
		syscall.Sync()
		fetch = append(fetch, seconds(func() { s.sftp(t, "get "+file+" /dev/null") }))
		syscall.Sync()
		store = append(store, seconds(func() { command(t, here, "pull", "--quiet", "peer") }))
	}
	parts := fetch.median() + store.median()
	tell(t, "pull of %d MiB, loopback: %.2f s; sftp get %.2f s, pull from the local disk %.2f s, together %.2f of it",
		size>>20, pull.median(), fetch.median(), store.median(), parts/pull.median())
}

// command runs a command of a gateway to its end.
func command(t *testing.T, g *proctest.Gateway, args ...string) {
	t.Helper()
	binary, err := filepath.Abs("../../bin/gateway")
	if err != nil {
		t.Fatal(err)
	}
	run(t, binary, append(args, "-c", g.Config)...)
}

// TestPullUnchanged pulls a large tree a second time, of which nothing has changed.
func TestPullUnchanged(t *testing.T) {
	files := 10_000
	if full() {
		files = 100_000
	}
	s := sshd(t, disk)
	dir := filepath.Join(s.dir, "tree")
	old := time.Now().Add(-time.Hour) // younger files are read again
	for d := range files / perDir {
		if err := os.MkdirAll(dir+dirName(d), 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range perDir {
			name := dir + fileName(d*perDir+i)
			write(t, name, name)
			if err := os.Chtimes(name, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	near := s.sshSettings(links(t, s)[0], dir)
	g := puller(t, near, near)
	first := seconds(func() { command(t, g, "pull", "--quiet", "peer") })
	var again times
	for range rounds {
		again = append(again, seconds(func() { command(t, g, "pull", "--quiet", "peer") }))
	}
	tell(t, "pull of %d files, loopback: %.2f s; again with nothing changed: %.2f s", files, first, again.median())
}
