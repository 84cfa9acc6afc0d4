package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

const (
	// shownProblems is how many problems a pull shows without --verbose.
	shownProblems = 20
	// jsonInterval is between two lines of progress in JSON.
	jsonInterval = time.Second
)

// pullCommand is a call of gateway pull.
type pullCommand struct {
	p      *program
	c      *cobra.Command
	remote *remoteFlags

	all, checksum, partial, dryRun bool
	asJSON, quiet, verbose         bool
	name                           string

	login *connecting // nil for none
	line  *liveLine   // nil for none
	ask   func(ctx context.Context, question string) ([]byte, error)
}

func (p *program) pullCommand() *cobra.Command {
	pc := &pullCommand{p: p}
	c := &cobra.Command{
		Use:   "pull NAME…|--all|LOCATION --name NAME",
		Short: "Back up remote servers",
		Long: `Pulls sources into the store: SFTP servers, FTP servers and local directories. Each run that
finds something changed makes a snapshot, on top of the last one: files whose size and time
are the same are not read again. It works beside a running gateway. The id of the snapshot
stands alone on the last line; with several sources, each line has an id and a name.

A source is one of the configuration, or a location (sftp://[user@]host[:port]/path,
sftp://alias:/path, ftp://…, ftps://…, fs:///path or a path) with a name for its snapshots
and with flags that are called like the keys of the configuration. Passwords and
passphrases are asked for only on a terminal.

What could not be captured is named, is in the snapshot's errors, and stays in the snapshot
as the last one has it. When the connection is lost for good there is no snapshot, unless
--partial is given. A directory that itself cannot be listed makes none: status 1.

Exit status 3: there is a snapshot, and something could not be captured. With several
sources, all are pulled, and the status is 1 when one of them has failed. A store that is
full (limits.store, or its disk) takes no pull: status 1, and no snapshot.`,
		Example: `  gateway pull -c /etc/gateway.yaml web1
  gateway pull -c /etc/gateway.yaml --all --quiet
  gateway pull sftp://backup@web1.example.com/srv/www --name web1 --identity ~/.ssh/backup`,
		RunE: func(c *cobra.Command, args []string) error { return pc.run(c.Context(), args) },
	}
	pc.c = c
	f := c.Flags()
	f.BoolVar(&pc.all, "all", false, "pull all sources of the configuration")
	f.StringVar(&pc.name, "name", "", "`NAME` of a location's snapshots")
	f.BoolVar(&pc.checksum, "checksum", false, "read all files, whatever their size and time say")
	f.BoolVar(&pc.partial, "partial", false, "make a snapshot also when the connection is lost for good")
	f.BoolVarP(&pc.dryRun, "dry-run", "n", false, "only say what would change")
	f.BoolVar(&pc.asJSON, "json", false, "print one JSON object a line: progress, changes, and a summary of each source")
	f.BoolVarP(&pc.quiet, "quiet", "q", false, "print ids of snapshots alone, unless something is wrong")
	f.BoolVarP(&pc.verbose, "verbose", "v", false, fmt.Sprintf("name all problems, not the first %d", shownProblems))
	pc.remote = addRemoteFlags(c)
	pc.remote.list("exclude", "leave out what a `PATTERN` matches, as in a .gitignore file; may be repeated")
	pc.remote.text("exclude-file", "`FILE` of such patterns")
	f.SortFlags = false
	return c
}

func (pc *pullCommand) run(ctx context.Context, args []string) error {
	if err := pc.check(args); err != nil {
		return err
	}
	cfg, err := pc.p.load()
	if err != nil {
		return err
	}
	sources, err := pc.sources(cfg, args)
	if err != nil {
		return err
	}
	collectSooner()
	pc.attach()
	return interruptible(ctx, "pull", hintPullInterrupted, func(ctx context.Context) error {
		err := pc.openStore(ctx, cfg, sources, func(snaps *snapshotter.Snapshotter, bound *bounded, log *slog.Logger) error {
			return pc.pullAll(ctx, cfg, sources, snaps, bound, log)
		})
		if err != nil {
			return fmt.Errorf("pull: %w", err)
		}
		return nil
	})
}

// attach finds out whether somebody is there to see progress and to be asked.
func (pc *pullCommand) attach() {
	line := terminal(pc.p.stderr)
	if line == nil {
		return
	}
	if in, ok := pc.p.stdin.(*os.File); ok {
		pc.ask = line.asking(sshclient.AskOn(in, pc.p.stderr))
	}
	if !pc.quiet && !pc.asJSON {
		on := *pc.p
		on.stderr = line
		pc.line, pc.p = line, &on
	}
}

