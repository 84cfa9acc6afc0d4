//go:build crash

package crash

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// restoreCrash is a snapshot that is restored, to the local disk, to sshd and to an FTP server, by runs that
// are killed.
type restoreCrash struct {
	*pullCrash
	ftp  ftpd              // shows the directory of all destinations
	old  string            // directory with an older version of the tree
	was  map[string]string // what it has
	want map[string]string // what the snapshot has
}

// TestCrashRestore kills restores at each of their moments and at random ones, into nothing and
// over an older version. Whatever has its name then is whole, and the next run takes it for what it
// is, makes the destination what the snapshot is, and leaves nothing else behind.
func TestCrashRestore(t *testing.T) {
	r := &restoreCrash{pullCrash: newPullCrash(t, testSeed(t))}
	r.old = filepath.Join(r.g.Dir, "old")
	r.tree.copyTo(r.old)
	r.was = description(t, r.old)
	r.tree.change()
	r.want = description(t, r.tree.dir)
	r.command("pull", "near", "--quiet")
	r.command("pull", "flat", "--quiet")
	r.ftp = startFTPD(t, r.g.Dir, r.g.Dir, ftpWrites)
	targets := []string{"near", "far", "ftp"}
	n, first := 0, r.rng.IntN(len(targets))
	to := func(point string) string {
		if strings.HasPrefix(point, "restore-linked") { // FTP has no links
			return targets[n%2]
		}
		return targets[(first+n)%len(targets)]
	}
	for _, point := range points(t, r.rng, "restore-", nil) {
		// The third time: something of the kind has been done by then.
		for _, nth := range []string{point, point + ":3"} {
			n++
			if point == "restore-linked" || point == "restore-deleted" {
				nth = point // there are few
			}
			over := strings.HasPrefix(nth, "restore-linked") || strings.HasPrefix(nth, "restore-deleted") || n%4 > 1
			r.round(n, to(nth), over && !strings.HasPrefix(nth, "restore-made"), nth, 0)
		}
	}
	for range randomRounds() {
		n++
		r.round(n, to(""), n%4 > 1, "", time.Duration(r.rng.Int64N(int64(400*time.Millisecond))))
	}
	r.command("store", "check")
}

// round kills a restore and has another one finish it. It goes over an older version, or to a
// directory that is not there.
func (r *restoreCrash) round(n int, to string, over bool, point string, after time.Duration) {
	r.t.Helper()
	name := fmt.Sprint("dest", n)
	dir := filepath.Join(r.g.Dir, name)
	how := fmt.Sprintf("round %d, %s, to %s", n, point, to)
	args, was, want := []string{"near", "--to", dir}, r.was, r.want
	switch to {
	case "far":
		args = []string{"near", "--to", r.url(dir), "--identity", r.sshd.KeyFile, "--known-hosts", r.known, "--agent", "none", "--ssh-config", "/dev/null"}
	case "ftp":
		args = []string{"flat", "--to", r.ftp.location + name, "--tls", "off", "--password-file", r.ftp.password}
		was, want = withoutLinks(was), withoutLinks(want)
	}
	args = append(args, "--quiet")
	before := map[string]string{}
	if over {
		how += " over an older version"
		before = was
		r.oldTo(dir, to != "ftp")
		args = append(args, "--delete", "--yes")
	}
	if point != "" {
		r.killedAt(point, "restore", args...)
	} else {
		how += " after " + after.String()
		r.killedAfter(after, "restore", args...)
	}
	whole := r.survived(dir, before, want, how)
	out := r.command("restore", append(args, "--verify", "--json")...)
	is := description(r.t, dir)
	if to == "ftp" {
		is, want = withoutDirTimes(is), withoutDirTimes(want)
	}
	if diff := differences(is, want); diff != "" {
		r.t.Errorf("%s: after the next run the destination is not the snapshot:\n%s", how, diff)
	}
	var last struct{ Report struct{ Unchanged int } }
	for line := range strings.Lines(out) {
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			r.t.Errorf("%s: %v: %s", how, err, line)
		}
	}
	if last.Report.Unchanged < whole {
		r.t.Errorf("%s: the next run takes %d files for restored, want %d:\n%s", how, last.Report.Unchanged, whole, out)
	}
	r.tree.must(removeAll(dir))
}

// oldTo copies the older version.
func (r *restoreCrash) oldTo(dir string, links bool) {
	r.t.Helper()
	f := &files{t: r.t, dir: r.old}
	f.copyTo(dir)
	if links {
		return
	}
	f.must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() == fs.ModeSymlink {
			err = os.Remove(path)
		}
		return err
	}))
}

// withoutDirTimes is a description as pyftpdlib lets us have it: it sets times of files only.
func withoutDirTimes(all map[string]string) map[string]string {
	all = maps.Clone(all)
	for name, text := range all {
		if mode, _, _ := strings.Cut(text, " "); strings.HasPrefix(mode, "d") {
			all[name] = mode
		}
	}
	return all
}

// survived looks at what a restore has left that was killed: under each name is what was there or
// what the snapshot has, with its attributes, or a temporary file. It counts the files of the
// snapshot.
func (r *restoreCrash) survived(dir string, before, want map[string]string, how string) (whole int) {
	r.t.Helper()
	if _, err := os.Lstat(dir); err != nil {
		return 0
	}
	// A server may still be doing what it was sent before the client died: two looks have to agree.
	var left map[string]string
	if _, err := proctest.Wait(r.t.Context(), commandLimit, func() bool {
		was := left
		var err error
		if left, err = described(dir); err != nil {
			left = nil
		}
		return was != nil && left != nil && maps.Equal(was, left)
	}); err != nil {
		r.t.Fatalf("%s: the destination does not come to rest: %v", how, err)
	}
	for name, is := range left {
		base := filepath.Base(name)
		switch {
		case strings.HasPrefix(is, "d"), strings.HasPrefix(base, ".") && strings.HasSuffix(base, ".part"),
			strings.HasPrefix(name, ".snapgate-order-"):
		case is == want[name]:
			if strings.HasPrefix(is, fs.FileMode(0).String()[:1]) {
				whole++
			}
		case is == before[name], strings.HasPrefix(is, "L"):
			// A new link has its name before its time.
		default:
			r.t.Errorf("%s: %q is %q, the snapshot has %q", how, name, is, want[name])
		}
	}
	return whole
}
