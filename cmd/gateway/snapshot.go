package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
)

func (p *program) snapshotCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot SHARE",
		Short: "Commit a share now",
		Long: `Asks the running gateway to commit what is pending in a share, waits until the snapshot
is in the store, and prints its id alone on the last line. With nothing to commit it
prints the id of the last snapshot.`,
		Example: "  gateway snapshot -c /etc/gateway.yaml main",
		Args:    arguments(1, 1),
		RunE:    func(c *cobra.Command, args []string) error { return p.snapshot(c.Context(), args[0]) },
	}
}

func (p *program) snapshot(ctx context.Context, share string) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	if err := p.writableShare(cfg, share); err != nil {
		return err
	}
	rep, err := control.Call(ctx, cfg.DataDir, control.Request{Op: control.OpSnapshot, Share: share}, nil)
	if errors.Is(err, control.ErrNoServer) {
		return &hintedError{
			err:  fmt.Errorf("snapshot: %w", err),
			hint: "only the running gateway can commit; start it with: gateway serve -c " + shellQuote(p.configFile),
		}
	}
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	_, err = fmt.Fprintln(p.stdout, rep.ID)
	return err
}
