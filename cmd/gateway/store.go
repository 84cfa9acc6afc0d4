package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

func (p *program) storeCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a store",
		Long: `Makes the store that the configuration describes, or the one of that name among its stores,
whatever its create says. It fails when there is one.`,
		Example: `  gateway store create -c /etc/gateway.yaml
  gateway store create -c /etc/gateway.yaml offsite`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error { return p.storeCreate(c.Context(), args) },
	}
}

func (p *program) storeCreate(ctx context.Context, args []string) (err error) {
	cfg, named, err := p.loadStore(args)
	if err != nil {
		return err
	}
	sc := cfg.StoreConfigOf(named, slog.New(slog.DiscardHandler), true)
	sc.Create, sc.CacheDir, sc.CheapKDF = true, "", p.cheapKDF
	st, err := store.Open(ctx, sc)
	if err != nil {
		return storeError(named, err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if !st.Created() {
		if err := st.Available(ctx); err != nil {
			return fmt.Errorf("store create: it was here before: %w", err)
		}
		return fmt.Errorf("store create: %s: there is a store", st.Location())
	}
	_, err = fmt.Fprintf(p.stdout, "%s: made, %s\n", st.Location(), encryption(st.Encrypted()))
	return err
}

// loadStore loads the configuration and finds the store that args name, or the one that is
// served.
func (p *program) loadStore(args []string) (*config.Config, *config.Store, error) {
	cfg, err := p.load()
	if err != nil {
		return nil, nil, err
	}
	if len(args) == 0 {
		return cfg, &cfg.Store, nil
	}
	st, err := namedStore(cfg, args[0])
	return cfg, st, err
}

// namedStore finds a configured store.
func namedStore(cfg *config.Config, name string) (*config.Store, error) {
	if st := cfg.StoreNamed(name); st != nil {
		return st, nil
	}
	hint := otherKind(cfg, name, aStore) + "the stores are: " + strings.Join(cfg.StoreNames(), ", ")
	if isLocation(name) {
		hint = "write the name that a store has in the configuration (stores: { NAME: { location: … } }); " + hint
	}
	return nil, &hintedError{err: fmt.Errorf("store %q: not in %s", name, cfg.File), hint: hint}
}

// storeError says of which of several stores an error is.
func storeError(st *config.Store, err error) error {
	if err == nil || st.Name == config.DefaultStore {
		return err
	}
	return hintedOf(st, fmt.Errorf("store %s: %w", st.Name, err))
}

// hintedOf gives an error of one of several stores its hint with that store's keys of the configuration.
func hintedOf(st *config.Store, err error) error {
	hint := hintFor(err)
	if hint == "" || st.Name == config.DefaultStore {
		return err
	}
	hint = strings.ReplaceAll(hint, createHint, createHint+" "+st.Name)
	return &hintedError{err: err, hint: strings.ReplaceAll(hint, "store.", "stores."+st.Name+".")}
}

// createHint is the command that hints name for a store that is missing.
const createHint = "gateway store create"

func encryption(encrypted bool) string {
	if encrypted {
		return "encrypted"
	}
	return "not encrypted"
}

func (p *program) storeInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "info [NAME]",
		Short: "Describe a store",
		Long: `Reads the store, or the one of that name, with and without a running gateway, and prints where it is, its id, whether
it is encrypted, and how many snapshots, states and packfiles it has. It changes nothing.`,
		Example: `  gateway store info -c /etc/gateway.yaml
  gateway store info -c /etc/gateway.yaml offsite`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return interruptible(c.Context(), "store info", "", func(ctx context.Context) error { return p.readStore(ctx, args, p.storeInfo) })
		},
	}
}

// readStore opens the store that args name, or the one that is served, for a command that only
// reads it, beside whatever else uses it.
func (p *program) readStore(ctx context.Context, args []string, read func(context.Context, *store.Store, *snapshotter.Snapshotter) error) error {
	cfg, named, err := p.loadStore(args)
	if err != nil {
		return err
	}
	return storeError(named, readConfigured(ctx, cfg, named, read))
}

