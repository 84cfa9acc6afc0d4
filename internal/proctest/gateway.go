package proctest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// ReadyLimit is the promise of how long a gateway takes until it serves, replay of the
// journal included. One start may be slower on a machine that stands still for a while.
const ReadyLimit = 10 * time.Second

// startLimit is when a start has failed.
const startLimit = 90 * time.Second

// stopLimit is how long a gateway may take to end after SIGTERM; it commits in that time.
const stopLimit = 60 * time.Second

// commandLimit bounds one command. Those that wait for a store that hangs may take most of a minute.
const commandLimit = 2 * time.Minute

// User is an account of a test gateway.
type User struct {
	Name        string
	Share       string
	Permissions string // as the configuration writes them; "" means full
}

// VerifyNew is an Options.Verify: what snapshots bring is read back soon after them, as by default, and all else on New
// Year's Day, as no test may depend on the hour.
const VerifyNew = `{ schedule: "0 2 1 1 *" }`

// Options say what a test gateway is like. The zero value has one share, main, that
// commits when a file is closed, and one user, alice, who may do everything.
type Options struct {
	Binary string            // "" means bin/gateway
	Shares map[string]string // settings by name, as the configuration writes them
	Users  []User
	Store  string // the store section; "" means one on the local disk
	FTP    bool   // serve FTP, too
	// PassivePorts are those of FTP's data connections, "first-last"; "" for any.
	PassivePorts string
	Parent       string // of its directory, on the disk that is to be tested; "" means /tmp
	Verify       string // the verify section; "" means that nothing is read back but when a command asks for it
	Extra        string // further lines of the configuration
}

// Gateway is a configuration in a directory of its own, and the process that serves it
// when there is one. Its methods are for one goroutine.
type Gateway struct {
	Dir      string // configuration, data, keys: everything
	Config   string // path of the configuration
	Store    string // path of the kloset store, unless Options.Store says otherwise
	PassFile string // holds the store's passphrase
	Port     int
	Client   *Client // what the users' clients need
	FTP      *FTP    // nil without Options.FTP

	binary string
	proc   *process
	log    *os.File // standard output and error of all its processes
}

// process is a running gateway.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; err is set then
	err  error
}

// NewGateway writes a configuration and keys; it starts nothing.
func NewGateway(tb testing.TB, opt Options) *Gateway {
	tb.Helper()
	if opt.Binary == "" {
		opt.Binary = Binary(tb, "gateway")
	}
	if len(opt.Shares) == 0 {
		opt.Shares = map[string]string{"main": "{ snapshot: { when: close } }"}
	}
	if len(opt.Users) == 0 {
		opt.Users = []User{{Name: "alice", Share: "main"}}
	}
	dir := ShortDir(tb)
	if opt.Parent != "" {
		dir = shortDir(tb, opt.Parent)
	}
	g := &Gateway{
		Dir: dir, Config: filepath.Join(dir, "config.yaml"), Store: filepath.Join(dir, "data", "store"),
		PassFile: filepath.Join(dir, "pass"), Port: FreePort(tb), binary: filepath.Join(dir, "sgserve"),
	}
	copyProgram(tb, opt.Binary, g.binary)
	g.Client = newClient(tb, dir, g.Port)
	if opt.FTP {
		g.FTP = newFTP(tb, dir)
	}
	write(tb, g.PassFile, "the passphrase of a test store\n")
	write(tb, g.Config, g.config(opt))
	var err error
	if g.log, err = os.OpenFile(filepath.Join(dir, "gateway.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if g.Running() {
			_ = g.Kill()
		}
		_ = g.log.Close()
		if tb.Failed() {
			tb.Logf("the end of the gateway's log:\n%s", g.LogTail(8000))
		}
	})
	return g
}

