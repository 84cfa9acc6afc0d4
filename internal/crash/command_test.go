//go:build crash

package crash

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// commandLimit is when a command that was not killed hangs.
const commandLimit = 30 * time.Second

// commands runs and kills commands of a gateway whose program has failpoints.
type commands struct {
	t *testing.T
	g *proctest.Gateway
}

// newCommands makes a gateway with a plaintext store: deriving keys is not what is tested, and
// each command would do it.
func newCommands(t *testing.T, opt proctest.Options) commands {
	t.Helper()
	opt.Binary = proctest.Binary(t, "gateway-failpoint")
	opt.Store = "{ location: ./data/store, plaintext: true, create: true }"
	return commands{t: t, g: proctest.NewGateway(t, opt)}
}

// command runs a command that must end with status 0.
func (r *commands) command(name string, args ...string) string {
	r.t.Helper()
	out, err := r.g.Command(r.t.Context(), name, args...)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// killedAt runs a command that dies at a failpoint. Pulls keep what they have stored after each file.
func (r *commands) killedAt(point, name string, args ...string) {
	r.t.Helper()
	out, err := r.begin([]string{"GATEWAY_FAILPOINT=" + point, "GATEWAY_KEEP_EVERY=1ns"}, name, args...).end()
	if !died(err) {
		r.t.Errorf("%s: gateway %s was not killed: %v\n%s", point, name, err, out)
	}
}

// killedAfter kills a command after a while. It reports false for one that has ended before.
func (r *commands) killedAfter(after time.Duration, name string, args ...string) bool {
	r.t.Helper()
	p := r.begin(nil, name, args...)
	timer := time.AfterFunc(after, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	out, err := p.end()
	if err != nil && !died(err) {
		r.t.Errorf("gateway %s: %v\n%s", name, err, out)
	}
	return died(err)
}

// runningCommand is a command under way.
type runningCommand struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	out    strings.Builder
	err    error // of its start
}

func (r *commands) begin(env []string, name string, args ...string) *runningCommand {
	ctx, cancel := context.WithTimeout(r.t.Context(), commandLimit)
	p := &runningCommand{cancel: cancel}
	p.cmd = exec.CommandContext(ctx, filepath.Join(r.g.Dir, "sgserve"), append([]string{name, "-c", r.g.Config}, args...)...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGQUIT) } // says where it hangs
	p.err = p.cmd.Start()
	return p
}

func (p *runningCommand) end() (string, error) {
	defer p.cancel()
	if p.err != nil {
		return "", p.err
	}
	err := p.cmd.Wait()
	return p.out.String(), err
}

// died reports whether a command was killed.
func died(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}