func readConfigured(ctx context.Context, cfg *config.Config, named *config.Store, read func(context.Context, *store.Store, *snapshotter.Snapshotter) error) (err error) {
	sc := cfg.StoreConfigOf(named, slog.New(slog.DiscardHandler), false)
	sc.CacheDir, sc.KeepDir, sc.NoSweep = "", "", true
	st, err := store.Open(ctx, sc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	defer st.LeaveWhen(ctx, store.LeavePatience)()
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st, ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snaps.Close()) }()
	return read(ctx, st, snaps)
}

func (p *program) storeInfo(ctx context.Context, st *store.Store, snaps *snapshotter.Snapshotter) error {
	list, err := snaps.Snapshots(ctx, "")
	if err != nil {
		return fmt.Errorf("store info: %w", err)
	}
	states, err := st.States(ctx)
	if err != nil {
		return fmt.Errorf("store info: %w", err)
	}
	packfiles, err := st.Packfiles(ctx)
	if err != nil {
		return fmt.Errorf("store info: %w", err)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "location\t%s\n", st.Location())
	fmt.Fprintf(w, "id\t%s\n", st.ID())
	fmt.Fprintf(w, "encryption\t%s\n", encryption(st.Encrypted()))
	fmt.Fprintf(w, "snapshots\t%d\n", len(list))
	fmt.Fprintf(w, "states\t%d\n", len(states))
	fmt.Fprintf(w, "packfiles\t%d\n", packfiles)
	return w.Flush() // keeps the errors of the lines
}

func (p *program) storeCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [NAME]",
		Short: "Check all snapshots of a store",
		Long: `Reads all snapshots, those of plakar too, and compares every index, entry, object and chunk
with its checksum, as gateway check does. It changes nothing, and goes on after a snapshot
that is damaged; then its exit status is 1. One that was removed meanwhile is no damage.`,
		Example: `  gateway store check -c /etc/gateway.yaml
  gateway store check -c /etc/gateway.yaml offsite`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return interruptible(c.Context(), "store check", "", func(ctx context.Context) error { return p.readStore(ctx, args, p.storeCheck) })
		},
	}
}

func (p *program) storeCheck(ctx context.Context, _ *store.Store, snaps *snapshotter.Snapshotter) error {
	list, err := snaps.Snapshots(ctx, "")
	if err != nil {
		return fmt.Errorf("store check: %w", err)
	}
	checker, err := snaps.NewChecker()
	if err != nil {
		return fmt.Errorf("store check: %w", err)
	}
	defer checker.Close()
	named := make(map[snapshotter.ID]bool) // as damaged
	var unread, left error                 // the first; what was not looked at
	say := func(l *checkLine) error {
		_, err := fmt.Fprintf(p.stdout, "%s %s %s\n", l.Snapshot, cmp.Or(printable(l.Share), "-"), l.verdict())
		return err
	}
	for i, s := range list {
		l, err := new(checkCommand).check(ctx, checker, s)
		if errors.Is(err, snapshotter.ErrUnread) {
			unread = cmp.Or(unread, err)
		} else if err != nil {
			return fmt.Errorf("store check: %w", err)
		}
		if l.Result == "damaged" {
			named[s.ID] = true
		}
		if err := say(l); err != nil {
			return err
		}
		if left = gaveUp(checker, len(list)-i-1); left != nil {
			break
		}
	}
	lost, err := unlistedDamage(ctx, snaps, checker, named)
	if err != nil {
		return fmt.Errorf("store check: %w", err)
	}
	all := len(list)
	for _, l := range lost {
		if err := say(l); err != nil {
			return err
		}
		if l.Result == "damaged" {
			all++
		}
	}
	if damaged := len(named) + all - len(list); damaged > 0 {
		return andGivenUp(fmt.Errorf("store check: %d of %s: %w", damaged, count(all, "snapshot", "snapshots"), store.ErrDamaged), left)
	}
	if unread = cmp.Or(left, unread); unread != nil {
		return fmt.Errorf("store check: %w", unread)
	}
	return nil
}

// verdict is what a check has found, in a line.
func (l *checkLine) verdict() string {
	text := l.Result
	if l.Error != "" {
		text += ": " + printable(l.Error)
	}
	if len(l.Damaged) > 0 { // the others are named by gateway check
		text += ": " + printable(l.Damaged[0].Path.s) + ": " + printable(l.Damaged[0].Text)
	}
	return text
}