// check refuses calls that make no sense.
func (pc *pullCommand) check(args []string) error {
	locations := 0
	for _, arg := range args {
		if isLocation(arg) {
			locations++
		}
	}
	bad := func(text string) error { return usageError(pc.c, errors.New(text)) }
	switch {
	case slices.ContainsFunc(args, func(arg string) bool { return strings.TrimSpace(arg) == "" }):
		return bad("an argument is empty")
	case pc.all && len(args) > 0:
		return bad("--all, or names")
	case !pc.all && len(args) == 0:
		return bad("missing argument; usage: gateway pull NAME…, gateway pull --all, or gateway pull LOCATION --name NAME")
	case locations > 0 && len(args) > 1:
		return bad("a location goes alone")
	case locations > 0 && pc.name == "":
		return bad("a location needs --name, a name for its snapshots")
	case locations == 0 && pc.name != "":
		text := fmt.Sprintf("--name is for a location, as sftp://host/path; %q is the name of a source", args[0])
		return bad(text + orDirectory(args[0]))
	case pc.dryRun && pc.checksum:
		return bad("--dry-run reads no files, so --checksum cannot be known")
	}
	if locations == 0 {
		return pc.remote.onlyForLocations(pc.c)
	}
	return nil
}

// sources finds what is to be pulled.
func (pc *pullCommand) sources(cfg *config.Config, args []string) ([]config.Source, error) {
	var list []config.Source
	switch {
	case pc.all:
		if list = cfg.Sources; len(list) == 0 {
			return nil, &hintedError{err: fmt.Errorf("pull: %s has no sources", cfg.File), hint: `add sources: { web1: { location: "sftp://web1.example.com/srv/www" } }`}
		}
	case isLocation(args[0]):
		src, err := pc.adHoc(cfg, args[0])
		if err != nil {
			return nil, err
		}
		list = []config.Source{src}
	default:
		for _, name := range args {
			src, ok := cfg.Source(name)
			if !ok {
				return nil, unknownSource(cfg, name)
			}
			list = append(list, src)
		}
	}
	for i := range list {
		list[i].Checksum = list[i].Checksum || pc.checksum
		list[i].Partial = list[i].Partial || pc.partial
	}
	return list, nil
}

// adHoc is the source of a location on the command line.
func (pc *pullCommand) adHoc(cfg *config.Config, location string) (src config.Source, err error) {
	if err := config.CheckSourceName(pc.name); err != nil {
		return src, usageError(pc.c, err)
	}
	if _, ok := cfg.Source(pc.name); ok {
		return src, usageError(pc.c, fmt.Errorf("--name %s: a source of %s has that name", pc.name, cfg.File))
	}
	if knownShare(cfg, pc.name) == nil {
		return src, usageError(pc.c, fmt.Errorf("--name %s: a share of %s has that name", pc.name, cfg.File))
	}
	src, warnings, err := pc.remote.source(location)
	for _, w := range warnings {
		_, _ = fmt.Fprintf(pc.p.stderr, "gateway: warning: %s\n", w)
	}
	src.Name = pc.name
	return src, err
}

// orDirectory says how the directory is meant that a name may be taken for, "" when there is none.
func orDirectory(name string) string {
	if fi, err := os.Stat(name); err != nil || !fi.IsDir() {
		return ""
	}
	return fmt.Sprintf("; for the directory write ./%s", name)
}

func unknownSource(cfg *config.Config, name string) error {
	names := make([]string, len(cfg.Sources))
	for i := range cfg.Sources {
		names[i] = cfg.Sources[i].Name
	}
	return &hintedError{
		err:  fmt.Errorf("source %q: not in %s", name, cfg.File),
		hint: otherKind(cfg, name, aSource) + fmt.Sprintf("its sources are: %s; or give a location, as sftp://host/path, and --name", joinOr(names, "none")) + orDirectory(name),
	}
}

// What a name of the configuration may be of.
const (
	aSource      = "a source"
	aDestination = "a destination"
	aStore       = "a store"
	aShare       = "a share"
)

