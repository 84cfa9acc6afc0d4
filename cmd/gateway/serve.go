package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/cmd/gateway/internal/auth"
	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/cmd/gateway/internal/watch"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/sshsrv"
	"github.com/snapgate/gateway/vfs"
)

// commitDeadline is how long a shutdown waits for the last commit. What is not committed
// by then is in the journal, and the next start goes on with it. With the default of
// limits.drain it fits well into the 90 s that systemd gives.
const commitDeadline = 30 * time.Second

func (p *program) serveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the shares",
		Long: `Serves the shares of the configuration in the foreground and logs to standard error.

SIGHUP reads the configuration again: shares, users and log.level are taken over, what
needs a restart is logged. SIGINT and SIGTERM let transfers end (limits.drain), commit,
and leave with status 0; a second one leaves at once, and loses nothing that was
acknowledged.`,
		Example: `  gateway serve -c /etc/gateway.yaml
  kill -HUP $(pidof gateway)             take over changed users and shares`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.load()
			if err != nil {
				return err
			}
			return p.serve(c.Context(), cfg, nil)
		},
	}
	c.Flags().BoolVar(&p.leaveOutDamaged, "leave-out-damaged", false,
		"go on without uploads whose spooled bytes are missing or damaged, or that take bytes from a snapshot which are gone or damaged; each is named in the log")
	return c
}

// errAtOnce ends a shutdown that a second signal cut short.
var errAtOnce = errors.New("left at once; what was acknowledged is safe and will be committed at the next start")

// serving is a gateway with its servers.
type serving struct {
	*gateway
	program     *program
	level       *slog.LevelVar
	users       *auth.Directory
	server      *sshsrv.Server // nil without an sftp section
	listener    net.Listener
	ftp         *ftpServing  // nil without an ftp section
	http        *httpServing // nil without an http section
	probe       *probe
	fullness    *fullness
	control     *control.Server
	jobs        *jobs.Scheduler
	keeper      *keeper
	turns       turns // of those who work on the retention of a further store
	watcher     *watch.Watcher
	checks      sync.Mutex // held while it is looked at what does not come by itself
	expect      atomic.Pointer[config.Expect]
	maintenance snapshotter.MaintainConfig // but for the grace period
	progress    jobProgress
	views       *viewServing
	verifying   verifying
	keys        []ssh.Signer

	// inForce is cfg for everybody but the main loop, which replaces cfg when it reloads.
	inForce atomic.Pointer[config.Config]

	reloadDue bool // SIGHUP came while everything was opened

	started  time.Time
	pings    chan struct{} // taken by the main loop
	draining atomic.Bool
}

// gcPercent is GOGC while serving and pulling, unless the environment sets it. Transfers turn over
// chunks of 1 MiB, and the heap that waits for its collection is most of the process:
// getting 10 GiB from the store peaks at 282 MiB with the default of 100.
const gcPercent = 50

// spareProcs is how many processors Go's scheduler has more than there are cores, unless the
// environment says otherwise. While all of them are busy it asks the network for news every
// 10 ms only, and a commit keeps as many busy as there are cores. With some to spare it is the
// kernel that divides the cores, and it lets those go first who have waited.
const spareProcs = 2

// collectSooner has less garbage wait, unless the environment says how much.
func collectSooner() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// serve runs the gateway until a signal or ctx ends it; ready, when not nil, is called
// when all ports are open.
func (p *program) serve(ctx context.Context, cfg *config.Config, ready func(*serving) error) error {
	collectSooner()
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.SetDefaultGOMAXPROCS() // what an earlier call has set does not count
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcs)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)

	s := &serving{program: p, level: &slog.LevelVar{}, started: time.Now().UTC(), pings: make(chan struct{})}
	log := p.logger(cfg, s.level)
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "warning", w)
	}
	if stopped, err := s.openOrStop(ctx, cfg, log, signals); stopped || err != nil {
		return err
	}
	ended := s.start(ctx)
	s.events.happened("start", "", "", versionText(), nil)
	if s.reloadDue {
		s.reload(ctx)
	}
	s.startJobs(ctx, ended)
	if ready != nil {
		if err := ready(s); err != nil {
			return errors.Join(err, s.stop(ended))
		}
	}
	return s.supervise(ctx, signals, ended)
}

