package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/retention"
	"github.com/snapgate/gateway/vfs"
)

// program is one run of the command: what it reads and writes, and the seams for tests.
type program struct {
	stdin      io.Reader
	stdout     io.Writer
	stderr     io.Writer
	configFile string

	clocks          func() retention.Reading // of tests; nil: the machine's
	leaveOutDamaged bool                     // serve: go on without uploads whose spooled bytes are damaged

	zone   *time.Location // in which times are read and shown by what looks into snapshots; nil: the machine's
	served *served        // of a command that a running gateway runs for somebody; else nil

	cheapKDF bool // tests: stores are created with a weak and quick key derivation
}

// defaultConfigFile is what -c defaults to.
const defaultConfigFile = "config.yaml"

// run runs the command that args name and returns the exit status.
func (p *program) run(ctx context.Context, args []string) int {
	err := p.execute(ctx, p.root(), args)
	if err == nil {
		return statusOK
	}
	return p.report(err)
}

func (p *program) execute(ctx context.Context, root *cobra.Command, args []string) error {
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	return root.ExecuteContext(ctx)
}

// now is the time, in the zone in which times are read and shown.
func (p *program) now() time.Time {
	if p.zone == nil {
		return time.Now()
	}
	return time.Now().In(p.zone)
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "gateway",
		Short: "SFTP in, snapshots out",
		Long: `gateway serves shares over SFTP and makes a snapshot of what changed, in a kloset
store that plakar can read. No client can change a snapshot.

Exit status: 0 success, 1 failure, 2 wrong usage, 3 an import, a pull, a restore, a get or a sync
that left something out, a find or history that could not read all snapshots, or a status that is
not as it should be.`,
		Example: `  gateway quickstart                     make a store and serve it, in this directory
  gateway serve -c /etc/gateway.yaml     serve what the file says`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().StringVarP(&p.configFile, "config", "c", defaultConfigFile, "configuration `FILE`")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError(c, err) })
	root.AddCommand(
		p.serveCommand(),
		p.quickstartCommand(),
		group("config", "Look at the configuration", p.configCheckCommand()),
		group("user", "Users and their passwords", p.hashPasswordCommand(), p.userListCommand()),
		group("store", "The stores", p.storeInfoCommand(), p.storeListCommand(), p.storeCheckCommand(), p.storeCreateCommand()),
		p.statusCommand(),
		p.alarmsCommand(),
		p.hooksCommand(),
		p.snapshotCommand(),
		p.snapshotsCommand(),
	)
	root.AddCommand(p.viewCommands()...)
	root.AddCommand(
		p.importCommand(),
		p.pullCommand(),
		p.jobsCommand(),
		p.restoreCommand(),
		p.syncCommand(),
		p.scrubCommand(),
		p.maintainCommand(),
		p.pruneCommand(),
		p.pinCommand(),
		p.unpinCommand(),
		p.pinsCommand(),
		p.versionCommand(),
	)
	needsCommand(root)
	root.SetHelpCommand(helpCommand(root))
	return root
}

// viewCommands are the commands that look into snapshots.
func (p *program) viewCommands() []*cobra.Command {
	return []*cobra.Command{
		p.infoCommand(),
		p.lsCommand(),
		p.treeCommand(),
		p.catCommand(),
		p.getCommand(),
		p.findCommand(),
		p.historyCommand(),
		p.diffCommand(),
		p.checkCommand(),
	}
}

// helpCommand is cobra's, but for failing when there is no such command.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Help about a command",
		Example: "  gateway help serve",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usageError(root, fmt.Errorf("help: unknown command %q", strings.Join(args, " ")))
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// group is a command that only holds others.
func group(name, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: name, Short: short}
	c.AddCommand(subs...)
	c.Example = subs[0].Example
	needsCommand(c)
	return c
}

// needsCommand makes a command without one of its own fail: with its help when nothing
// follows, and with the names that come near when something unknown does.
func needsCommand(c *cobra.Command) {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		c.SuggestionsMinimumDistance = 2
		e := usageError(c, fmt.Errorf("unknown command %q", args[0]))
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			e.hint = fmt.Sprintf("did you mean %q?", near[0])
		}
		return e
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		c.SetOut(c.ErrOrStderr())
		if err := c.Help(); err != nil {
			return err
		}
		return errNoCommand
	}
}

// arguments refuses any number of arguments but one from least to most.
func arguments(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usageError(c, fmt.Errorf("missing argument; usage: %s", strings.TrimSuffix(c.UseLine(), " [flags]")))
		case len(args) > most:
			return usageError(c, fmt.Errorf("unexpected argument %q", args[most]))
		}
		return nil
	}
}

// load reads the configuration and says its warnings.
func (p *program) load() (*config.Config, error) {
	cfg, err := config.Load(p.configFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &hintedError{
			err:  fmt.Errorf("%s: no such file", p.configFile),
			hint: "name the configuration with -c FILE, or make one with: gateway quickstart",
		}
	}
	return cfg, err
}

// knownShare checks that the configuration has a share or source of this name.
func knownShare(cfg *config.Config, name string) error {
	all := cfg.AllShares()
	if slices.ContainsFunc(all, func(s shareConfig) bool { return s.Name == name }) {
		return nil
	}
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.Name
	}
	what := "shares"
	if len(cfg.Sources) > 0 {
		what = "shares and sources"
	}
	return &hintedError{
		err:  fmt.Errorf("share %q: not in %s", name, cfg.File),
		hint: fmt.Sprintf("its %s are: %s", what, joinOr(names, "none")),
	}
}

// writableShare checks that the configuration has a share of this name that is no source.
func (p *program) writableShare(cfg *config.Config, name string) error {
	if _, ok := cfg.Source(name); ok {
		return &hintedError{
			err:  fmt.Errorf("%s: %w", name, vfs.ErrSource),
			hint: fmt.Sprintf("run: gateway pull -c %s %s", shellQuote(p.configFile), name),
		}
	}
	return knownShare(cfg, name)
}
