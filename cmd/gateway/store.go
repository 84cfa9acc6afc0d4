package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

func (p *program) storeCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "create",
		Short: "Make the store",
		Long: `Makes the store that the configuration describes, whatever store.create says. It fails when
there is one.`,
		Example: "  gateway store create -c /etc/gateway.yaml",
		Args:    arguments(0, 0),
		RunE:    func(c *cobra.Command, _ []string) error { return p.storeCreate(c.Context()) },
	}
}

func (p *program) storeCreate(ctx context.Context) (err error) {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	sc := cfg.StoreConfig(slog.New(slog.DiscardHandler), true)
	sc.Create, sc.CacheDir, sc.CheapKDF = true, "", p.cheapKDF
	st, err := store.Open(ctx, sc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if !st.Created() {
		if err := st.Available(ctx); err != nil {
			return fmt.Errorf("store create: it was here before: %w", err)
		}
		return fmt.Errorf("store create: %s: there is a store", st.Location())
	}
	_, err = fmt.Fprintf(p.stdout, "%s: made, %s\n", st.Location(), encryption(st))
	return err
}

func encryption(st *store.Store) string {
	if st.Encrypted() {
		return "encrypted"
	}
	return "not encrypted"
}

func (p *program) storeInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "info",
		Short: "Describe the store",
		Long: `Reads the store, with and without a running gateway, and prints where it is, its id, whether
it is encrypted, and how many snapshots, states and packfiles it has. It changes nothing.`,
		Example: "  gateway store info -c /etc/gateway.yaml",
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.readStore(c.Context(), p.storeInfo)
		},
	}
}

// readStore opens the store for a command that only reads it, beside whatever else uses it.
func (p *program) readStore(ctx context.Context, read func(context.Context, *store.Store, *snapshotter.Snapshotter) error) (err error) {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	sc := cfg.StoreConfig(slog.New(slog.DiscardHandler), false)
	sc.CacheDir, sc.KeepDir = "", ""
	st, err := store.Open(ctx, sc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st})
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
	fmt.Fprintf(w, "encryption\t%s\n", encryption(st))
	fmt.Fprintf(w, "snapshots\t%d\n", len(list))
	fmt.Fprintf(w, "states\t%d\n", len(states))
	fmt.Fprintf(w, "packfiles\t%d\n", packfiles)
	return w.Flush() // keeps the errors of the lines
}

func (p *program) storeCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check all snapshots of the store",
		Long: `Reads all snapshots, those of plakar too, and compares every index, entry, object and chunk
with its checksum, as plakar check does. It changes nothing, and goes on after a snapshot
that is damaged; then its exit status is 1.`,
		Example: "  gateway store check -c /etc/gateway.yaml",
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.readStore(c.Context(), p.storeCheck)
		},
	}
}

func (p *program) storeCheck(ctx context.Context, _ *store.Store, snaps *snapshotter.Snapshotter) error {
	list, err := snaps.Snapshots(ctx, "")
	if err != nil {
		return fmt.Errorf("store check: %w", err)
	}
	damaged := 0
	for _, s := range list {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store check: %w", err)
		}
		verdict := "good"
		if err := snaps.Check(ctx, s.ID); err != nil {
			if errors.Is(err, store.ErrUnavailable) {
				return fmt.Errorf("store check: %w", err)
			}
			damaged++
			verdict = "damaged: " + printable(err.Error())
		}
		if _, err := fmt.Fprintf(p.stdout, "%s %s %s\n", s.ID, printable(s.Share), verdict); err != nil {
			return err
		}
	}
	if damaged > 0 {
		return fmt.Errorf("store check: %d of %d snapshots: %w", damaged, len(list), store.ErrDamaged)
	}
	return nil
}
