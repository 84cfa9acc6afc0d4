package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

type shareConfig = vfs.ShareConfig

// gateway is an open data directory with its store: everything but the servers.
type gateway struct {
	cfg       *config.Config
	log       *slog.Logger
	store     *store.Store
	snapshots *snapshotter.Snapshotter
	system    *vfs.System
	alarms    *alarm.Board
	events    *events
}

// logger makes the logger that the configuration asks for, on standard error. level can
// be changed later.
func (p *program) logger(cfg *config.Config, level *slog.LevelVar) *slog.Logger {
	level.Set(cfg.Log.Level)
	opt := &slog.HandlerOptions{Level: level}
	if cfg.Log.JSON {
		return slog.New(slog.NewJSONHandler(p.stderr, opt))
	}
	return slog.New(slog.NewTextHandler(p.stderr, opt))
}

// openGateway takes the data directory, opens or creates the store and recovers what was
// left in the middle. It says in one log line each what was created and recovered, and
// whether the store is away.
func (p *program) openGateway(ctx context.Context, cfg *config.Config, log *slog.Logger) (*gateway, error) {
	if err := prepareDataDir(cfg.DataDir, log); err != nil {
		return nil, err
	}
	point, err := failpoint()
	if err != nil {
		return nil, err
	}
	g := &gateway{cfg: cfg, log: log}
	if g.events, err = newEvents(cfg, log); err != nil {
		return nil, err
	}
	if g.alarms, err = alarm.Open(alarm.Config{Dir: cfg.DataDir, Logger: log, Changed: g.events.alarmChanged}); err != nil {
		return nil, errors.Join(fmt.Errorf("alarms: %w", err), g.events.close())
	}
	g.events.alarms = g.alarms
	if g.events.backups, err = openBackups(cfg.DataDir); err != nil {
		return nil, errors.Join(err, g.events.close())
	}
	if err := g.open(ctx, p, point); err != nil {
		return nil, errors.Join(err, g.close(ctx))
	}
	if text := g.system.Recovered(); text != "" {
		log.Info("recovered", "what", text)
	}
	return g, nil
}

func (g *gateway) open(ctx context.Context, p *program, point func(string)) error {
	sc := g.cfg.StoreConfig(g.log, true)
	sc.CheapKDF = p.cheapKDF
	var err error
	if g.store, err = store.Open(ctx, sc); err != nil {
		return err
	}
	defer g.store.LeaveWhen(ctx, store.LeavePatience)() // what follows reads from it, and may put back what it lacks
	if g.store.Created() {
		g.log.Info("store created", "store", g.store.Location(), "encrypted", g.store.Encrypted())
	}
	if err := g.store.Available(ctx); err != nil {
		g.log.Warn("store is away; uploads are kept and committed when it is back, stored files cannot be read until then",
			"store", g.store.Location(), "err", err)
	}
	g.snapshots, err = snapshotter.New(ctx, snapshotter.Config{Store: g.store, Logger: g.log, Failpoint: point})
	if err != nil {
		return err
	}
	key, err := g.store.DeriveKey("spool")
	if err != nil {
		return err
	}
	g.system, err = vfs.Open(ctx, vfs.Config{
		DataDir:    g.cfg.DataDir,
		Repository: vfs.FromSnapshotter(g.snapshots),
		SpoolKey:   key,
		Shares:     g.cfg.AllShares(),
		Limits:     g.cfg.VFSLimits(),
		Logger:     g.log,
		Observer:   g.events,
		Failpoint:  point,

		LeaveOutDamaged: p.leaveOutDamaged,
	})
	return err
}

// close commits what is pending until ctx ends and releases everything.
func (g *gateway) close(ctx context.Context) error {
	var errs []error
	stop := func() {}
	if g.store != nil {
		stop = g.store.LeaveWhen(ctx, store.LeavePatience) // a commit that is under way may wait for it
	}
	if g.system != nil {
		errs = append(errs, g.system.Close(ctx))
	}
	if g.snapshots != nil {
		errs = append(errs, g.snapshots.Close())
	}
	stop()
	if g.store != nil {
		errs = append(errs, g.store.Close())
	}
	return errors.Join(append(errs, g.events.close())...)
}

// ownPlace refuses a directory that was made for something else, as /tmp or /srv: nobody
// else could use it any more once it is closed to others.
func ownPlace(dir string, info fs.FileInfo) error {
	shared := info.Mode()&fs.ModeSticky != 0
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "gateway-id":
			return nil // a gateway lived here before
		case e.IsDir() && !slices.Contains([]string{"store", "shares", "cache", hostKeyDir}, name):
			shared = true
		}
	}
	if !shared {
		return nil
	}
	return &hintedError{
		err:  fmt.Errorf("data_dir %s: it is open to others (mode %04o) and used for other things too", dir, info.Mode().Perm()),
		hint: "give the gateway a directory of its own; if this is one, run: chmod 700 " + shellQuote(dir),
	}
}

// prepareDataDir makes the data directory and refuses one that another gateway holds: at once,
// before a key is derived for nothing. Whoever comes between this and the real lock is refused
// there.
func prepareDataDir(dir string, log *slog.Logger) error {
	if err := makeDataDir(dir, log); err != nil {
		return err
	}
	lock, err := disk.Lock(dir)
	if err != nil {
		return fmt.Errorf("data_dir %s: %w", dir, err)
	}
	return lock.Unlock()
}

// makeDataDir makes the data directory, mode 0700.
func makeDataDir(dir string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		if err := ownPlace(dir, info); err != nil {
			return err
		}
		if err := os.Chmod(dir, perm&^fs.FileMode(0o077)); err != nil {
			return fmt.Errorf("data_dir %s is open to others: %w", dir, err)
		}
		log.Info("data_dir was open to others; it is closed now", "data_dir", dir)
	}
	return nil
}