// copyProgram makes a copy for one test: a build in the meantime must not change the
// program between two starts.
func copyProgram(tb testing.TB, from, to string) {
	tb.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		// A process that another test starts meanwhile would have the file open for a moment, and nothing that is
		// open for writing can be run (golang/go#22315).
		syscall.ForkLock.RLock()
		err = os.WriteFile(to, data, 0o700)
		syscall.ForkLock.RUnlock()
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func write(tb testing.TB, path, content string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func (g *Gateway) config(opt Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\ndata_dir: ./data\n")
	if opt.Store == "" {
		opt.Store = `{ location: "fs://./data/store", passphrase_file: ./pass, create: true }`
	}
	fmt.Fprintf(&b, "store: %s\n", opt.Store)
	if opt.Verify == "" {
		opt.Verify = `{ schedule: "0 2 1 1 *", new_snapshots: false }`
	}
	fmt.Fprintf(&b, "verify: %s\n", opt.Verify)
	fmt.Fprintf(&b, "sftp: { listen: \"127.0.0.1:%d\" }\n", g.Port)
	if g.FTP != nil {
		b.WriteString(g.FTP.config(opt.PassivePorts))
	}
	b.WriteString("shares:\n")
	for name, settings := range opt.Shares {
		fmt.Fprintf(&b, "  %s: %s\n", name, settings)
	}
	fmt.Fprintf(&b, "users:\n")
	for _, u := range opt.Users {
		if u.Permissions == "" {
			u.Permissions = "full"
		}
		fmt.Fprintf(&b, "  %s:\n    share: %s\n    permissions: %s\n    password_hash: %q\n    authorized_keys: [%q]\n",
			u.Name, u.Share, u.Permissions, g.Client.passwordHash, g.Client.publicKey)
	}
	b.WriteString(opt.Extra)
	return b.String()
}

// ErrEnded says that the gateway ended instead of becoming ready.
var ErrEnded = errors.New("the gateway has ended")

// Launch starts the gateway and does not wait for it; see Ready.
func (g *Gateway) Launch(env ...string) error {
	cmd := exec.Command(g.binary, "serve", "-c", g.Config)
	cmd.Dir = g.Dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = g.log, g.log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	g.proc = p
	return nil
}

// Ready waits until the gateway answers on its ports with a banner, and returns how long
// that took from the call. It fails with ErrEnded when the process ends first.
func (g *Gateway) Ready(ctx context.Context) (time.Duration, error) {
	took, err := Wait(ctx, startLimit, func() bool { return !g.Running() || g.answers(ctx) })
	switch {
	case err != nil:
		return took, fmt.Errorf("waiting for the gateway's port: %w\n%s", err, g.LogTail(2000))
	case !g.Running():
		return took, fmt.Errorf("%w: %w\n%s", ErrEnded, g.proc.err, g.LogTail(2000))
	}
	return took, nil
}

func (g *Gateway) answers(ctx context.Context) bool {
	return answers(ctx, g.Port, "SSH-") && (g.FTP == nil || answers(ctx, g.FTP.Port, "220 "))
}

// Start starts the gateway, waits for it, and learns its host keys.
func (g *Gateway) Start(ctx context.Context, env ...string) (time.Duration, error) {
	if err := g.Launch(env...); err != nil {
		return 0, err
	}
	took, err := g.Ready(ctx)
	if err != nil {
		return took, err
	}
	return took, g.Client.learnHostKeys(ctx)
}

// Running reports whether the process is there.
func (g *Gateway) Running() bool {
	if g.proc == nil {
		return false
	}
	select {
	case <-g.proc.done:
		return false
	default:
		return true
	}
}

// Pid is the process's number; 0 when nothing was started.
func (g *Gateway) Pid() int {
	if g.proc == nil {
		return 0
	}
	return g.proc.cmd.Process.Pid
}

// Ended is closed when the process has ended; nil before the first start.
func (g *Gateway) Ended() <-chan struct{} {
	if g.proc == nil {
		return nil
	}
	return g.proc.done
}

// Kill ends the process with SIGKILL and waits for it. It is no error when it has ended
// by itself.
func (g *Gateway) Kill() error {
	if g.proc == nil {
		return nil
	}
	if err := g.proc.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the gateway: %w", err)
	}
	<-g.proc.done
	return nil
}

// Stop ends the process with SIGTERM, which must lead to status 0.
func (g *Gateway) Stop() error {
	if err := g.proc.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping the gateway: %w", err)
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-g.proc.done:
	case <-limit.C:
		_ = g.Kill()
		return fmt.Errorf("stopping the gateway: still there after %v", stopLimit)
	}
	if g.proc.err != nil {
		return fmt.Errorf("stopping the gateway: %w\n%s", g.proc.err, g.LogTail(2000))
	}
	return nil
}

// Command runs another gateway command on the same configuration, "snapshot" with share
// "main" for example, and returns its standard output.
func (g *Gateway) Command(ctx context.Context, command string, args ...string) (string, error) {
	res, err := Run(ctx, commandLimit, "", nil, g.binary, append([]string{command, "-c", g.Config}, args...)...)
	if err == nil && res.Status != 0 {
		err = fmt.Errorf("gateway %s: status %d\n%s", command, res.Status, res.Tail())
	}
	return res.Stdout, err
}

// Log returns what the gateway's processes have written.
func (g *Gateway) Log() string {
	data, err := os.ReadFile(filepath.Join(g.Dir, "gateway.log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// LogTail returns the last n bytes of it.
func (g *Gateway) LogTail(n int) string {
	log := g.Log()
	return log[max(0, len(log)-n):]
}

// hostKeyAlgorithms are the kinds of host keys a gateway has.
func hostKeyAlgorithms() []string {
	return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoRSASHA256}
}