// otherKind says of what a name is that was looked for as that of something else, with "; " behind it, "" when of nothing.
func otherKind(cfg *config.Config, name, wanted string) string {
	_, source := cfg.Source(name)
	_, destination := cfg.Destination(name)
	for _, k := range []struct {
		kind string
		is   bool
	}{
		{aSource, source}, {aDestination, destination}, {aStore, cfg.StoreNamed(name) != nil}, {aShare, knownShare(cfg, name) == nil},
	} {
		if k.is && k.kind != wanted {
			return fmt.Sprintf("%s is the name of %s, not of %s; ", name, k.kind, wanted)
		}
	}
	return ""
}

// openStore opens the store for writing, beside whatever else uses it. What it keeps of it has
// a directory of its own: the gateway's may be in use, or be wanted while this runs.
func (pc *pullCommand) openStore(ctx context.Context, cfg *config.Config, sources []config.Source, use func(*snapshotter.Snapshotter, *bounded, *slog.Logger) error) (err error) {
	var level slog.LevelVar
	log := pc.p.logger(cfg, &level)
	level.Set(max(cfg.Log.Level, slog.LevelWarn))
	if err := makeDataDir(cfg.DataDir, log); err != nil {
		return err
	}
	if len(sources) == 1 && pc.ask == nil { // a question would be between others
		pc.login = connectSource(ctx, &sources[0], log)
		defer func() { err = errors.Join(err, pc.login.close()) }()
	}
	sc := cfg.StoreConfig(log, !pc.dryRun)
	sc.CheapKDF = pc.p.cheapKDF
	sc.CacheDir = filepath.Join(cfg.DataDir, "pull-cache")
	st, err := store.Open(ctx, sc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	defer st.LeaveWhen(ctx, pull.KeepLimit)()
	if err := st.Available(ctx); err != nil {
		return err
	}
	point, err := failpoint()
	if err != nil {
		return err
	}
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st, Logger: log, Failpoint: point})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snaps.Close()) }()
	return use(snaps, boundOf(cfg, &cfg.Store, st), log)
}

// pullAll pulls one source after the other, and goes on after one that fails. When ctx ends, what is left out is told.
func (pc *pullCommand) pullAll(ctx context.Context, cfg *config.Config, sources []config.Source, snaps *snapshotter.Snapshotter, bound *bounded, log *slog.Logger) error {
	if len(sources) == 1 {
		return pc.pullOne(ctx, cfg, &sources[0], snaps, bound, log, false)
	}
	failed, incomplete := 0, 0
	for i := range sources {
		if ctx.Err() != nil { // the one before was at its end
			var left []string
			for k := range sources[i:] {
				left = append(left, sources[i+k].Name)
			}
			return &hintedError{err: errInterrupted, hint: "not pulled: " + strings.Join(left, ", ")}
		}
		err := pc.pullOne(ctx, cfg, &sources[i], snaps, bound, log, true)
		switch {
		case ctx.Err() != nil && err != nil && !errors.Is(err, errPartial):
			return err
		case errors.Is(err, errPartial):
			incomplete++
		case err != nil:
			failed++
		}
		if err != nil {
			pc.p.say("pull: "+err.Error(), hintFor(err))
		}
	}
	switch {
	case failed > 0:
		return fmt.Errorf("%d of %s failed", failed, count(len(sources), "source", "sources"))
	case incomplete > 0:
		return &incompleteError{fmt.Sprintf("%d of %s could not be captured whole", incomplete, count(len(sources), "source", "sources"))}
	}
	return nil
}

// notCaptured says that paths could not be captured.
func notCaptured(paths int64) string {
	return count(paths, "path could not be captured as it is", "paths could not be captured as they are")
}

// incompleteError is errPartial with a text of its own.
type incompleteError struct{ text string }

func (e *incompleteError) Error() string { return e.text }

// Is reports whether target is errPartial.
func (e *incompleteError) Is(target error) bool { return target == errPartial }

// pullOne pulls a source and says what came of it.
func (pc *pullCommand) pullOne(ctx context.Context, cfg *config.Config, src *config.Source, snaps *snapshotter.Snapshotter, bound *bounded, log *slog.Logger, many bool) error {
	report := &pull.Report{}
	opt := pullOptions{report: report, log: log, bound: bound, ask: pc.ask, login: pc.login}
	if pc.dryRun {
		opt.dryRun = func(pl pull.Planned) error { return pc.showPlanned(src, pl) }
	}
	stop := pc.watch(src, report)
	res, err := runPull(ctx, snaps, cfg.DataDir, src, opt)
	stop()
	if err != nil {
		err = &hintedError{err: fmt.Errorf("%s: %w", src.Name, err), hint: hintFor(err)}
	}
	if serr := pc.summary(src, report, res, err, many); serr != nil {
		return serr
	}
	if failed := report.Failed(); err == nil && failed > 0 {
		err = &incompleteError{src.Name + ": " + notCaptured(failed)}
	}
	return err
}

