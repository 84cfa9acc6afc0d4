//go:build crash

package crash

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

var (
	rounds = flag.Int("rounds", 10, "how often to kill the gateway; beyond it until every failpoint was hit, with 50 or more")
	seed   = flag.Uint64("seed", 0, "seed of the run; 0: by the clock")
)

const (
	// allFailpoints is the number of rounds from which every failpoint must be hit.
	allFailpoints = 50
	// failpointLimit is how long to wait for a failpoint before a plain kill.
	failpointLimit = 5 * time.Second
	// clientLimit is how long a client may take to notice that the gateway is gone.
	clientLimit = 30 * time.Second
)

// run is a series of rounds on one data directory.
type run struct {
	t       *testing.T
	g       *proctest.Gateway
	plakar  *proctest.Plakar
	rng     *rand.Rand
	dir     string // logs and local files
	clients []*client
	checked map[string]bool // snapshots that plakar has checked
	sums    map[string]bool // contents that were sent, or are being sent, as whole versions
	points  []string
	stats
}

func TestCrash(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d, %d rounds", *seed, *rounds)
	r := newRun(t)
	r.setUp()
	for i := 1; i <= *rounds || *rounds >= allFailpoints && len(r.missed()) > 0 && i <= *rounds+3*len(r.points); i++ {
		r.round(i)
		if t.Failed() {
			t.Fatalf("round %d failed, seed %d", i, *seed)
		}
	}
	r.finish()
}

func newRun(t *testing.T) *run {
	t.Helper()
	points, err := Failpoints(proctest.Root(t), "vfs", "snapshotter", "store")
	if err != nil {
		t.Fatal(err)
	}
	g := proctest.NewGateway(t, proctest.Options{
		Binary: proctest.Binary(t, "gateway-failpoint"),
		Shares: map[string]string{
			"main":  "{ snapshot: { when: close, quiet: 200ms } }",
			"batch": "{ snapshot: { when: batch, session_grace: 200ms, quiet: 300ms, max_delay: 1s }, versions: last }",
		},
		Users:  []proctest.User{{Name: "alice", Share: "main"}, {Name: "bob", Share: "batch"}},
		FTP:    true,
		Verify: proctest.VerifyNew,
	})
	return &run{t: t, g: g, rng: rand.New(rand.NewPCG(*seed, 2)), dir: t.TempDir(), points: points,
		checked: make(map[string]bool), sums: make(map[string]bool), stats: newStats(),
		clients: []*client{
			{user: "alice", dir: "/c1", tree: Tree{}}, {user: "alice", dir: "/c2", tree: Tree{}},
			{user: "bob", dir: "/c3", tree: Tree{}}, {user: "bob", dir: "/c4", tree: Tree{}, sftp: true},
			{user: "alice", dir: "/c5", tree: Tree{}, ftp: true, tls: true}, {user: "bob", dir: "/c6", tree: Tree{}, ftp: true},
		}}
}

