package restore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/sftptest"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
)

// plainServer is OpenSSH's server as an older or another one would be: without extensions, and, when
// reversed is set, with the arguments of SYMLINK as the draft has them.
type plainServer struct {
	dial     func(context.Context) (io.ReadWriteCloser, error)
	reversed bool
	// refuses, when it is not nil, is the status with which it answers a request, 0 for what the
	// server answers; then it has its extensions.
	refuses func(typ byte, body []byte) uint32
	// cuts, when it is not nil, says that a request ends the connection.
	cuts func(typ byte, body []byte) bool
	// room, when it is not nil, changes what the server says of a file system: the numbers of statvfs.
	room func(numbers []byte)
	wg   sync.WaitGroup
}

func (p *plainServer) open(ctx context.Context) (io.ReadWriteCloser, error) {
	server, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	var refused sync.Map // ids of requests, and their status
	p.wg.Go(func() {
		relay(far, server, func(typ byte, body []byte) []byte {
			if typ == 2 && p.refuses == nil { // VERSION
				return body[:4]
			}
			if code, ok := refused.LoadAndDelete(string(body[:4])); ok && typ == 101 { // STATUS
				body = binary.BigEndian.AppendUint32(body[:4:4], code.(uint32))
				body = append(body, 0, 0, 0, 0, 0, 0, 0, 0)
			}
			if typ == 201 && p.room != nil && len(body) == 4+11*8 { // EXTENDED_REPLY
				p.room(body[4:])
			}
			return body
		})
	})
	p.wg.Go(func() {
		relay(server, far, func(typ byte, body []byte) []byte {
			if p.cuts != nil && p.cuts(typ, body[4:]) {
				_ = server.Close()
			}
			if p.refuses != nil {
				if code := p.refuses(typ, body[4:]); code != 0 {
					refused.Store(string(body[:4]), code)
					// Of a handle, or a path, that is not there: it changes nothing.
					body = append(append(body[:4:4], 0, 0, 0, 1), make([]byte, 1+8+4)...)
					if typ == 200 {
						body = append(body[:4:4], 0, 0, 0, 1, 'x')
					}
				}
			}
			if typ != 20 || !p.reversed { // SYMLINK
				return body
			}
			first := 8 + binary.BigEndian.Uint32(body[4:])
			return append(append(append([]byte(nil), body[:4]...), body[first:]...), body[4:first]...)
		})
	})
	return near, nil
}

// relay passes packets on, as change has them: the type, and what comes after it.
func relay(dst io.WriteCloser, src io.Reader, change func(typ byte, body []byte) []byte) {
	defer dst.Close()
	var head [5]byte
	for {
		if _, err := io.ReadFull(src, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(src, body); err != nil {
			return
		}
		body = change(head[4], body)
		binary.BigEndian.PutUint32(head[:], uint32(len(body)+1))
		if _, err := dst.Write(append(head[:], body...)); err != nil {
			return
		}
	}
}

// A server without posix-rename refuses to replace, and one without lsetstat cannot set times of
// links: files are replaced all the same. Links come out right in whatever order their arguments
// are taken.
func TestPlainServers(t *testing.T) {
	for _, reversed := range []bool{false, true} {
		name := "OpenSSH's order"
		if reversed {
			name = "the draft's order"
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dest")
			p := &plainServer{dial: sftptest.Dialer(t), reversed: reversed}
			tr := house().links()
			write(t, filepath.Join(dir, "small"), "an older one")
			if err := os.Symlink("elsewhere", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			// What a restore that was killed has left, of the same directory by another name.
			if err := os.Symlink("/elsewhere/.snapgate-order-a", filepath.Join(dir, ".snapgate-order-b")); err != nil {
				t.Fatal(err)
			}
			// And one that was killed after it had moved an old file aside.
			target := openSFTP(t, dir, p.open)
			if _, err := try(t, losing{target}, tree{}.dir("/", 0o755).file("/small", "hello\n")); err != nil {
				t.Fatal(err)
			}
			temp, err := filepath.Glob(filepath.Join(dir, ".small.*.part"))
			if err != nil || len(temp) != 1 {
				t.Fatalf("%q, %v", temp, err)
			}
			write(t, filepath.Join(dir, filepath.Base(pull.AsideName(temp[0]))), "left")
			write(t, filepath.Join(dir, "small"), "an older one")
			report := run(t, target, tr, func(c *restore.Config) { c.Verify = true })
			clean(t, report)
			differences(t, describe(t, dir), tr.describe())
			if c := report.Counts(); c.Replaced != 2 {
				t.Errorf("counts %+v", c)
			}
			for _, line := range describe(t, dir) {
				if strings.Contains(line, "snapgate") {
					t.Errorf("left behind: %s", line)
				}
			}
		})
	}
}

// OpenSSH's server says "Failure" when its disk is full: what statvfs tells ends the restore, as on a local disk.
func TestServerFull(t *testing.T) {
	zero := func(b []byte, i int) { copy(b[8*i:8*i+8], make([]byte, 8)) }
	for _, tt := range []struct {
		name    string
		refused byte // the request
		room    func(numbers []byte)
		want    error
	}{
		{"no block is left", 6, func(b []byte) { zero(b, 4) }, syscall.ENOSPC},                // WRITE
		{"no inode is left", 14, func(b []byte) { b[8*5+7] = 1; zero(b, 7) }, syscall.ENOSPC}, // MKDIR
		{"read-only", 3, func(b []byte) { b[8*9+7] |= 1 }, syscall.EROFS},                     // OPEN
		{"something else", 6, func(b []byte) { b[8*4+7], b[8*7+7] = 1, 1; zero(b, 9) }, nil},  // WRITE
		{"unknown numbers", 6, func(b []byte) { clear(b) }, nil},                              // WRITE
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &plainServer{dial: sftptest.Dialer(t), room: tt.room, refuses: func(typ byte, body []byte) uint32 {
				writes := typ != 3 || body[4+binary.BigEndian.Uint32(body)+3]&2 != 0
				if typ == tt.refused && writes {
					return 4 // FAILURE
				}
				return 0
			}}
			target := openSFTP(t, filepath.Join(t.TempDir(), "dest"), p.open)
			if _, err := target.MakeRoot(t.Context()); err != nil && tt.refused != 14 {
				t.Fatal(err)
			}
			report, err := try(t, target, tree{}.dir("/", 0o755).file("/a", "a").dir("/d", 0o755))
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				list, _ := report.Problems()
				t.Errorf("got %v, want %v; problems %+v, %+v", err, tt.want, list, report.Counts())
			}
			if list, _ := report.Problems(); tt.want == nil && len(list) != 1 {
				t.Errorf("problems %+v", list)
			}
		})
	}
}