// summary says what a run has done.
func (pc *pullCommand) summary(src *config.Source, report *pull.Report, res pull.Result, runErr error, many bool) error {
	if pc.asJSON {
		line := pullLine{Type: "summary", Source: src.Name, New: res.New, Partial: res.Partial, Report: report}
		if !res.ID.IsZero() {
			line.Snapshot = res.ID.String()
		}
		if runErr != nil {
			line.Error, line.Hint = runErr.Error(), hintFor(runErr)
		}
		return pc.encode(line)
	}
	problems := report.Counts().Problems > 0
	if !pc.quiet || report.Failed() > 0 {
		most := shownProblems
		if pc.verbose {
			most = int(report.Counts().Problems)
		}
		if runErr == nil || problems {
			_, _ = fmt.Fprintf(pc.p.stderr, "%s: %s\n", src.Name, outcome(res, pc.dryRun, runErr))
			_ = report.WriteText(pc.p.stderr, most)
		}
	}
	var err error
	switch none := runErr != nil || pc.dryRun || res.ID.IsZero(); {
	case none:
	case many:
		_, err = fmt.Fprintf(pc.p.stdout, "%s %s\n", res.ID, src.Name)
	default:
		_, err = fmt.Fprintln(pc.p.stdout, res.ID)
	}
	return err
}

func outcome(res pull.Result, dry bool, err error) string {
	switch {
	case err != nil:
		return "failed"
	case dry:
		return "this would change, nothing was stored"
	case !res.New:
		return "nothing has changed since the last snapshot"
	case res.Partial:
		return "a partial snapshot: the connection was lost"
	}
	return "a new snapshot"
}

// pullLine is a line of gateway pull --json.
type pullLine struct {
	Type     string       `json:"type"` // progress, change or summary
	Source   string       `json:"source"`
	Snapshot string       `json:"snapshot,omitempty"` // the newest of the source
	New      bool         `json:"new,omitempty"`      // it is of this run
	Partial  bool         `json:"partial,omitempty"`
	Error    string       `json:"error,omitempty"` // why there is none
	Hint     string       `json:"hint,omitempty"`
	Report   *pull.Report `json:"report,omitempty"`

	*progressLine
	*changeLine
}

// progressLine is how far a run is.
type progressLine struct {
	pull.Counts
	Seconds     float64 `json:"seconds"`
	Moved       int64   `json:"moved_bytes"`
	Wanted      int64   `json:"wanted_files"`
	WantedBytes int64   `json:"wanted_bytes"`
	Listed      bool    `json:"listed"` // all that is wanted is known
	Current     string  `json:"current,omitempty"`
}

// changeLine is what a dry run has found.
type changeLine struct {
	Change string `json:"change"` // new, changed, attributes or removed
	Kind   string `json:"kind,omitempty"`
	Path   string `json:"path"`
	Size   *int64 `json:"size,omitempty"` // of a file whose content would be read
}

func (pc *pullCommand) encode(v any) error {
	enc := json.NewEncoder(pc.p.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// showPlanned prints a change that would be made.
func (pc *pullCommand) showPlanned(src *config.Source, pl pull.Planned) error {
	change, sign := "attributes", "a"
	switch {
	case pl.Kind == snapshotter.Removed:
		change, sign = "removed", "-"
	case pl.New:
		change, sign = "new", "+"
	case pl.Content, pl.Kind == snapshotter.Symlink:
		change, sign = "changed", "M"
	}
	kind := map[snapshotter.ChangeKind]string{snapshotter.File: "file", snapshotter.Dir: "directory", snapshotter.Symlink: "link"}[pl.Kind]
	if pc.asJSON {
		line := &changeLine{Change: change, Kind: kind, Path: strings.ToValidUTF8(pl.Path, "\uFFFD")}
		if pl.Content {
			line.Size = &pl.Size
		}
		return pc.encode(pullLine{Type: "change", Source: src.Name, changeLine: line})
	}
	if pc.quiet {
		return nil
	}
	path := printable(pl.Path)
	if pl.Kind == snapshotter.Dir && path != "/" {
		path += "/"
	}
	_, err := fmt.Fprintf(pc.p.stdout, "%s %s\n", sign, path)
	return err
}
