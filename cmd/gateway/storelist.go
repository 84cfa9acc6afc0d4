package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// errStoresAway ends a list in which a store could not be read; it says why.
var errStoresAway = errors.New("not all stores could be read")

// listedStore is a store in a list.
type listedStore struct {
	Name      string `json:"name"`
	Location  string `json:"location"`
	Encrypted bool   `json:"encrypted"`
	ID        string `json:"id,omitempty"`
	Snapshots int    `json:"snapshots"`
	Error     string `json:"error,omitempty"` // why it cannot be read
}

func (p *program) storeListCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the configured stores",
		Long: `Lists the stores of the configuration, with how many snapshots they have, or why they cannot
be read. It changes nothing. The store that the gateway serves is called default. When a store
cannot be read, the exit status is 1.`,
		Example: "  gateway store list -c /etc/gateway.yaml",
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return interruptible(c.Context(), "store list", "", func(ctx context.Context) error { return p.storeList(ctx, asJSON) })
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a store")
	return c
}

func (p *program) storeList(ctx context.Context, asJSON bool) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	away := false
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, named := range cfg.AllStores() {
		l := lookAtStore(ctx, cfg, named)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store list: %w", err)
		}
		away = away || l.Error != ""
		switch {
		case asJSON:
			err = json.NewEncoder(p.stdout).Encode(l)
		case l.Error != "":
			_, err = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Name, printable(l.Location), encryption(l.Encrypted), printable(l.Error))
		default:
			_, err = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Name, printable(l.Location), encryption(l.Encrypted), count(l.Snapshots, "snapshot", "snapshots"))
		}
		if err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if away {
		return fmt.Errorf("store list: %w", errStoresAway)
	}
	return nil
}

// lookAtStore opens a store to see what is in it.
func lookAtStore(ctx context.Context, cfg *config.Config, named *config.Store) listedStore {
	l := listedStore{Name: named.Name, Location: named.Location, Encrypted: !named.Plaintext}
	err := readConfigured(ctx, cfg, named, func(ctx context.Context, st *store.Store, snaps *snapshotter.Snapshotter) error {
		l.ID = st.ID()
		if err := st.Available(ctx); err != nil {
			return err
		}
		list, err := snaps.Snapshots(ctx, "")
		l.Snapshots = len(list)
		return err
	})
	if err != nil {
		l.Error = err.Error()
	}
	return l
}