// What was moved aside does not stay there when the connection is lost before it is removed: in the same
// run, or in the next one, also of a single file.
func TestAsideIsRemoved(t *testing.T) {
	for name, tt := range map[string]struct {
		path string
		ends bool // the server is away for the rest of the run
		runs int
	}{"the same run": {"/", false, 1}, "the next": {"/", true, 3}, "the next, of a file": {"/a", true, 2}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dest")
			var cut sync.Map // of the files whose removal was
			var away atomic.Bool
			p := &plainServer{dial: sftptest.Dialer(t), cuts: func(typ byte, body []byte) bool {
				if typ != remove || !bytes.HasSuffix(body, []byte(".old")) {
					return away.Load()
				}
				_, was := cut.LoadOrStore(string(body), true)
				if !was && tt.ends {
					away.Store(true)
				}
				return !was || away.Load()
			}}
			tr := tree{}.dir("/", 0o755).file("/a", "of a")
			write(t, filepath.Join(dir, "a"), "an old one")
			if tt.path == "/" {
				tr.link("/l", "a")
				write(t, filepath.Join(dir, "l"), "no link")
			}
			target := openSFTP(t, dir, func(ctx context.Context) (io.ReadWriteCloser, error) {
				if away.Load() {
					return nil, io.EOF
				}
				return p.open(ctx)
			})
			for n := 1; ; n++ {
				away.Store(false)
				report, err := try(t, target, tr, func(c *restore.Config) { c.Path, c.Workers = tt.path, 1 })
				if n == tt.runs && err == nil {
					clean(t, report)
					break
				}
				if n >= tt.runs || err == nil || pull.KindOf(err) != pull.KindConnection {
					t.Fatalf("run %d: %v", n, err)
				}
			}
			differences(t, describe(t, dir), tr.describe())
			n := 0
			cut.Range(func(any, any) bool { n++; return true })
			if n != len(tr)-1 {
				t.Errorf("%d removals were cut", n)
			}
		})
	}
}

const (
	remove                      = 13
	setstat, fsetstat, extended = 9, 10, 200
	failure, unsupported        = 4, 8
)

// isLsetstat reports whether an extended request is lsetstat@openssh.com, with a mode.
func isLsetstat(typ byte, body []byte) bool {
	name := []byte("lsetstat@openssh.com")
	if typ != extended || !bytes.HasPrefix(body[4:], name) {
		return false
	}
	path := body[4+len(name):]
	flags := path[4+binary.BigEndian.Uint32(path):]
	return binary.BigEndian.Uint32(flags)&4 != 0
}

