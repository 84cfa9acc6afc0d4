//go:build faults && linux

package faults

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapgate/gateway/internal/crash"
	"github.com/snapgate/gateway/internal/proctest"
)

const (
	// alice is the account that the tests use.
	alice = "alice"
	// nobody is the user that the gateway runs as where permissions matter: root has all.
	nobody = 65534
	// resumeLimit is how long it may take until commits go on: the pause after the fifth
	// failure in a row is up to 32 s, and of a slow machine longer.
	resumeLimit = 100 * time.Second
	// noticeLimit is how long it may take until an upload works again.
	noticeLimit = 30 * time.Second
	mib         = 1 << 20
)

// namespaceEnv marks the process that has a mount namespace of its own, or has tried.
const (
	namespaceEnv    = "FAULTS_NAMESPACE"
	namespaceOwn    = "own"
	namespaceDenied = "denied"
)

// TestMain runs the tests in a mount namespace that ends with them.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(namespaceEnv) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig means the thread that starts the process
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), namespaceEnv+"="+namespaceOwn)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if errors.Is(err, fs.ErrPermission) { // root of a container
		if err := os.Setenv(namespaceEnv, namespaceDenied); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	}
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "faults: a mount namespace:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// needRoot skips a test that must mount or change users, but not in CI.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 && os.Getenv(namespaceEnv) == namespaceOwn {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("must run as root, with CAP_SYS_ADMIN, in CI: it mounts file systems")
	}
	t.Skip("mounts file systems: run as root, with CAP_SYS_ADMIN")
}

// rig is a gateway with a session of alice, who sees what the others do.
type rig struct {
	*proctest.Gateway
	t    *testing.T
	see  *proctest.SFTP
	data string            // the data directory
	held map[string][]byte // what was acknowledged, by name
	seed uint64
}

// newRig prepares a gateway; start starts it.
func newRig(t *testing.T, opt proctest.Options) *rig {
	t.Helper()
	needRoot(t)
	t.Parallel() // most of a test is waiting for the next attempt to commit
	g := proctest.NewGateway(t, opt)
	r := &rig{Gateway: g, t: t, data: filepath.Join(g.Dir, "data"), held: map[string][]byte{}}
	r.must(os.Mkdir(r.data, 0o700))
	return r
}

// must ends the test on an error.
func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// plain makes the store one that is not encrypted, which saves some seconds of key
// derivation where many starts are made.
func (r *rig) plain() {
	r.t.Helper()
	text, err := os.ReadFile(r.Config)
	r.must(err)
	r.must(os.WriteFile(r.Config, []byte(strings.Replace(string(text), "passphrase_file: ./pass", "plaintext: true", 1)), 0o600))
}

// encrypted takes plain back.
func (r *rig) encrypted() {
	r.t.Helper()
	text, err := os.ReadFile(r.Config)
	r.must(err)
	r.must(os.WriteFile(r.Config, []byte(strings.Replace(string(text), "plaintext: true", "passphrase_file: ./pass", 1)), 0o600))
}

// start starts the gateway and logs in.
func (r *rig) start() {
	r.t.Helper()
	_, err := r.Start(r.t.Context())
	r.must(err)
	r.see = r.login()
}

func (r *rig) login() *proctest.SFTP {
	r.t.Helper()
	s, err := r.Client.Login(r.t.Context(), alice)
	r.must(err)
	r.t.Cleanup(func() { _ = s.Close() }) // the gateway may be gone
	return s
}

// mount mounts a tmpfs at a directory, which is made when it is missing.
func (r *rig) mount(dir, size string) {
	r.t.Helper()
	r.must(os.MkdirAll(dir, 0o700))
	r.must(unix.Mount("faults", dir, "tmpfs", 0, "mode=0700,size="+size))
	r.unmountAtEnd(dir)
}

// unmountAtEnd lets the directory be removed when the test ends.
func (r *rig) unmountAtEnd(dir string) {
	r.t.Cleanup(func() {
		// Before the gateway's own cleanup: it still has files open there.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			r.t.Errorf("unmounting: %v", err)
		}
	})
}

// resize gives a tmpfs another size.
func (r *rig) resize(dir, size string) {
	r.t.Helper()
	r.must(unix.Mount("faults", dir, "tmpfs", unix.MS_REMOUNT, "size="+size))
}