// openOrStop opens everything. A signal stops that: what a recovery has not finished, the
// next one does.
func (s *serving) openOrStop(ctx context.Context, cfg *config.Config, log *slog.Logger, signals <-chan os.Signal) (stopped bool, err error) {
	opening, cancel := context.WithCancel(ctx)
	defer cancel() // what was opened does not live by this context
	opened := make(chan error, 1)
	go func() { opened <- s.open(opening, cfg, log) }()
	for {
		select {
		case err := <-opened:
			if !stopped {
				return false, err
			}
			if err != nil {
				return true, nil // it was told to stop
			}
			return true, s.stop(s.start(ctx))
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				s.reloadDue = true // cfg was read before
			case stopped:
				return true, errAtOnce
			default:
				log.Info("shutting down; once more to leave at once", "signal", sig.String())
				stopped = true
				cancel()
			}
		}
	}
}

// open opens everything; on an error nothing stays open.
func (s *serving) open(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	g, err := s.program.openGateway(ctx, cfg, log)
	if err != nil {
		return err
	}
	s.gateway = g
	s.probe = &probe{
		available: g.store.Available,
		list:      func(ctx context.Context) ([]snapshotter.Snapshot, error) { return g.snapshots.AllSnapshots(ctx, "") },
		commits:   g.events.commits.Load,
	}
	if err := s.openServers(ctx); err != nil {
		if s.listener != nil {
			err = errors.Join(err, s.listener.Close())
		}
		return errors.Join(err, s.ftp.close(), s.http.close(), g.close(ctx))
	}
	return nil
}

func (s *serving) openServers(ctx context.Context) error {
	var err error
	if s.users, err = auth.New(auth.Config{Users: s.cfg.AuthUsers(), Checks: s.cfg.Limits.PasswordChecks}); err != nil {
		return err
	}
	if s.cfg.SFTP != nil {
		if s.keys, err = hostKeys(s.cfg); err != nil {
			return err
		}
		sc := s.cfg.ServerConfig()
		sc.HostKeys, sc.Auth, sc.Sessions = s.keys, authenticator{s.users}, s.system.Session
		sc.Logger, sc.Observer = s.log, s.events
		if s.server, err = sshsrv.New(sc); err != nil {
			return err
		}
		var lc net.ListenConfig
		if s.listener, err = lc.Listen(ctx, "tcp", s.cfg.SFTP.Listen); err != nil {
			return fmt.Errorf("sftp: %w", err)
		}
	}
	if s.cfg.FTP != nil {
		if s.ftp, err = s.openFTP(ctx); err != nil {
			return err
		}
	}
	s.keeper = s.openKeeper(s.program)
	s.expect.Store(&s.cfg.Expect)
	s.watcher, err = watch.Open(watch.Config{
		Dir: s.cfg.DataDir, Logger: s.log, Tell: s.events.snapshotMade, Inspect: s.inspect,
		Snapshots: func(ctx context.Context) ([]snapshotter.Snapshot, error) { return s.snapshots.AllSnapshots(ctx, "") },
	})
	if err != nil {
		return err
	}
	s.openVerifying()
	if err := s.openJobs(); err != nil {
		return err
	}
	s.fullness = s.openFullness()
	if err := s.events.metrics.Watch(s.metricsState); err != nil {
		return err
	}
	if s.cfg.HTTP != nil {
		if s.http, err = s.openHTTP(ctx); err != nil {
			return err
		}
	}
	s.warnOfCertificates()
	s.views = newViewServing(s.cfg)
	s.control, err = control.Listen(s.cfg.DataDir, s.log)
	return err
}

// start starts the servers. The channel yields one value when all of them have ended: the
// first error, or nil.
func (s *serving) start(ctx context.Context) *servers {
	ctx, cancel := context.WithCancel(ctx)
	s.inForce.Store(s.cfg)
	e := &servers{cancel: cancel, failed: make(chan error, maxServers)}
	run := func(f func() error) {
		e.wg.Go(func() {
			if err := f(); err != nil {
				e.failed <- err
			}
		})
	}
	if s.server != nil {
		run(func() error { return s.server.Serve(ctx, s.listener) })
		s.log.Info("serving sftp", "addr", s.listener.Addr().String(), "shares", len(s.cfg.Shares), "users", len(s.cfg.Users))
	}
	if s.ftp != nil {
		s.ftp.start(ctx, s, run)
	}
	if s.http != nil {
		s.http.start(ctx, s, run)
	}
	if s.server == nil && s.ftp == nil {
		s.log.Warn("neither an sftp nor an ftp section: no port is open")
	}
	e.wg.Go(func() { s.fullness.watch(ctx) })
	e.wg.Go(func() { s.observing(ctx) })
	e.wg.Go(func() { s.watching(ctx) })
	e.wg.Go(func() { s.checking(ctx) })
	e.wg.Go(func() { s.events.tellHooks(ctx) })
	e.wg.Go(func() { s.verifyNew(ctx) })
	// Last: whoever gets an answer there finds the ports served.
	run(func() error { return s.control.Serve(ctx, s.answer) })
	return e
}

