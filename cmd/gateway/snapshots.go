package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

func (p *program) snapshotsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "snapshots [SHARE]",
		Short: "List snapshots",
		Long: `Lists the snapshots of a share, or of all, newest first: those that the gateway made and
those that plakar made in the same store, which are listed under their dataset or source.
It works with and without a running gateway, changes nothing and never creates a store.

With --json every line is an object with id, time (UTC), share, name (as below
.snapshots), files, size (logical bytes) and tags (key=value).`,
		Example: `  gateway snapshots -c /etc/gateway.yaml main
  gateway snapshots --json | jq -r .id`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			share := ""
			if len(args) > 0 {
				share = args[0]
			}
			return p.listSnapshots(c.Context(), share, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

func (p *program) listSnapshots(ctx context.Context, share string, asJSON bool) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	list, err := p.findSnapshots(ctx, cfg, share)
	if err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	if len(list) == 0 && share != "" {
		if err := knownShare(cfg, share); err != nil {
			return err
		}
	}
	if asJSON {
		return printJSON(p.stdout, list)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "SHARE\tNAME\tFILES\tSIZE\tID")
	for _, s := range list {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", printable(s.Share), s.Name, s.Files, humanize.IBytes(s.Size), s.ID)
	}
	return w.Flush() // keeps the errors of the lines
}

// printJSON prints one JSON object a line.
func printJSON[T any](w io.Writer, list []T) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for i := range list {
		if err := enc.Encode(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// findSnapshots asks the running gateway, which has the keys at hand, or reads the store.
func (p *program) findSnapshots(ctx context.Context, cfg *config.Config, share string) ([]control.Snapshot, error) {
	var list []control.Snapshot
	_, err := control.Call(ctx, cfg.DataDir, control.Request{Op: control.OpSnapshots, Share: share}, func(r control.Reply) error {
		if r.Snapshot != nil {
			list = append(list, *r.Snapshot)
		}
		return nil
	})
	if !errors.Is(err, control.ErrNoServer) {
		return list, err
	}
	return p.readSnapshots(ctx, cfg, share)
}

// readSnapshots reads the store beside whatever else uses it; it leaves data_dir alone.
func (p *program) readSnapshots(ctx context.Context, cfg *config.Config, share string) (list []control.Snapshot, err error) {
	sc := cfg.StoreConfig(slog.New(slog.DiscardHandler), false)
	sc.CacheDir, sc.KeepDir = "", ""
	st, err := store.Open(ctx, sc)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, snaps.Close()) }()
	list, err = listSnapshots(ctx, snaps, share, func(share string) snapshotter.Lineage { return storedLineage(cfg, share) })
	return slices.Clip(list), err
}

// storedLineage is what a running gateway's System.Lineage says.
func storedLineage(cfg *config.Config, share string) snapshotter.Lineage {
	isShare := slices.ContainsFunc(cfg.Shares, func(s shareConfig) bool { return s.Name == share })
	if isShare {
		return vfs.StoredLineage(cfg.DataDir, share)
	}
	return vfs.StoredSourceLineage(cfg.DataDir, share)
}