// cover puts a read-only mount of dir over itself, until uncover. A file system on which
// files are open for writing cannot be made read-only otherwise.
func (r *rig) cover(dir string) {
	r.t.Helper()
	r.must(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	r.unmountAtEnd(dir)
	r.must(unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}

func (r *rig) uncover(dir string) {
	r.t.Helper()
	r.must(unix.Unmount(dir, unix.MNT_DETACH))
}

// put uploads a file through a session. When that is acknowledged, its content is held
// against the gateway from then on.
func (r *rig) put(s *proctest.SFTP, name string, size int64) error {
	r.seed++
	data := crash.Bytes(r.seed, size)
	f, err := s.Create(name)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if _, err = f.Write(data); err != nil {
		return fmt.Errorf("write: %w", errors.Join(err, f.Close()))
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	r.held[name] = data
	return nil
}

// mustPut uploads a file that must be accepted.
func (r *rig) mustPut(name string, size int64) {
	r.t.Helper()
	if err := r.put(r.see, name, size); err != nil {
		r.t.Fatalf("upload of %s: %v", name, err)
	}
}

// fill uploads files until one is refused, and returns how many were accepted and why
// that was not.
func (r *rig) fill(prefix string, size int64, limit int) (int, error) {
	for i := range limit {
		if err := r.put(r.see, fmt.Sprintf("/%s%03d", prefix, i), size); err != nil {
			return i, err
		}
	}
	return limit, nil
}

// verify compares what a session sees with what was acknowledged: names, and bytes.
func (r *rig) verify(s *proctest.SFTP) {
	r.t.Helper()
	r.verifyNames(s)
	for name, want := range r.held {
		got, err := read(s, name)
		if err != nil {
			r.t.Errorf("reading %s: %v", name, err)
		} else if crash.Sum(got) != crash.Sum(want) {
			r.t.Errorf("%s: %d bytes that are not those that were sent (%d)", name, len(got), len(want))
		}
	}
}

// verifyNames compares the names and sizes alone.
func (r *rig) verifyNames(s *proctest.SFTP) {
	r.t.Helper()
	infos, err := s.ReadDirContext(r.t.Context(), "/")
	if err != nil {
		r.t.Errorf("listing: %v", err)
		return
	}
	listed := map[string]bool{}
	for _, info := range infos {
		name := "/" + info.Name()
		listed[name] = true
		if want, ok := r.held[name]; !info.IsDir() && (!ok || info.Size() != int64(len(want))) {
			r.t.Errorf("%s is listed with %d bytes; acknowledged: %v, %d bytes", name, info.Size(), ok, len(want))
		}
	}
	for name := range r.held {
		if !listed[name] {
			r.t.Errorf("%s was acknowledged and is not listed", name)
		}
	}
}

func read(s *proctest.SFTP, name string) (_ []byte, err error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(f)
}

// snapshot has the share committed.
func (r *rig) snapshot() {
	r.t.Helper()
	_, err := r.Command(r.t.Context(), "snapshot", "main")
	r.must(err)
}

// refuseSnapshot checks what a commit that cannot be made says.
func (r *rig) refuseSnapshot(want ...string) {
	r.t.Helper()
	_, err := r.Command(r.t.Context(), "snapshot", "main")
	says(r.t, "gateway snapshot", err, append(want, "status 1")...)
}

// says checks that an error has all the texts in it.
func says(t *testing.T, what string, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want %q", what, want)
		return
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v\ndoes not say %q", what, err, text)
		}
	}
}

// log returns everything the gateway has logged.
func (r *rig) log() string { return r.LogTail(1 << 24) }

// awaitLog waits until the gateway has logged a text since mark, a length of the log.
func (r *rig) awaitLog(mark int, text string) {
	r.t.Helper()
	_, err := proctest.Wait(r.t.Context(), resumeLimit, func() bool { return strings.Contains(r.log()[mark:], text) })
	if err != nil {
		r.t.Fatalf("the log does not say %q: %v", text, err)
	}
}

// again calls do until it works: the gateway believes for a moment what it has seen last.
func (r *rig) again(do func() error) {
	r.t.Helper()
	var err error
	if _, wait := proctest.Wait(r.t.Context(), noticeLimit, func() bool { err = do(); return err == nil }); wait != nil {
		r.t.Fatalf("%v: %v", wait, err)
	}
}

// restart looks at what was acknowledged after another start.
func (r *rig) restart() {
	r.t.Helper()
	r.must(r.Stop())
	r.start()
	r.verify(r.see)
}

// check has stock plakar check all snapshots, and looks at what was acknowledged after
// another start.
func (r *rig) check() {
	r.t.Helper()
	r.restart()
	plakar := proctest.NewPlakar(r.t, r.Store, r.PassFile)
	ids, err := plakar.Snapshots(r.t.Context())
	r.must(err)
	if len(ids) == 0 {
		r.t.Fatal("there is no snapshot")
	}
	r.must(plakar.Check(r.t.Context(), ids...))
}