// maxServers is how many servers may end with an error: control, SFTP, FTP, FTP with
// implicit TLS, HTTP.
const maxServers = 5

// servers are the goroutines that serve.
type servers struct {
	wg     sync.WaitGroup
	cancel context.CancelFunc
	failed chan error // one from each server that ends with an error

	stopJobs  context.CancelFunc // nil: jobs were not started
	jobsEnded chan struct{}      // closed when none runs any more
}

// supervise handles signals until the end.
func (s *serving) supervise(ctx context.Context, signals <-chan os.Signal, e *servers) error {
	var cause error
wait:
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				s.reload(ctx)
				continue
			}
			s.log.Info("shutting down; once more to leave at once", "signal", sig.String())
			break wait
		case <-s.pings: // somebody asks whether this loop turns
		case cause = <-e.failed:
			break wait
		case <-ctx.Done():
			break wait
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop(e) }()
	for {
		select {
		case <-s.pings: // somebody asks whether this loop turns
		case err := <-stopped:
			return errors.Join(cause, err)
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				return errAtOnce
			}
		}
	}
}

// stop lets transfers end, commits, and closes everything. It uses contexts of its own:
// the caller's has ended when it comes to this.
func (s *serving) stop(e *servers) error {
	s.draining.Store(true)
	s.drain(e)
	s.http.shutdown()
	e.cancel()
	e.wg.Wait()
	s.probe.close()
	commit, cancel := context.WithTimeout(context.Background(), commitDeadline)
	defer cancel()
	s.events.happened("stop", "", "", "", nil)
	if err := s.close(commit); err != nil {
		return err
	}
	s.log.Info("stopped")
	return nil
}

// drain lets the transfers of all servers end, and ends the jobs.
func (s *serving) drain(e *servers) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Limits.Drain)
	defer cancel()
	var all sync.WaitGroup
	shutdown := func(f func(context.Context) error) {
		all.Go(func() {
			if err := f(ctx); err != nil {
				s.log.Warn("transfers were cut off; they can be resumed", "after", s.cfg.Limits.Drain)
			}
		})
	}
	if e.stopJobs != nil {
		all.Go(func() { s.drainJobs(e) })
	}
	if s.server != nil {
		shutdown(s.server.Shutdown)
	}
	if s.ftp != nil {
		shutdown(s.ftp.server.Shutdown)
	}
	if s.http != nil {
		shutdown(s.http.server.Drain)
	}
	all.Wait()
}

// warnOfCertificates logs that certificates end soon.
func (s *serving) warnOfCertificates() {
	if s.ftp != nil && s.ftp.tls != nil {
		if text := certificateWarning(s.ftp.tls.Load(), time.Now()); text != "" {
			s.log.Warn("ftp certificate", "warning", text)
		}
	}
	if s.http != nil && s.http.tls != nil {
		if text := certificateWarning(s.http.tls.Load(), time.Now()); text != "" {
			s.log.Warn("http certificate", "warning", text)
		}
	}
}

// authenticator adapts a Directory to what the SSH server asks.
type authenticator struct{ users *auth.Directory }

// Password checks a password.
func (a authenticator) Password(ctx context.Context, c sshsrv.ConnMeta, password []byte) (*vfs.Principal, error) {
	return a.users.Password(ctx, c.User, password, c.Remote)
}

// PublicKey says whether a key may log in.
func (a authenticator) PublicKey(_ context.Context, c sshsrv.ConnMeta, key ssh.PublicKey) (*vfs.Principal, error) {
	return a.users.PublicKey(c.User, key, c.Remote)
}
