package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

func (p *program) snapshotsCommand() *cobra.Command {
	var f viewFlags
	c := &cobra.Command{
		Use:   "snapshots [SHARE]",
		Short: "List snapshots",
		Long: `Lists the snapshots of a share, or of all, newest first: those that the gateway made and
those that plakar made in the same store, which are listed under their dataset or source.
It works with and without a running gateway, changes nothing and never creates a store. TIME
is local.

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
			return interruptible(c.Context(), "snapshots", "", func(ctx context.Context) error { return p.listSnapshots(ctx, share, &f) })
		},
	}
	f.add(c)
	return c
}

func (p *program) listSnapshots(ctx context.Context, share string, f *viewFlags) error {
	var stores []string
	if f.store != "" {
		stores = []string{f.store}
	}
	cfg, named, err := p.loadStore(stores)
	if err != nil {
		return err
	}
	list, lost, err := p.findSnapshots(ctx, cfg, named, share)
	if err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	if len(lost) > 0 {
		defer p.sayUnreadable(lost)
	}
	if len(list) == 0 && share != "" {
		if err := knownShare(cfg, share); err != nil {
			return err
		}
	}
	w, end, err := p.page(f.noPager)
	if err != nil {
		return err
	}
	if f.asJSON {
		err = printJSON(w, list)
	} else {
		err = printSnapshots(w, list, time.Local)
	}
	if errors.Is(err, syscall.EPIPE) { // the pager was left
		err = nil
	}
	return errors.Join(err, end())
}

// shownUnreadable is how many snapshots are named that cannot be read.
const shownUnreadable = 10

// sayUnreadable warns of snapshots that are not listed.
func (p *program) sayUnreadable(lost []string) {
	p.say("warning: "+describeUnreadable(lost), hintOfUnreadable)
}

// describeUnreadable names snapshots that are not listed.
func describeUnreadable(lost []string) string {
	var ids []string
	for _, id := range lost[:min(len(lost), shownUnreadable)] {
		ids = append(ids, id[:shortID])
	}
	text := fmt.Sprintf("%s damaged and not listed, whose header, or an index, cannot be read: %s",
		count(len(lost), "snapshot is", "snapshots are"), strings.Join(ids, " "))
	if len(lost) > len(ids) {
		text += fmt.Sprintf(" and %d more", len(lost)-len(ids))
	}
	return text
}

// printSnapshots prints a table with the times of a zone.
func printSnapshots(out io.Writer, list []control.Snapshot, zone *time.Location) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "SHARE\tNAME\tTIME\tFILES\tSIZE\tID")
	for _, s := range list {
		made := s.Time
		if t, err := time.Parse(time.RFC3339, s.Time); err == nil {
			made = t.In(zone).Format(timeLayout)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", printable(s.Share), s.Name, made, s.Files, humanize.IBytes(s.Size), s.ID)
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

// findSnapshots asks the running gateway, which has the keys of its store at hand, or reads the
// store. lost are the ids of snapshots, of whatever share, that cannot be read.
func (p *program) findSnapshots(ctx context.Context, cfg *config.Config, named *config.Store, share string) (list []control.Snapshot, lost []string, err error) {
	if named != &cfg.Store {
		return readSnapshots(ctx, cfg, named, share)
	}
	rep, err := control.Call(ctx, cfg.DataDir, control.Request{Op: control.OpSnapshots, Share: share}, func(r control.Reply) error {
		if r.Snapshot != nil {
			list = append(list, *r.Snapshot)
		}
		return nil
	})
	if !errors.Is(err, control.ErrNoServer) {
		return list, rep.Unreadable, err
	}
	return readSnapshots(ctx, cfg, named, share)
}

// readSnapshots reads a store beside whatever else uses it; it leaves data_dir alone.
func readSnapshots(ctx context.Context, cfg *config.Config, named *config.Store, share string) (list []control.Snapshot, lost []string, err error) {
	err = readConfigured(ctx, cfg, named, func(ctx context.Context, _ *store.Store, snaps *snapshotter.Snapshotter) (err error) {
		list, lost, err = listSnapshots(ctx, snaps, share, func(share string) snapshotter.Lineage { return storedLineage(cfg, share) })
		return err
	})
	return list, lost, storeError(named, err)
}

// storedLineage is what a running gateway's System.Lineage says.
func storedLineage(cfg *config.Config, share string) snapshotter.Lineage {
	isShare := slices.ContainsFunc(cfg.Shares, func(s shareConfig) bool { return s.Name == share })
	if isShare {
		return vfs.StoredLineage(cfg.DataDir, share)
	}
	return vfs.StoredSourceLineage(cfg.DataDir, share)
}
