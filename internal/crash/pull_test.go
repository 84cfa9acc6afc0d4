//go:build crash

package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// storePoints are the failpoints below a pull's own: of the store while it is written ahead of the
// commit, and of the commit.
var storePoints = []string{
	"early-packfile-put-before", "early-packfile-put-after", "early-adopt", "commit-entries", "commit-indexes",
	"commit-header-before", "commit-header-after", "packfile-put-before", "packfile-put-after", "state-put-before", "state-put-after",
}

// pullSources are the sources of a pullCrash: one tree, on the local disk, behind sshd and behind an
// FTP server, in turns.
var pullSources = []string{"near", "far", "ftp"}

// pullCrash is a tree that is pulled, from the local disk, from sshd and over FTP, by runs that are
// killed.
type pullCrash struct {
	commands
	sshd  *proctest.SSHD
	rng   *rand.Rand
	tree  *files
	known string         // known_hosts file
	made  map[string]int // snapshots, by source
	kills int
}

// newPullCrash makes the rig. Nothing serves yet.
func newPullCrash(t *testing.T, rng *rand.Rand) *pullCrash {
	t.Helper()
	sshd := proctest.StartSSHD(t)
	r := &pullCrash{sshd: sshd, rng: rng, made: map[string]int{}, commands: newCommands(t, proctest.Options{Parent: fastDisk()})}
	dir := r.g.Dir
	r.known = filepath.Join(dir, "known_hosts")
	host, port, err := net.SplitHostPort(sshd.Addr)
	if err == nil {
		err = os.WriteFile(r.known, fmt.Appendf(nil, "[%s]:%s %s", host, port, sshd.HostKey), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	r.tree = newFiles(t, tree, rng)
	config, err := os.ReadFile(r.g.Config)
	r.tree.must(err)
	config = append(config, fmt.Sprintf(`sources:
  near: { location: %q, schedule: "0 2 1 1 *", jitter: 0s }
  flat: { location: %q, exclude: ["link*"] }
  far: { location: %q, identity: %q, known_hosts: %q, agent: none, ssh_config: /dev/null }
  slow: { location: %q, bandwidth: 8MiB }
`, "fs://"+tree, "fs://"+tree, r.url(tree), sshd.KeyFile, r.known, "fs://"+filepath.Join(dir, "large"))...)
	r.tree.must(os.WriteFile(r.g.Config, config, 0o600))
	return r
}

// overFTP adds the source that is an FTP server.
func (r *pullCrash) overFTP() {
	r.t.Helper()
	ftp := startFTPD(r.t, r.g.Dir, r.tree.dir, ftpReads)
	f, err := os.OpenFile(r.g.Config, os.O_APPEND|os.O_WRONLY, 0) // sources are what it ends with
	r.tree.must(err)
	_, err = fmt.Fprintf(f, "  ftp: { location: %q, tls: off, password_file: %q }\n", ftp.location, ftp.password)
	r.tree.must(errors.Join(err, f.Close()))
}

// fastDisk is where directories are made whose files only have to survive the end of a process,
// as all do: in memory, where that is possible.
func fastDisk() string {
	const dir = "/dev/shm"
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return dir
	}
	return ""
}

// url is where sshd has a directory.
func (r *pullCrash) url(dir string) string {
	return fmt.Sprintf("sftp://%s@%s%s", r.sshd.User, r.sshd.Addr, dir)
}

// snapshots counts those of a source.
func (r *pullCrash) snapshots(source string) int {
	r.t.Helper()
	return strings.Count(r.command("snapshots", "--json", source), "\n")
}

// survived is what must hold after a kill: the store is good, and there is no snapshot but those
// that were there and, perhaps, one of the whole tree.
func (r *pullCrash) survived(source, how string) {
	r.t.Helper()
	n := 0
	r.kills++
	if _, err := os.Stat(filepath.Join(r.g.Dir, "data", "store", "CONFIG")); err == nil {
		if r.kills%3 == 0 || *rounds >= allFailpoints { // it reads all that was ever stored
			r.command("store", "check")
		}
		n = r.snapshots(source)
	}
	switch n - r.made[source] {
	case 0:
	case 1:
		r.holds(source, how)
	default:
		r.t.Errorf("%s, %s: %d snapshots, want %d, or one more", source, how, n, r.made[source])
	}
}

// finished runs the pull that does what the one before was killed over.
func (r *pullCrash) finished(source, how string) {
	r.t.Helper()
	r.command("pull", source, "--quiet")
	r.made[source]++
	if n := r.snapshots(source); n != r.made[source] {
		r.t.Errorf("%s, %s: %d snapshots after the next run, want %d", source, how, n, r.made[source])
	}
	r.holds(source, how)
}

// holds restores the newest snapshot and compares it with the tree.
func (r *pullCrash) holds(source, how string) {
	r.t.Helper()
	dir := filepath.Join(r.g.Dir, "restored")
	r.command("restore", source, "--to", dir, "--quiet")
	got, want := description(r.t, dir), description(r.t, r.tree.dir)
	if source == "ftp" {
		got, want = withoutLinkTimes(got), withoutLinkTimes(want)
	}
	if diff := differences(got, want); diff != "" {
		r.t.Errorf("%s, %s: the newest snapshot is not the tree:\n%s", source, how, diff)
	}
	r.tree.must(removeAll(dir))
}

// withoutLinkTimes is what FTP tells of a description: lists have no seconds.
func withoutLinkTimes(all map[string]string) map[string]string {
	all = maps.Clone(all)
	for name, text := range all {
		if strings.HasPrefix(text, "L") {
			mode, rest, _ := strings.Cut(text, " ")
			_, target, _ := strings.Cut(rest, " ")
			all[name] = mode + " " + target
		}
	}
	return all
}

// withoutLinks is what can be written over FTP of a description.
func withoutLinks(all map[string]string) map[string]string {
	all = maps.Clone(all)
	maps.DeleteFunc(all, func(_, text string) bool { return strings.HasPrefix(text, "L") })
	return all
}

// removeAll removes directories that cannot be written to, too.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// points are the failpoints of a test: all of its own, and of the others few in a short run.
func points(t *testing.T, rng *rand.Rand, prefix string, others []string) []string {
	t.Helper()
	own, err := Failpoints(proctest.Root(t), "pull")
	if err != nil {
		t.Fatal(err)
	}
	own = slices.DeleteFunc(own, func(name string) bool { return !strings.HasPrefix(name, prefix) })
	if len(own) == 0 {
		t.Fatalf("there is no failpoint %s…", prefix)
	}
	others = slices.Clone(others)
	if *rounds < allFailpoints {
		rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		others = others[:min(4, len(others))]
	}
	return append(own, others...)
}

// randomRounds is how many kills at random moments there are beside those at failpoints.
func randomRounds() int { return max(*rounds/3, 2) }

// testSeed is the seed of a run.
func testSeed(t *testing.T) *rand.Rand {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d, %d rounds", *seed, *rounds)
	return rand.New(rand.NewPCG(*seed, 3))
}

// TestCrashPull kills pulls, those of the command and those of serve, at each of their moments and
// at random ones. The store stays good, no snapshot is made of half a tree, and the next run is
// not held up and makes the snapshot.
func TestCrashPull(t *testing.T) {
	r := newPullCrash(t, testSeed(t))
	r.overFTP()
	t.Run("what was stored is not stored again", r.reuses)
	r.commands.t = t
	for i, point := range points(t, r.rng, "pull-", storePoints) {
		source := pullSources[i%len(pullSources)]
		r.tree.change()
		r.killedAt(point, "pull", source)
		r.survived(source, point)
		r.finished(source, point)
	}
	for i := range randomRounds() {
		source := pullSources[i%len(pullSources)]
		r.tree.change()
		// The whole run takes some hundred milliseconds.
		after := time.Duration(r.rng.Int64N(int64(400 * time.Millisecond)))
		how := "after " + after.String()
		if !r.killedAfter(after, "pull", source) {
			how += ", when it had ended"
		}
		r.survived(source, how)
		r.finished(source, how)
	}
	r.inServe()
	r.command("store", "check")
}

// reuses has a run killed after it has kept something.
func (r *pullCrash) reuses(t *testing.T) {
	r.commands.t = t
	dir := filepath.Join(filepath.Dir(r.tree.dir), "large")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const size = 24 << 20
	for i := range 24 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), Bytes(r.rng.Uint64()|1, size/24), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// It keeps at each file and directory, however long that takes: at the eighth there are seven files. With the
	// limit to its bandwidth others are on their way then.
	out, err := r.begin([]string{"GATEWAY_FAILPOINT=pull-kept:8", "GATEWAY_KEEP_EVERY=1ns"}, "pull", "slow").end()
	if !died(err) {
		t.Fatalf("it was not killed: %v\n%s", err, out)
	}
	kept := r.stored(t)
	if kept < 7<<20 {
		t.Fatalf("%d bytes were stored when it was killed", kept)
	}
	r.command("pull", "slow", "--quiet")
	if all := r.stored(t); all > size+kept/4+(1<<20) {
		t.Errorf("the store has %d bytes for %d; %d of them were there after the kill", all, size, kept)
	}
	r.command("store", "check")
}

