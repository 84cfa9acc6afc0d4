package proctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// plakarLimit bounds one plakar command: each takes a second for key derivation.
const plakarLimit = 2 * time.Minute

// Plakar runs the stock plakar command on one store, offline and apart from the user's own
// configuration. It is safe for concurrent use.
type Plakar struct {
	binary string
	dir    string
	common []string
	store  string
}

// NewPlakar prepares plakar for the store at path, whose passphrase stands in keyFile. The
// helper process that plakar would leave behind for some seconds, its cache daemon, is run
// in the foreground here and ends with the test.
func NewPlakar(tb testing.TB, store, keyFile string) *Plakar {
	tb.Helper()
	dir := ShortDir(tb)
	cache := filepath.Join(dir, "cache")
	p := &Plakar{binary: Binary(tb, "plakar"), dir: dir, store: store, common: []string{
		"-configdir", filepath.Join(dir, "config"), "-cachedir", cache,
		"-datadir", filepath.Join(dir, "data"), "-keyfile", keyFile,
	}}
	if err := os.Mkdir(filepath.Join(dir, "home"), 0o700); err != nil {
		tb.Fatal(err)
	}
	// Without this it asks the network for news of security updates.
	if res, err := p.run(tb.Context(), "-disable-security-check"); err != nil || res.Status != 0 {
		tb.Fatalf("plakar -disable-security-check: status %d, %v\n%s", res.Status, err, res.Tail())
	}
	p.startCached(tb, filepath.Join(cache, "cached.sock"))
	return p
}

// startCached runs plakar's cache daemon until the test ends.
func (p *Plakar) startCached(tb testing.TB, socket string) {
	tb.Helper()
	args := append(append([]string{}, p.common...), "cached", "-foreground", "-teardown", "1h")
	cmd := exec.Command(p.binary, args...)
	cmd.Env = append(os.Environ(), p.env()...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: its status says nothing
	})
	listening := func() bool {
		_, err := os.Stat(socket)
		return err == nil
	}
	if _, err := Wait(tb.Context(), time.Minute, listening); err != nil {
		tb.Fatalf("plakar cached does not listen: %v", err)
	}
}

// At is plakar on another store of the same passphrase.
func (p *Plakar) At(store string) *Plakar {
	other := *p
	other.store = store
	return &other
}

func (p *Plakar) env() []string { return []string{"HOME=" + filepath.Join(p.dir, "home"), "TERM=dumb"} }

func (p *Plakar) run(ctx context.Context, args ...string) (Result, error) {
	return Run(ctx, plakarLimit, "", p.env(), p.binary, append(append([]string{}, p.common...), args...)...)
}

// Run runs `plakar at STORE args…` and returns its standard output. A status other than 0
// is an error that carries the whole output.
func (p *Plakar) Run(ctx context.Context, args ...string) (string, error) {
	res, err := p.run(ctx, append([]string{"at", p.store}, args...)...)
	if err != nil {
		return res.Stdout, fmt.Errorf("plakar %s: %w", args[0], err)
	}
	if res.Status != 0 {
		return res.Stdout, fmt.Errorf("plakar %v: status %d\n%s", args, res.Status, res.Tail())
	}
	return res.Stdout, nil
}

// Maintain runs plakar's maintenance, which removes what has been of no use for longer than a
// grace period.
func (p *Plakar) Maintain(ctx context.Context, grace time.Duration) error {
	env := append(p.env(), "PLAKAR_GRACEPERIOD="+grace.String())
	args := append(append([]string{}, p.common...), "at", p.store, "maintenance")
	res, err := Run(ctx, plakarLimit, "", env, p.binary, args...)
	if err != nil {
		return fmt.Errorf("plakar maintenance: %w", err)
	}
	if res.Status != 0 {
		return fmt.Errorf("plakar maintenance: status %d\n%s", res.Status, res.Tail())
	}
	return nil
}

var lsLine = regexp.MustCompile(`(?m)^\S+Z\s+([0-9a-f]{8})\s`)

// Snapshots lists the short IDs (8 hexadecimal digits) in the store, newest first.
func (p *Plakar) Snapshots(ctx context.Context) ([]string, error) {
	out, err := p.Run(ctx, "ls")
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, m := range lsLine.FindAllStringSubmatch(out, -1) {
		ids = append(ids, m[1])
	}
	return ids, nil
}

// errNotChecked says that a check ended well without having looked at a snapshot.
var errNotChecked = errors.New("plakar check says nothing of a snapshot")

// Check runs kloset's check, through stock plakar, on the snapshots named, all without one.
func (p *Plakar) Check(ctx context.Context, ids ...string) error {
	out, err := p.Run(ctx, append([]string{"check"}, ids...)...)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(id) + `: check completed without errors`).MatchString(out) {
			return fmt.Errorf("%w %s\n%s", errNotChecked, id, out)
		}
	}
	return nil
}
