package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

func (p *program) importCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import DIR SHARE",
		Short: "Store a local directory in a share",
		Long: `Stores what is below a local directory in a share, with times, modes, owners and
symbolic links, and commits it: to seed a share, or to take over the files of another
server. What is there already with the same size and time is left alone, so an import
that was cut off can be repeated; other files of the share stay. The share makes no snapshot
of its own meanwhile, unless max_delay is over or the spool is full.

When a gateway runs it does the import, so it must be able to read the directory; without
one the command does it itself. The id of the snapshot stands alone on the last line.

Exit status 3: some files were left out (each is named on standard error), the rest is
stored.`,
		Example: "  gateway import -c /etc/gateway.yaml /srv/sftp/fw01 backups",
		Args:    arguments(2, 2),
		RunE: func(c *cobra.Command, args []string) error {
			return interruptible(c.Context(), "import", "the same call goes on where it was", func(ctx context.Context) error {
				return p.importDir(ctx, args[0], args[1])
			})
		},
	}
}

func (p *program) importDir(ctx context.Context, dir, share string) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	if err := p.writableShare(cfg, share); err != nil {
		return err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if info, err := os.Stat(abs); err != nil {
		return fmt.Errorf("import: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("import: %s: not a directory", dir)
	}
	sum, id, err := p.runImport(ctx, cfg, control.Request{Op: control.OpImport, Share: share, Dir: abs})
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	_, _ = fmt.Fprintf(p.stderr, "imported %s (%s), %s, %s; %s there already, %d left out\n",
		count(sum.Files, "file", "files"), humanize.IBytes(uint64(max(sum.Bytes, 0))), count(sum.Dirs, "directory", "directories"),
		count(sum.Links, "link", "links"), count(sum.Same, "was", "were"), sum.Failed)
	if id != "" {
		if _, err := fmt.Fprintln(p.stdout, id); err != nil {
			return err
		}
	}
	if sum.Failed > 0 {
		return errPartial
	}
	return nil
}

// runImport has the running gateway do it, or does it here.
func (p *program) runImport(ctx context.Context, cfg *config.Config, req control.Request) (control.Import, string, error) {
	rep, err := control.Call(ctx, cfg.DataDir, req, func(r control.Reply) error {
		if r.Import != nil {
			p.showImport(*r.Import)
		}
		return nil
	})
	if !errors.Is(err, control.ErrNoServer) {
		if rep.Import == nil {
			rep.Import = &control.Import{}
		}
		return *rep.Import, rep.ID, err
	}
	var level slog.LevelVar
	log := p.logger(cfg, &level)
	level.Set(max(cfg.Log.Level, slog.LevelWarn)) // progress is what is of interest here
	g, err := p.openGateway(ctx, cfg, log)
	if err != nil {
		return control.Import{}, "", err
	}
	stop := g.store.LeaveWhen(ctx, store.LeavePatience)
	sum, err := g.importBounded(ctx, req, func(i control.Import) error { p.showImport(i); return nil })
	stop()
	err = errors.Join(err, g.close(ctx)) // which commits what waits, unless somebody has interrupted it
	id := ""
	if !sum.head.IsZero() {
		id = sum.head.String()
	}
	return sum.Import, id, err
}

// showImport prints a line of progress, or what was left out.
func (p *program) showImport(i control.Import) {
	if i.Problem != "" {
		_, _ = fmt.Fprintf(p.stderr, "left out: %s: %s\n", printable(i.Path), escaped([]byte(i.Problem)))
		return
	}
	_, _ = fmt.Fprintf(p.stderr, "%s, %s\n", count(i.Files+i.Same, "file", "files"), humanize.IBytes(uint64(max(i.Bytes, 0))))
}

// importBounded imports without a server, whose watch would have what does not fit into the store refused.
func (g *gateway) importBounded(ctx context.Context, req control.Request, report func(control.Import) error) (imported, error) {
	bound := boundOf(g.cfg, &g.cfg.Store, g.store)
	bound.pending = func() int64 { return g.system.Status().SpoolBytes }
	if err := bound.full(ctx); err != nil {
		return imported{}, err
	}
	watching, stop := context.WithCancel(ctx)
	look := func() (next time.Duration) {
		began := time.Now()
		if st, err := bound.measure(watching); err == nil {
			g.system.SetStoreRoom(st.room, st.why)
		}
		return max(guardInterval, fullnessShare*time.Since(began))
	}
	next, ended := look(), make(chan struct{})
	go func() {
		defer close(ended)
		for pauseFor(watching, next) {
			next = look()
		}
	}()
	defer func() {
		stop()
		<-ended
	}()
	return g.importDir(ctx, req, report)
}

// importDir stores a directory through a session, as a client would.
func (g *gateway) importDir(ctx context.Context, req control.Request, report func(control.Import) error) (imported, error) {
	principal := &vfs.Principal{
		User:   "import",
		Mounts: []vfs.Mount{{At: vfs.Root(), Share: req.Share, Root: vfs.Root()}},
		Perms:  vfs.PermFull,
	}
	sess, err := g.system.Session(ctx, principal, vfs.ConnInfo{
		Protocol: "control", Remote: "local", Conn: "import", Bulk: true,
	})
	if err != nil {
		return imported{}, err
	}
	im := &importer{
		session: sess, report: report,
		commit: func(ctx context.Context) error { _, err := g.system.Commit(ctx, req.Share); return err },
	}
	sum, err := im.run(ctx, req.Dir)
	if err == nil {
		sum.head, err = commitNow(ctx, g.system, req.Share) // before the session ends, in one piece
	}
	if errors.Is(err, errNoSnapshotYet) {
		err = nil // an empty directory into an empty share
	}
	err = errors.Join(err, sess.Close())
	return sum, err
}