// stored is the size of the store.
func (r *pullCrash) stored(t *testing.T) (size int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(r.g.Dir, "data", "store"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			size += fi.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// inServe kills a gateway in the middle of a job. The next start makes up for it by itself.
func (r *pullCrash) inServe() {
	r.t.Helper()
	for _, point := range []string{"pull-stored:3", "commit-header-before", "pull-committed"} {
		r.tree.change()
		state := filepath.Join(r.g.Dir, "data", "jobs", "near.json")
		missed := `{"version": 1, "schedule": "0 2 1 1 * UTC", "due": "2020-01-01T02:00:00Z", "result": "", "failures": 0}`
		r.tree.must(os.MkdirAll(filepath.Dir(state), 0o700))
		r.tree.must(os.WriteFile(state, []byte(missed), 0o600))
		r.tree.must(r.g.Launch("GATEWAY_FAILPOINT=" + point))
		select {
		case <-r.g.Ended():
		case <-time.After(commandLimit):
			r.t.Fatalf("%s: the gateway does not come to it\n%s", point, r.g.LogTail(2000))
		}
		r.survived("near", "in serve at "+point)
		if _, err := r.g.Start(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
		result := func() string {
			var job struct{ Name, Result string }
			for line := range strings.Lines(r.command("jobs", "--json")) {
				if err := json.Unmarshal([]byte(line), &job); err == nil && job.Name == "near" {
					return job.Result
				}
			}
			return ""
		}
		if _, err := proctest.Wait(r.t.Context(), commandLimit, func() bool { return result() == "ok" }); err != nil {
			r.t.Fatalf("%s: the job is not made up for: it is %q\n%s", point, result(), r.g.LogTail(2000))
		}
		r.tree.must(r.g.Stop())
		r.made["near"]++
		if n := r.snapshots("near"); n != r.made["near"] {
			r.t.Errorf("in serve at %s: %d snapshots, want %d", point, n, r.made["near"])
		}
		r.holds("near", "in serve at "+point)
	}
}