// OpenSSH's server cannot set modes without following links where its system has no way to: in a
// root directory without /proc. Directories get theirs all the same, also those that were there.
func TestModesWithoutLsetstat(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dest")
	p := &plainServer{dial: sftptest.Dialer(t), refuses: func(typ byte, body []byte) uint32 {
		if isLsetstat(typ, body) {
			return failure
		}
		return 0
	}}
	tr := house().links()
	clean(t, run(t, openSFTP(t, dir, p.open), tr))
	differences(t, describe(t, dir), tr.describe())
	for _, name := range []string{"deep", "small"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	clean(t, run(t, openSFTP(t, dir, p.open), tr))
	differences(t, describe(t, dir), tr.describe())
}

// A server that does not know how to set those of one kind sets those of the others, and that is said.
func TestAttributesOfOneKind(t *testing.T) {
	for kind, want := range map[string]string{"link": "", "dir": "modes of directories times of directories"} {
		dir := filepath.Join(t.TempDir(), "dest")
		p := &plainServer{dial: sftptest.Dialer(t), refuses: func(typ byte, body []byte) uint32 {
			if (typ == setstat || typ == extended) && bytes.Contains(body, []byte("/"+kind)) && !bytes.Contains(body, []byte("rename@")) {
				return unsupported
			}
			return 0
		}}
		tr := tree{}.dir("/", 0o755).file("/a", "of a").dir("/dir", 0o700).dir("/other", 0o750).link("/link", "a")
		report := run(t, openSFTP(t, dir, p.open), tr, func(c *restore.Config) { c.Workers = 1 })
		clean(t, report)
		if got := strings.Join(report.Cannot(), " "); got != want {
			t.Errorf("of a %s: not set %q", kind, got)
		}
		if kind == "link" {
			differences(t, describe(t, dir), tr.describe())
		}
	}
}

// A server that does not know how to set attributes gets the files without, and that is said once;
// what one refuses to set is a problem of a file that is there.
func TestAttributesRefused(t *testing.T) {
	for _, code := range []uint32{unsupported, failure} {
		dir := filepath.Join(t.TempDir(), "dest")
		p := &plainServer{dial: sftptest.Dialer(t), refuses: func(typ byte, body []byte) uint32 {
			if typ == fsetstat || code == unsupported && (typ == setstat || isLsetstat(typ, body)) {
				return code
			}
			return 0
		}}
		tr := tree{}.dir("/", 0o755).file("/a", "of a").dir("/d", 0o755).file("/d/b", "of b")
		write(t, filepath.Join(dir, "a"), "an old one")
		report := run(t, openSFTP(t, dir, p.open), tr, func(c *restore.Config) { c.Verify = true })
		for name, want := range map[string]string{"a": "of a", "d/b": "of b"} {
			if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
				t.Errorf("status %d: %s is %q, %v", code, name, data, err)
			}
		}
		list, _ := report.Problems()
		problems, cannot := 2, ""
		if code == unsupported {
			problems, cannot = 0, "modes times"
		}
		if got := strings.Join(report.Cannot(), " "); len(list) != problems || got != cannot || report.Counts().Restored != 2 {
			t.Errorf("status %d: problems %+v, not set %q, %+v", code, list, got, report.Counts())
		}
	}
}

// Without its owner a file does not become another user's program.
func TestOwnerRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dest")
	p := &plainServer{dial: sftptest.Dialer(t), refuses: func(typ byte, body []byte) uint32 {
		if typ != fsetstat {
			return 0
		}
		if flags := body[4+binary.BigEndian.Uint32(body):]; binary.BigEndian.Uint32(flags)&2 != 0 { // an owner
			return 3
		}
		return 0
	}}
	tr := tree{}.dir("/", 0o755).file("/plain", "x").file("/su", "y")
	it := tr["/su"]
	it.mode = 0o755 | os.ModeSetuid
	tr["/su"] = it
	report := run(t, openSFTP(t, dir, p.open), tr, func(c *restore.Config) { c.Owner = true })
	list, _ := report.Problems()
	if len(list) != 2 || list[0].Path != "/plain" || list[0].Kind != pull.KindPermission || list[1].Path != "/su" {
		t.Errorf("problems %+v", list)
	}
	if got := describe(t, dir); len(got) != 1 || !strings.HasPrefix(got[0], `"/plain" -rw-r-----`) {
		t.Errorf("there is %q", got)
	}
}

// Directories and links have all but their owner, and a link takes its place.
func TestOwnerRefusedToOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dest")
	p := &plainServer{dial: sftptest.Dialer(t), refuses: func(typ byte, body []byte) uint32 {
		if typ == extended { // of lsetstat, what follows its name is as in SETSTAT
			name := 4 + binary.BigEndian.Uint32(body)
			if string(body[4:name]) != "lsetstat@openssh.com" {
				return 0
			}
			typ, body = setstat, body[name:]
		}
		if typ != setstat && typ != fsetstat {
			return 0
		}
		if flags := body[4+binary.BigEndian.Uint32(body):]; binary.BigEndian.Uint32(flags)&2 != 0 { // an owner
			return 3
		}
		return 0
	}}
	tr := tree{}.dir("/", 0o755).dir("/sub", 0o751).link("/sub/link", "new")
	it := tr["/sub"]
	it.mode |= os.ModeSetgid
	tr["/sub"] = it
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "sub"), 0o700), os.Symlink("old", filepath.Join(dir, "sub", "link"))); err != nil {
		t.Fatal(err)
	}
	report := run(t, openSFTP(t, dir, p.open), tr, func(c *restore.Config) { c.Owner = true })
	list, _ := report.Problems()
	if len(list) != 2 || list[0].Path != "/sub" || list[1].Path != "/sub/link" || list[1].Kind != pull.KindPermission || report.Counts().Replaced != 1 {
		t.Errorf("problems %+v, %+v", list, report.Counts())
	}
	it.mode = os.ModeDir | 0o751 // without setgid, which would be of another group
	tr["/sub"] = it
	differences(t, describe(t, dir), tr.describe())
}
