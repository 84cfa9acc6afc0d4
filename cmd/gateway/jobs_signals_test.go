package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/logtest"
)

// jobsRig is a gateway with a job that pulls a local tree, in a process of its own.
type jobsRig struct {
	t     *testing.T
	dir   string
	files int // in the tree
	log   *logtest.Buffer
	cmd   *exec.Cmd
}

func newJobsRig(t *testing.T) *jobsRig {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "gw") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &jobsRig{t: t, dir: dir}
	r.write("config.yaml", `version: 1
data_dir: ./data
verify: { every: never }
store: { plaintext: true, create: true }
sources:
  web1: { location: "fs://./tree", schedule: "0 2 1 1 *", jitter: 0s }
`)
	return r
}

func (r *jobsRig) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// grow adds files to the tree.
func (r *jobsRig) grow(n int) {
	r.t.Helper()
	for range n {
		r.files++
		r.write(fmt.Sprintf("tree/%03d", r.files), strings.Repeat(fmt.Sprint(r.files, " "), 5000))
	}
}

// missed makes the job due, as if no gateway had run at its time.
func (r *jobsRig) missed() {
	r.t.Helper()
	r.write("data/jobs/web1.json", `{"version": 1, "schedule": "0 2 1 1 * UTC", "due": "2020-01-01T02:00:00Z", "result": "", "failures": 0}`)
}

// command is a call of the program. TestMain has put it into PATH.
func (r *jobsRig) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(r.t.Context(), "gateway", args...)
	cmd.Dir = r.dir
	return cmd
}

func (r *jobsRig) start() {
	r.t.Helper()
	r.log = &logtest.Buffer{}
	r.cmd = r.command("serve")
	r.cmd.Stderr = r.log
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *jobsRig) signal(sig syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.t.Fatalf("%v: %v\n%s", sig, err, r.log.String())
	}
}

// ends waits for the end of a gateway that was told to stop, or killed.
func (r *jobsRig) ends(killed bool) {
	r.t.Helper()
	if err := r.cmd.Wait(); (err != nil) != killed {
		r.t.Fatalf("it ends with %v\n%s", err, r.log.String())
	}
}

// job is what is known of the job.
func (r *jobsRig) job() (j control.Job) {
	r.t.Helper()
	out, err := r.command("jobs", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &j)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return j
}

// Whatever signal comes in the middle of a run: the gateway ends in order, what it leaves can be
// read, and the next start makes up for the run.
func TestSignalsInTheMiddleOfJobs(t *testing.T) {
	r := newJobsRig(t)
	rounds := 8
	if testing.Short() {
		rounds = 4
	}
	for round := range rounds {
		r.grow(20)
		r.missed()
		r.start()
		r.log.Wait(t, "job started", "job=web1")
		killed := false
		switch round % 4 {
		case 0:
			r.signal(syscall.SIGTERM)
		case 1:
			r.signal(syscall.SIGKILL)
			killed = true
		case 2:
			r.signal(syscall.SIGHUP)
			r.log.Wait(t, "configuration taken over")
			r.signal(syscall.SIGTERM)
		case 3:
			r.signal(syscall.SIGHUP)
			run := r.command("jobs", "run", "web1")
			var stderr bytes.Buffer
			run.Stderr = &stderr
			if err := run.Start(); err != nil {
				t.Fatal(err)
			}
			r.signal(syscall.SIGTERM)
			var exit *exec.ExitError
			if err := run.Wait(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != statusFailure) {
				t.Errorf("jobs run: %v: %s", err, stderr.String())
			}
		}
		r.ends(killed)
		before := r.job()
		switch before.Result {
		case "ok", "stopped", "interrupted":
		default:
			t.Fatalf("round %d leaves %+v\n%s", round, before, r.log.String())
		}
		if killed || before.Result != "stopped" {
			continue
		}
		r.start()
		r.log.Wait(t, "job ended", "job=web1", "result=ok")
		r.signal(syscall.SIGTERM)
		r.ends(false)
		if after := r.job(); after.Result != "ok" || after.Snapshot == "" || after.Failures != 0 {
			t.Fatalf("round %d: made up for: %+v\n%s", round, after, r.log.String())
		}
	}
	out, err := r.command("snapshots", "--json", "web1").Output()
	if err != nil {
		t.Fatal(err)
	}
	var newest control.Snapshot
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&newest); err != nil {
		t.Fatal(err)
	}
	if newest.Files != uint64(r.files) || newest.ID != r.job().Snapshot {
		t.Errorf("the newest snapshot is %+v, want %d files and that of the last run, %+v", newest, r.files, r.job())
	}
	if out, err := r.command("store", "check").CombinedOutput(); err != nil {
		t.Errorf("the store: %v: %s", err, out)
	}
}
