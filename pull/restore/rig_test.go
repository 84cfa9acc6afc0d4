package restore_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ftpserver "github.com/fclairamb/ftpserverlib"
	"github.com/pkg/sftp"
	"github.com/spf13/afero"
	"go.uber.org/goleak"

	"github.com/snapgate/gateway/internal/sftptest"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// TestMain fails when anything that a test started is still there at the end, but for what
// kloset leaves: a repository cannot be closed.
func TestMain(m *testing.M) {
	// ftpserverlib waits for the data connection of a client that has gone, for half a minute.
	const ftp = "github.com/fclairamb/ftpserverlib.(*clientHandler)."
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"),
		goleak.IgnoreAnyFunction(ftp+"HandleCommands"), goleak.IgnoreAnyFunction(ftp+"executeCommandFn"))
}

const patience = time.Minute

// quick is a Retry for tests.
var quick = pull.Retry{Attempts: 5, First: time.Microsecond, Max: time.Millisecond}

var then = time.Date(2024, 2, 29, 13, 14, 15, 0, time.UTC)

// randomBytes are always the same for a size.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(b)
	return b
}

// item is what a tree has at a path.
type item struct {
	kind   snapshotter.ChangeKind
	mode   fs.FileMode
	when   time.Time
	data   []byte
	target string
}

// tree is a Source in memory: paths to items, with all their parents.
type tree map[string]item

func (tr tree) file(p, data string) tree {
	tr[p] = item{kind: snapshotter.File, mode: 0o640, when: then, data: []byte(data)}
	return tr
}

func (tr tree) dir(p string, mode fs.FileMode) tree {
	tr[p] = item{kind: snapshotter.Dir, mode: mode, when: then.Add(time.Hour)}
	return tr
}

func (tr tree) link(p, target string) tree {
	tr[p] = item{kind: snapshotter.Symlink, mode: 0o777, when: then, target: target}
	return tr
}

func (tr tree) entry(p string) (snapshotter.Entry, error) {
	it, ok := tr[p]
	if !ok {
		return snapshotter.Entry{}, &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
	}
	name := p[strings.LastIndexByte(p, '/')+1:]
	if p == "/" {
		name = "/"
	}
	return snapshotter.Entry{
		Name: name, Kind: it.kind, Size: int64(len(it.data)), Target: it.target, Version: uint64(len(it.data)),
		Attr: snapshotter.Attr{Mode: it.mode, ModTime: it.when, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())},
	}, nil
}

func (tr tree) Lstat(_ context.Context, p string) (snapshotter.Entry, error) { return tr.entry(p) }