// setUp makes the clients' directories.
func (r *run) setUp() {
	if _, err := r.g.Start(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	for _, c := range r.clients {
		r.session(c.user, func(s *proctest.SFTP) error { return s.Mkdir(c.dir) })
	}
	r.plakar = proctest.NewPlakar(r.t, r.g.Store, r.g.PassFile)
	r.stop()
}

func (r *run) session(user string, do func(*proctest.SFTP) error) {
	r.t.Helper()
	s, err := r.g.Client.Login(r.t.Context(), user)
	if err != nil {
		r.t.Fatalf("%s: %v", user, err)
	}
	defer s.Close()
	if err := do(s); err != nil {
		r.t.Fatalf("%s: %v", user, err)
	}
}

func (r *run) stop() {
	r.t.Helper()
	if err := r.g.Stop(); err != nil {
		r.t.Error(err)
	}
}

// round starts the gateway, lets clients work until it dies, and looks at what is left.
func (r *run) round(i int) {
	point := r.choosePoint(i)
	var env []string
	nth := 1
	if point != "" {
		nth += r.rng.IntN(3)
		if r.tried[point] > 1 {
			nth = 1
		}
		r.tried[point]++
		env = []string{fmt.Sprintf("GATEWAY_FAILPOINT=%s:%d", point, nth), "GATEWAY_FAILPOINT_LOG=" + filepath.Join(r.dir, "failpoints")}
	}
	var took [5]time.Duration // of the steps
	var died bool
	var inFlight string
	for n, step := range []func(){
		func() { died = r.load(i, point, env) },
		func() { r.account(point, died); r.restart(i) },
		func() { inFlight = r.verify(i) },
		r.snapshots,
		r.stop,
	} {
		start := time.Now()
		step()
		took[n] = time.Since(start).Round(10 * time.Millisecond)
	}
	what := "killed at a random moment"
	if died {
		what = fmt.Sprintf("died at %s:%d", point, nth)
	}
	r.t.Logf("round %d: %s; %d operations acknowledged so far, in flight: %s; load, restart, verify, commit and check, stop: %v",
		i, what, r.acked, inFlight, took)
}

// choosePoint gives every second round, and those beyond the wanted number, to the
// failpoint that was tried least, of those not yet hit while there are such.
func (r *run) choosePoint(i int) string {
	if i%2 == 1 && i <= *rounds || len(r.points) == 0 {
		return ""
	}
	points := r.missed()
	if len(points) == 0 {
		points = r.points
	}
	return slices.MinFunc(points, func(a, b string) int { return r.tried[a] - r.tried[b] })
}

// load runs the clients until the gateway is dead, and reports whether it died by itself.
func (r *run) load(i int, point string, env []string) (died bool) {
	r.t.Helper()
	for _, c := range r.clients {
		c.log = "" // of the last round
	}
	if _, err := r.g.Start(r.t.Context(), env...); err != nil {
		if point != "" {
			// At a failpoint of the start, or soon after it; somebody who asks sees the connection end first.
			if _, werr := proctest.Wait(r.t.Context(), 10*time.Second, func() bool { return !r.g.Running() }); werr == nil {
				return true
			}
		}
		r.t.Fatal(err)
	}
	var running []*clientRun
	for _, c := range r.clients {
		run, err := c.start(r.t, r.g, r.dir, i, r.rng.Uint64())
		if err != nil {
			r.t.Fatal(err)
		}
		running = append(running, run)
	}
	limit := failpointLimit
	if point == "" {
		limit = 300*time.Millisecond + time.Duration(r.rng.Int64N(int64(2*time.Second)))
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.g.Ended():
		died = true
	case <-timer.C:
		if err := r.g.Kill(); err != nil {
			r.t.Error(err)
		}
	}
	if died && point == "" {
		r.t.Errorf("the gateway ended without being killed:\n%s", r.g.LogTail(4000))
	}
	for _, c := range running {
		r.await(c)
	}
	return died
}

// await waits for a client to notice that the gateway is gone.
func (r *run) await(c *clientRun) {
	limit := time.NewTimer(clientLimit)
	defer limit.Stop()
	select {
	case <-c.done:
	case <-limit.C:
		c.kill()
		<-c.done
		r.t.Errorf("%s: the client did not notice that the gateway is gone:\n%s", c.dir, c.output.String())
	}
	h, err := ReadLog(c.log)
	if err != nil {
		r.t.Errorf("%s: %v", c.dir, err)
	}
	if h.Refused != "" {
		r.t.Errorf("%s: the gateway refused an operation: %s", c.dir, h.Refused)
	}
	// OpenSSH's sftp ends with 255 when the connection is lost, and with 1 after a refusal.
	if c.err != nil && c.sftp && c.cmd.ProcessState.ExitCode() == 1 && h.InFlight != nil && !lostConnection(c.output.String()) {
		r.t.Errorf("%s: sftp: %v\n%s", c.dir, c.err, c.output.String())
	}
}

func lostConnection(output string) bool {
	return strings.Contains(output, "Connection") || strings.Contains(output, "closed")
}

// restart starts the gateway again and measures how long its port was closed. Now and then
// it is killed once more while it recovers.
func (r *run) restart(i int) {
	r.t.Helper()
	if i%4 == 0 {
		if err := r.g.Launch(); err != nil {
			r.t.Fatal(err)
		}
		timer := time.NewTimer(time.Duration(r.rng.Int64N(int64(2 * time.Second))))
		select {
		case <-timer.C:
		case <-r.g.Ended():
		}
		timer.Stop()
		if err := r.g.Kill(); err != nil {
			r.t.Error(err)
		}
		r.recoveryKills++
	}
	took, err := r.g.Start(r.t.Context())
	if err != nil {
		r.t.Fatalf("the gateway does not start after a crash: %v", err)
	}
	r.starts = append(r.starts, took)
}

// verify compares what the gateway shows with what the clients' logs say, takes over the
// outcome of what was in flight, and says what that was.
func (r *run) verify(i int) string {
	r.t.Helper()
	var inFlight []string
	writing := false
	for _, c := range r.clients {
		h, err := ReadLog(c.log)
		if err != nil {
			r.t.Fatal(err)
		}
		trees := r.possible(c, h)
		if h.InFlight != nil {
			inFlight = append(inFlight, string(h.InFlight.Kind))
			writing = writing || h.InFlight.Kind.Writes()
		}
		var seen Tree
		r.session(c.user, func(s *proctest.SFTP) error {
			var err error
			seen, err = observe(s, c.dir)
			return err
		})
		index := slices.IndexFunc(trees, func(tree Tree) bool { return tree.Diff(seen) == "" })
		if index < 0 {
			r.t.Errorf("round %d, %s: what is there is not what was acknowledged (in flight: %+v):\n%s",
				i, c.dir, h.InFlight, trees[0].Diff(seen))
			continue
		}
		c.tree = trees[index]
		r.acked += len(h.Acked)
		r.log(h)
	}
	if writing {
		r.writeInFlight++
	}
	return strings.Join(inFlight, ", ")
}

// possible lists the trees that a client's directory may hold: all acknowledged operations
// and, when one was in flight, the same with that one.
func (r *run) possible(c *client, h History) []Tree {
	r.t.Helper()
	tree := c.tree
	var err error
	for _, op := range h.Acked {
		if tree, err = tree.Apply(op); err != nil {
			r.t.Fatalf("%s: %v", c.dir, err)
		}
		r.know(tree)
	}
	if h.InFlight == nil {
		return []Tree{tree}
	}
	with, err := tree.Apply(*h.InFlight)
	if err != nil {
		r.t.Fatalf("%s: %v", c.dir, err)
	}
	r.know(with)
	return []Tree{tree, with}
}

// know remembers the contents of a tree as whole versions.
func (r *run) know(tree Tree) {
	for _, n := range tree {
		if !n.Dir {
			r.sums[n.Sum] = true
		}
	}
}

// snapshots has everything committed, compares the new head with the live tree, looks for
// incomplete files in another snapshot of this round, and has kloset's check run over all
// new snapshots.
func (r *run) snapshots() {
	r.t.Helper()
	for _, share := range []string{"main", "batch"} {
		if _, err := r.g.Command(r.t.Context(), "snapshot", share); err != nil {
			r.t.Errorf("committing what was acknowledged: %v", err)
			return
		}
	}
	for _, c := range r.clients {
		r.session(c.user, func(s *proctest.SFTP) error {
			seen, err := observe(s, path.Join("/.snapshots/latest", c.dir))
			if err != nil {
				return err
			}
			if diff := withoutTemp(c.tree).Diff(withoutTemp(seen)); diff != "" {
				r.t.Errorf("%s: the snapshot is not what was acknowledged:\n%s", c.dir, diff)
			}
			return r.wholeVersions(s, c)
		})
	}
	r.check()
}

// wholeVersions looks at a random snapshot: every file in it must be a version that was
// sent as a whole.
func (r *run) wholeVersions(s *proctest.SFTP, c *client) error {
	names, err := s.ReadDirContext(r.t.Context(), "/.snapshots")
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(i os.FileInfo) bool { return i.Name() == "latest" })
	if len(names) == 0 {
		return errors.New("no snapshot in /.snapshots")
	}
	recent := names[max(0, len(names)-10):]
	name := recent[r.rng.IntN(len(recent))].Name()
	seen, err := observe(s, path.Join("/.snapshots", name, c.dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil // older than the client's directory
	}
	for file, n := range seen {
		if !n.Dir && !r.sums[n.Sum] {
			r.t.Errorf("snapshot %s: %s is no version that was ever sent: %s", name, file, n)
		}
	}
	return err
}

// withoutTemp leaves out names that wait for their rename: a snapshot may lack them.
func withoutTemp(tree Tree) Tree {
	out := Tree{}
	for name, n := range tree {
		if !strings.HasSuffix(name, ".part") {
			out[name] = n
		}
	}
	return out
}

// check runs kloset's check over the snapshots that it has not seen.
func (r *run) check() {
	r.t.Helper()
	ids, err := r.plakar.Snapshots(r.t.Context())
	if err != nil {
		r.t.Errorf("listing snapshots: %v", err)
		return
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return r.checked[id] })
	for part := range slices.Chunk(ids, 50) {
		if err := r.plakar.Check(r.t.Context(), part...); err != nil {
			r.t.Errorf("kloset's check: %v", err)
		}
	}
	for _, id := range ids {
		r.checked[id] = true
	}
}

// finish checks all snapshots once more, prints what happened and what must hold of it.
func (r *run) finish() {
	if err := r.plakar.Check(r.t.Context()); err != nil {
		r.t.Errorf("kloset's last check: %v", err)
	}
	r.report(r.t, r.points, len(r.checked))
	if missed := r.missed(); *rounds >= allFailpoints && len(missed) > 0 {
		r.t.Errorf("failpoints never hit: %s", strings.Join(missed, " "))
	}
	if 2*r.writeInFlight < r.kills() {
		r.t.Errorf("a write was in flight at %d of %d kills, want half", r.writeInFlight, r.kills())
	}
}
