//go:build faults && linux

package faults

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// newUnprivileged prepares a gateway that runs as nobody, who owns everything of it: a
// command of its own, which changes the user, takes the gateway's place.
func newUnprivileged(t *testing.T, share string) *rig {
	t.Helper()
	needRoot(t)
	dir := proctest.ShortDir(t)
	opt := proctest.Options{
		Binary: filepath.Join(dir, "as-nobody"),
		Shares: map[string]string{"main": share},
	}
	// The gateway itself may be where nobody can go.
	copyProgram(t, proctest.Binary(t, "gateway"), filepath.Join(dir, "gateway"))
	script := "#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups " + dir + "/gateway \"$@\"\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(opt.Binary, []byte(script), 0o700)); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	r := newRig(t, opt)
	r.plain()
	r.give(r.Dir, nobody)
	return r
}

const ownerHint = "hint: run the gateway as the user that owns this file, or give the file to that user"

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755) //nolint:gosec // a program
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(dst, src)
	if err := errors.Join(err, dst.Close()); err != nil {
		t.Fatal(err)
	}
}

// give makes a user the owner of everything below a path.
func (r *rig) give(path string, user int) {
	r.t.Helper()
	r.must(filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, user, user)
	}))
}

// refuseStart checks that the gateway does not start, and says what is wrong in one line
// and what to do in others, without opening a port. DIR stands for the directory of
// everything.
func (r *rig) refuseStart(want ...string) {
	r.t.Helper()
	_, err := r.Command(r.t.Context(), "serve")
	if err == nil {
		r.t.Fatalf("the gateway starts, want %q", want)
	}
	text := strings.ReplaceAll(err.Error(), r.Dir, "DIR")
	if !strings.HasPrefix(text, "gateway serve: status 1\n") {
		r.t.Errorf("the gateway ends with %s", text)
	}
	var got []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "gateway: ") || strings.HasPrefix(line, "hint: ") {
			got = append(got, line)
		} else if strings.Contains(line, "serving sftp") {
			r.t.Error("a port was opened")
		}
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		r.t.Errorf("got:\n%s\nwant:\n%s", g, w)
	}
}

// The gateway's user may not use one of its files: a clear error at start, and all is well
// when the file is given back.
func TestPermissionsAtStart(t *testing.T) {
	r := newUnprivileged(t, "{ snapshot: { when: close, quiet: 100ms } }")
	r.start()
	r.mustPut("/a", mib)
	r.snapshot()
	r.must(r.Stop())
	key := "data/hostkeys/ssh_host_ed25519_key"
	tests := []struct {
		name, path string
		want       string
	}{
		{"configuration", "config.yaml", "open DIR/config.yaml"},
		{"data_dir", "data", "data_dir DIR/data: open DIR/data/lock"},
		{"cache", "data/cache", "open store fs://DIR/data/store: cache directory: open DIR/data/cache/lock"},
		{"share", "data/shares/main", "share main: open DIR/data/shares/main"},
		{"spool", "data/shares/main/spool", "share main: spool: make directory: open DIR/data/shares/main/spool"},
		{"journal", "data/shares/main/journal", "share main: journal: make directory: open DIR/data/shares/main/journal"},
		{"host keys", "data/hostkeys", "host key: stat DIR/" + key},
		{"host key", key, "host key: open DIR/" + key},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sub := *r
			sub.t = t
			path := filepath.Join(r.Dir, tt.path)
			info, err := os.Stat(path)
			r.must(err)
			mode := fs.FileMode(0o600)
			if info.IsDir() {
				mode = 0o700
			}
			sub.must(errors.Join(os.Lchown(path, 0, 0), os.Chmod(path, mode)))
			sub.refuseStart("gateway: "+tt.want+": permission denied", ownerHint)
			sub.must(os.Lchown(path, nobody, nobody))
		})
	}
	r.start()
	r.verify(r.see)
}

// The gateway's user may not read the passphrase, or the store: fatal for a store that
// was never seen, while one that is known is away.
func TestStorePermissionsAtStart(t *testing.T) {
	r := newUnprivileged(t, "{ snapshot: { when: close, quiet: 100ms } }")
	r.encrypted()
	r.must(os.Lchown(r.PassFile, 0, 0))
	r.refuseStart("gateway: open store fs://DIR/data/store: passphrase: no passphrase: open DIR/pass: permission denied", ownerHint)
	r.give(r.PassFile, nobody)
	r.must(os.Mkdir(r.Store, 0o700))
	r.refuseStart("gateway: open store fs://DIR/data/store: read store configuration: store unavailable: open DIR/data/store/CONFIG: permission denied", ownerHint)
	r.give(r.Store, nobody)
	r.start()
	r.mustPut("/a", mib)
	r.snapshot()
	r.must(r.Stop())

	r.must(os.Lchown(r.Store, 0, 0))
	mark := len(r.log())
	r.start()
	r.awaitLog(mark, `msg="store is away; uploads are kept and committed when it is back, stored files cannot be read until then"`)
	r.mustPut("/b", mib)
	r.verifyNames(r.see)
	r.refuseSnapshot("permission denied", ownerHint)
	r.must(os.Lchown(r.Store, nobody, nobody))
	r.awaitLog(mark, "commits work again")
	r.verify(r.see)
}

// Permissions are taken away and given back under way.
func TestPermissionsUnderWay(t *testing.T) {
	tests := []struct {
		name, path string
		do         func(r *rig)
	}{
		{"store", "data/store", func(r *rig) {
			r.mustPut("/waiting", mib)
			r.refuseSnapshot("permission denied", ownerHint)
			_, err := read(r.see, "/stored")
			says(r.t, "reading a stored file", err, "store unavailable, try again later")
		}},
		{"packfiles", "data/store/packfiles", func(r *rig) {
			r.mustPut("/waiting", mib)
			r.refuseSnapshot("permission denied", ownerHint)
		}},
		{"states", "data/store/states", func(r *rig) {
			r.mustPut("/waiting", mib)
			r.refuseSnapshot("permission denied", ownerHint)
		}},
		{"spool", "data/shares/main/spool", func(r *rig) {
			_, err := r.fill("f", 200_000, 30)
			says(r.t, "upload", err, "disk of the server does not work, try again later")
		}},
	}
	r := newUnprivileged(t, "{ snapshot: { when: close, quiet: 100ms } }")
	r.start()
	r.mustPut("/stored", mib)
	r.snapshot()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sub := *r
			sub.t = t
			path := filepath.Join(r.Dir, tt.path)
			sub.must(os.Lchown(path, 0, 0))
			mark := len(sub.log())
			tt.do(&sub)
			sub.verifyNames(sub.see)
			sub.must(os.Lchown(path, nobody, nobody))
			if strings.HasPrefix(tt.path, "data/store") {
				sub.awaitLog(mark, "commits work again")
			}
			sub.mustPut("/again", mib)
			sub.snapshot()
			sub.verify(sub.see)
			r.seed = sub.seed
		})
	}
	r.restart()
}