func (tr tree) ReadDir(_ context.Context, dir, after string, n int) ([]snapshotter.Entry, error) {
	var names []string
	for p := range tr {
		if rest, ok := strings.CutPrefix(p, strings.TrimSuffix(dir, "/")+"/"); ok && rest != "" && rest > after {
			if !strings.Contains(strings.ReplaceAll(rest, `\`, "x"), "/") {
				names = append(names, rest)
			}
		}
	}
	slices.Sort(names)
	var list []snapshotter.Entry
	for _, name := range names[:min(n, len(names))] {
		e, err := tr.entry(strings.TrimSuffix(dir, "/") + "/" + name)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

type content []byte

// Slice implements restore.Content as a file of chunks does.
func (c content) Slice(off int64, n int) ([]byte, error) {
	const chunk = 77_777
	if off >= int64(len(c)) {
		return nil, io.EOF
	}
	end := min(off+int64(n), (off/chunk+1)*chunk, int64(len(c)))
	return c[off:end], nil
}

func (c content) Size() int64 { return int64(len(c)) }

func (c content) Close() error { return nil }

func (tr tree) Open(_ context.Context, p string) (restore.Content, error) {
	return content(tr[p].data), nil
}

// house is a tree with what a snapshot may have.
func house() tree {
	tr := tree{}
	tr.dir("/", 0o755)
	tr.file("/empty", "").file("/small", "hello\n").file("/exact", string(randomBytes(256<<10))).file("/large", string(randomBytes(3<<20+17)))
	tr.file("/.hidden", "h").file("/ lead and  two", "s").file("/-rf", "d").file("/[a]*?", "g").file("/ünï", "u")
	tr.file("/"+strings.Repeat("n", 255), "long").file("/"+strings.Repeat("ü", 127), "long too")
	tr.dir("/many", 0o750)
	for i := range 120 {
		tr.file(fmt.Sprintf("/many/f%03d", i), string(rune('a'+i%26)))
	}
	tr.dir("/deep", 0o755).dir("/deep/er", 0o700).dir("/deep/er/est", 0o711).dir("/void", 0o755).dir("/closed", 0o555).file("/closed/in", "x")
	return tr
}

// links are what FTP cannot have.
func (tr tree) links() tree {
	return tr.link("/link", "small").link("/dangling", "../no where").link("/many/up", "/etc/passwd").file("/\xe4\xf6 latin", "l")
}

// describe lists a local directory, one line a path.
func describe(tb testing.TB, dir string) []string {
	tb.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, dir)
		if rel == "" {
			return nil
		}
		line := fmt.Sprintf("%q %v", rel, fi.Mode())
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(data))
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line = fmt.Sprintf("%q -> %q", rel, target)
			lines = append(lines, line)
			return nil
		}
		lines = append(lines, line+" "+fi.ModTime().UTC().Format(time.RFC3339Nano))
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// describe lists the tree as describe lists what it was restored to.
func (tr tree) describe() []string {
	var lines []string
	for p, it := range tr {
		line := fmt.Sprintf("%q %v", p, it.mode)
		switch {
		case p == "/":
			continue
		case it.kind == snapshotter.Dir:
			line = fmt.Sprintf("%q %v", p, it.mode|fs.ModeDir)
		case it.kind == snapshotter.Symlink:
			lines = append(lines, fmt.Sprintf("%q -> %q", p, it.target))
			continue
		default:
			line += fmt.Sprintf(" %x", sha256.Sum256(it.data))
		}
		lines = append(lines, line+" "+it.when.Format(time.RFC3339Nano))
	}
	slices.Sort(lines)
	return lines
}

// differences shows what two lists do not share.
func differences(tb testing.TB, got, want []string) {
	tb.Helper()
	n := 0
	show := func(format, line string) {
		if n++; n <= 10 {
			tb.Errorf(format, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			show("too much: %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			show("missing: %s", line)
		}
	}
}

// kind is one way to reach a directory of this machine.
type kind struct {
	name string
	open func(t *testing.T, dir string) pull.Target
	// What it cannot do.
	noLinks, noTimes bool
}

func kinds() []kind {
	return []kind{
		{name: "local", open: openLocal},
		{name: "sftp", open: func(t *testing.T, dir string) pull.Target { return openSFTP(t, dir, (&sftpServer{}).dial) }},
		{name: "openssh", open: func(t *testing.T, dir string) pull.Target { return openSFTP(t, dir, sftptest.Dialer(t)) }},
		{name: "ftp", open: func(t *testing.T, dir string) pull.Target { return openFTP(t, dir, &ftpDriver{}) }, noLinks: true},
		{name: "ftp without MLSD and MFMT", open: func(t *testing.T, dir string) pull.Target {
			return openFTP(t, dir, &ftpDriver{settings: ftpserver.Settings{DisableMLSD: true, DisableMLST: true, DisableMFMT: true}})
		}, noLinks: true, noTimes: true},
	}
}

func openLocal(t *testing.T, dir string) pull.Target {
	t.Helper()
	f, err := pull.NewFSTarget(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// sftpServer is pkg/sftp's server in this process.
type sftpServer struct {
	wg     sync.WaitGroup
	budget atomic.Int64 // bytes to the server until all connections are cut, when positive
	dials  atomic.Int32
}

func (s *sftpServer) dial(context.Context) (io.ReadWriteCloser, error) {
	s.dials.Add(1)
	near, far := net.Pipe()
	srv, err := sftp.NewServer(far)
	if err != nil {
		return nil, err
	}
	s.wg.Go(func() { _ = srv.Serve(); _ = srv.Close() })
	return &cutting{Conn: near, s: s}, nil
}

type cutting struct {
	net.Conn
	s *sftpServer
}

func (c *cutting) Write(p []byte) (int, error) {
	if c.s.budget.Load() > 0 && c.s.budget.Add(-int64(len(p))) <= 0 {
		c.s.budget.Store(0)
		_ = c.Conn.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func openSFTP(t *testing.T, dir string, dial func(context.Context) (io.ReadWriteCloser, error)) *pull.SFTP {
	t.Helper()
	r, err := pull.NewSFTP(pull.SFTPConfig{Dial: dial, Root: dir, Connections: 2, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// ftpDriver serves a directory by ftpserverlib, in this process.
type ftpDriver struct {
	settings ftpserver.Settings
	dir      string
	lossy    bool // the second half of each piece of an upload is lost without a word
	turns    turns
}

func (d *ftpDriver) GetSettings() (*ftpserver.Settings, error) { return &d.settings, nil }

func (d *ftpDriver) ClientConnected(ftpserver.ClientContext) (string, error) { return "hello", nil }
func (d *ftpDriver) ClientDisconnected(ftpserver.ClientContext)              {}

func (d *ftpDriver) AuthUser(ftpserver.ClientContext, string, string) (ftpserver.ClientDriver, error) {
	files := driver{afero.NewBasePathFs(afero.NewOsFs(), d.dir), &d.turns}
	if d.lossy {
		return lossyDriver{files}, nil
	}
	return files, nil
}

type lossyDriver struct{ driver }

func (d lossyDriver) OpenFile(name string, flag int, perm fs.FileMode) (afero.File, error) {
	f, err := d.driver.OpenFile(name, flag, perm)
	return lossyFile{f}, err
}

type lossyFile struct{ afero.File }

func (f lossyFile) Write(p []byte) (int, error) {
	if _, err := f.File.Write(p[:len(p)/2]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// turns has the uploads of a file take turns. A connection that is lost leaves bytes that the server has not
// read yet. It writes them when it comes to that, and the file gets the time of then, even if the next upload
// of the file is over, and has set its own: tests are about servers that have noticed in time.
type turns struct {
	mu sync.Mutex // guards of
	of map[string]*sync.Mutex
}

// take waits for the turn of an upload, which done ends.
func (t *turns) take(name string) (done func()) {
	t.mu.Lock()
	if t.of == nil {
		t.of = map[string]*sync.Mutex{}
	}
	turn := t.of[name]
	if turn == nil {
		turn = &sync.Mutex{}
		t.of[name] = turn
	}
	t.mu.Unlock()
	turn.Lock()
	return turn.Unlock
}

// upload is a file that is written to, until it is closed.
type upload struct {
	afero.File
	done func()
}

func (u *upload) Close() error {
	defer u.done()
	return u.File.Close()
}

// driver tells DELE from RMD.
type driver struct {
	afero.Fs
	turns *turns
}

func (d driver) OpenFile(name string, flag int, perm fs.FileMode) (afero.File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return d.Fs.OpenFile(name, flag, perm)
	}
	done := sync.OnceFunc(d.turns.take(name))
	f, err := d.Fs.OpenFile(name, flag, perm)
	if err != nil {
		done()
		return nil, err
	}
	return &upload{f, done}, nil
}

func (d driver) RemoveDir(name string) error {
	fi, err := d.lstat(name)
	if err == nil && !fi.IsDir() {
		err = errors.New("not a directory")
	}
	if err != nil {
		return err
	}
	return d.Fs.Remove(name)
}

func (d driver) lstat(name string) (fs.FileInfo, error) {
	fi, _, err := d.Fs.(afero.Lstater).LstatIfPossible(name)
	return fi, err
}

func (d driver) Remove(name string) error {
	fi, err := d.lstat(name)
	if err == nil && fi.IsDir() {
		err = errors.New("a directory")
	}
	if err != nil {
		return err
	}
	return d.Fs.Remove(name)
}

func openFTP(t *testing.T, dir string, d *ftpDriver) *pull.FTP {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.dir = filepath.Dir(dir)
	d.settings.Listener, d.settings.DefaultTransferType, d.settings.DisableASCIIConversion = ln, ftpserver.TransferTypeBinary, true
	d.settings.EnableHASH = true
	srv := ftpserver.NewFtpServer(d)
	if err := srv.Listen(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve() })
	r, err := pull.NewFTP(pull.FTPConfig{
		Addr: ln.Addr().String(), User: "me", Password: "x", Root: "/" + filepath.Base(dir), Connections: 4, Timeout: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); _ = srv.Stop(); wg.Wait() })
	return r
}

func (d *ftpDriver) GetTLSConfig() (*tls.Config, error) { return nil, errors.New("no TLS") }

// run restores and fails the test when that fails.
func run(t *testing.T, target pull.Target, src restore.Source, change ...func(*restore.Config)) *restore.Report {
	t.Helper()
	report, err := try(t, target, src, change...)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func try(t *testing.T, target pull.Target, src restore.Source, change ...func(*restore.Config)) (*restore.Report, error) {
	t.Helper()
	cfg := restore.Config{Source: src, Path: "/", Target: target, Report: &restore.Report{}, Retry: quick}
	for _, c := range change {
		c(&cfg)
	}
	return cfg.Report, restore.Run(t.Context(), cfg)
}

// clean fails the test when there are problems.
func clean(t *testing.T, r *restore.Report) {
	t.Helper()
	list, _ := r.Problems()
	for i, p := range list {
		if i < 10 {
			t.Errorf("problem: %s: %s", p.Path, p.Text)
		}
	}
}

// snapshot pulls a local directory into a store.
func snapshot(t *testing.T, dir string) *snapshotter.View {
	t.Helper()
	ctx := t.Context()
	s, err := snapshotter.New(ctx, snapshotter.Config{Store: storetest.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	remote, err := pull.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	report := &pull.Report{}
	changes := pull.Plan(ctx, remote, pull.Scan(ctx, remote, pull.ScanConfig{Report: report, TempDir: t.TempDir()}), pull.PlanConfig{Report: report})
	id, err := s.Commit(ctx, snapshotter.ID{}, changes, snapshotter.Meta{Share: "p", ShareID: "s", GatewayID: "g", Sequence: 1, Time: then, Reason: "pull"})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.View(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// hostile is a tree whose root has names that nothing can have.
type hostile struct {
	tree
	names []string
}

func (h hostile) ReadDir(ctx context.Context, dir, after string, n int) ([]snapshotter.Entry, error) {
	list, err := h.tree.ReadDir(ctx, dir, after, n)
	if dir == "/" && after == "" {
		for _, name := range h.names {
			e := list[0]
			e.Name = name
			list = append([]snapshotter.Entry{e}, list...)
		}
	}
	return list, err
}

func nobodyAsks(t *testing.T) func(context.Context, restore.Extras) (bool, error) {
	return func(context.Context, restore.Extras) (bool, error) {
		t.Error("it asks")
		return true, nil
	}
}
