package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/audit"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

func (p *program) scrubCommand() *cobra.Command {
	var f scrubFlags
	c := &cobra.Command{
		Use:   "scrub [STORE]",
		Short: "Read the files of a store back",
		Long: `Reads packfiles and states of the store back and compares every blob, every index of a packfile
and every state with its MAC: what has come since the last time, and a part of the rest, as the
running gateway does once a day (verify in the configuration). With --all it reads everything; when
that is cut off, the same call goes on where it was. It works beside uploads, takes no lock and
changes nothing. A file that cannot be read is tried once more at the end, and by the next run; that is an
error, and says nothing of what is in it. What is damaged is named with the shares, paths and snapshots that it concerns, also
by later calls, until one finds it mended; the exit status is 1 as long.

The running gateway does it, if there is one and it is its store. Without STORE it is the store that
is served. In contrast to gateway check, this remembers what was read when.

With --repair what is damaged is written again, under its name and with what was in it: from the
gateway's own copies of metadata, from other packfiles, and from the store that --from names, which
is another copy of the files of the store, or has copies of its snapshots (gateway sync). What cannot
be repaired is told with the reason. A snapshot whose header or indexes cannot be repaired is made anew
from its copy in that store, with another id, and takes the place of the damaged one.

With --give-up a snapshot is removed whose header is damaged or missing and of which there is no copy anywhere: what is
damaged and concerns it alone is not named any more. It is given by its id, or 8 digits of it or more, after a scrub has
found that. It repairs first what it can, as --repair does, with --from, too: what comes back is not given up. Nor is
anything while no snapshot at all can be read, as then the packfiles may be somewhere else: if it was the
only one, make a new one first. One that is given up has gone for good, also when its packfile is found later.
It asks before; --yes is for scripts.

With --json every line is an object: one for each damaged file, with damage (packfile, state or
configuration), file, text, found, blobs and uses (share, path, what, size, mtime, snapshots, first,
last); and the sum, with store, packfiles, states, blobs, bytes, damaged, replaced (old, new, share, time) and given_up (ids), which comes last.`,
		Example: `  gateway scrub -c /etc/gateway.yaml
  gateway scrub --all offsite
  gateway scrub --repair --from offsite
  gateway scrub --give-up 3f2a61c0d1e2
  gateway scrub --all --json | jq -r 'select(.uses) | .uses[] | .share + ":" + .path'`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case f.all && f.damaged:
				return usageError(c, errors.New("either --all or --damaged"))
			case f.from != "" && !f.repair && len(f.giveUp) == 0:
				return usageError(c, errors.New("--from is for --repair and --give-up"))
			case f.yes && len(f.giveUp) == 0:
				return usageError(c, errors.New("--yes is for --give-up"))
			case len(f.giveUp) > 0 && !f.yes && (f.asJSON || !p.person()):
				return usageError(c, errors.New("--give-up asks before it removes, and nobody is there to be asked: give --yes, too"))
			}
			return p.scrub(c.Context(), args, f)
		},
	}
	c.Flags().BoolVar(&f.all, "all", false, "read everything")
	c.Flags().BoolVar(&f.damaged, "damaged", false, "read only what was damaged when it was read last")
	c.Flags().BoolVar(&f.repair, "repair", false, "repair what is damaged")
	c.Flags().StringVar(&f.from, "from", "", "the `STORE` of the configuration to repair from; default: verify.repair_from, for the store that is served")
	c.Flags().BoolVar(&f.accept, "accept", false, "take states that are missing for removed, as an older copy of the store was put back")
	c.Flags().StringSliceVar(&f.giveUp, "give-up", nil, "remove the `SNAPSHOT`, whose header is lost and of which there is no copy, after a repair")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask before a snapshot is given up")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON object a line")
	return c
}

type scrubFlags struct {
	all, damaged, repair, accept, yes, asJSON bool
	from                                      string
	giveUp                                    []string
}

func (f scrubFlags) scope() snapshotter.ScrubScope {
	switch {
	case f.all:
		return snapshotter.ScrubAll
	case f.damaged || len(f.giveUp) > 0:
		return snapshotter.ScrubDamaged
	}
	return snapshotter.ScrubDue
}

func (p *program) scrub(ctx context.Context, args []string, f scrubFlags) error {
	cfg, named, err := p.loadStore(args)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	if f.from != "" {
		if _, err := namedStore(cfg, f.from); err != nil {
			return fmt.Errorf("scrub: %w", err)
		}
	}
	f.repair = f.repair || len(f.giveUp) > 0 // what can be brought back is not lost
	if f.repair && f.from == "" && named == &cfg.Store {
		f.from = cfg.Verify.RepairFrom
	}
	if len(f.giveUp) > 0 && !f.yes {
		question, err := giveUpQuestion(scrubConfig(cfg, named, f.scope()).Dir, f.giveUp)
		if err != nil {
			return err
		}
		yes, err := p.askYes(ctx, question)
		if err != nil || !yes {
			return errors.Join(err, errors.New("scrub: nothing was given up"))
		}
	}
	began := time.Now()
	damage := []control.Damage{}
	sum, err := p.scrubSomehow(ctx, cfg, named, f, func(d *control.Damage) { damage = append(damage, *d) })
	if sum != nil && err != nil && (ctx.Err() != nil || sum.Unread == 0) { // then there is no report
		for _, id := range sum.GivenUp {
			_, _ = fmt.Fprintf(p.stderr, "gateway: snapshot %s was given up\n", id[:shortID])
		}
	}
	if ctx.Err() != nil {
		return interrupted("scrub", "the same call goes on where it was")
	}
	unread := err
	if err != nil && (sum == nil || sum.Unread == 0) {
		return storeError(named, err)
	}
	sum.Seconds = time.Since(began).Seconds()
	if err := writeScrub(p.stdout, sum, damage, f.asJSON); err != nil {
		return err
	}
	if unread != nil {
		return storeError(named, unread)
	}
	if sum.Damaged > 0 {
		return storeError(named, fmt.Errorf("scrub: %s: %w", count(sum.Damaged, "file", "files"), store.ErrDamaged))
	}
	if sum.Forgotten != "" {
		return storeError(named, fmt.Errorf("scrub: %w", snapshotter.ErrForgotten))
	}
	return nil
}

// scrubSomehow has the running gateway do it, which knows what is damaged; or does it itself.
func (p *program) scrubSomehow(ctx context.Context, cfg *config.Config, named *config.Store, f scrubFlags, damaged func(*control.Damage)) (*control.Scrub, error) {
	if named == &cfg.Store {
		req := control.Request{Op: control.OpScrub, Scope: string(f.scope()), Accept: f.accept, Repair: f.repair, From: f.from, GiveUp: f.giveUp}
		rep, err := control.Call(ctx, cfg.DataDir, req, func(r control.Reply) error {
			if r.Damage != nil {
				damaged(r.Damage)
			}
			return nil
		})
		if !errors.Is(err, control.ErrNoServer) {
			if err == nil && rep.Scrub == nil {
				err = errors.New("scrub: the running gateway says nothing")
			}
			if err == nil && len(f.giveUp) > 0 && len(rep.Scrub.GivenUp)+len(rep.Scrub.Replaced) == 0 {
				err = &hintedError{err: errors.New("scrub: the running gateway does not know of --give-up"), hint: "it is of another version: restart it"}
			}
			return rep.Scrub, err
		}
	}
	sc := scrubConfig(cfg, named, f.scope())
	sc.Accept, sc.Repair, sc.GiveUp = f.accept, f.repair, f.giveUp
	var level slog.LevelVar
	log := p.logger(cfg, &level)
	level.Set(slog.LevelError + 1) // what is damaged is told otherwise
	rep, err := scrubAlone(ctx, cfg, named, sc, f.from, log)
	for i := range rep.State.Damage {
		damaged(describeDamage(&rep.State.Damage[i]))
	}
	return describeScrub(named.Name, &rep), err
}

// scrubAlone opens a store, beside whatever else uses it.
func scrubAlone(ctx context.Context, cfg *config.Config, named *config.Store, sc snapshotter.ScrubConfig, from string, log *slog.Logger) (rep snapshotter.ScrubReport, err error) {
	point, err := failpoint()
	if err != nil {
		return rep, err
	}
	note, end, err := auditScrub(cfg, named, sc, log)
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, end()) }()
	look := !sc.Repair && len(sc.GiveUp) == 0
	opened := cfg.StoreConfigOf(named, log, false)
	opened.Tolerant, opened.NoSweep = true, !sc.Repair
	if !sc.Repair {
		// The gateway, or a sync, that may be started meanwhile has its own; but in that are its copies of metadata.
		opened.CacheDir = cacheOf(filepath.Join(sc.Dir, "cache"), look)
	}
	st, err := store.Open(ctx, opened)
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	defer st.LeaveWhen(ctx, store.LeavePatience)()
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st, Logger: log, Failpoint: point, Tolerant: true, ReadOnly: look})
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, snaps.Close()) }()
	rep, err = scrubFrom(ctx, cfg, from, log, sc, snaps.Scrub)
	if named == &cfg.Store {
		noteReplaced(note, byCommand, rep.Replaced)
		noteGivenUp(note, byCommand, "", rep.GivenUp)
	} else {
		noteGivenUp(note, byCommand, named.Name, rep.GivenUp)
	}
	return rep, err
}

// auditScrub opens the audit log for a scrub that may change snapshots: before it does, as what it has removed cannot be
// told of later.
func auditScrub(cfg *config.Config, named *config.Store, sc snapshotter.ScrubConfig, log *slog.Logger) (note func(audit.Event), end func() error, err error) {
	if cfg.Audit.File == "" || len(sc.GiveUp) == 0 && (!sc.Repair || named != &cfg.Store) {
		return func(audit.Event) {}, func() error { return nil }, nil
	}
	trail, err := audit.Open(audit.Config{File: cfg.Audit.File, Logger: log})
	if err != nil {
		return nil, nil, err
	}
	return trail.Write, trail.Close, nil
}

// noteReplaced writes to the audit log which snapshots were made anew.
func noteReplaced(note func(audit.Event), by string, replaced []snapshotter.Replaced) {
	for _, r := range replaced {
		note(audit.Event{
			Event: "snapshot_replaced", Result: audit.OK, Share: r.Share, Snapshot: r.Old.String(), Reason: by,
			Detail: "it was damaged; made anew from its copy as " + r.New.String(),
		})
	}
}

// noteGivenUp writes to the audit log which snapshots of a store were given up; "" is the one that is served.
func noteGivenUp(note func(audit.Event), by, store string, ids []snapshotter.ID) {
	detail := lostText
	if store != "" {
		detail = store + ": " + lostText
	}
	for _, id := range ids {
		note(audit.Event{Event: "snapshot_given_up", Result: audit.OK, Snapshot: id.String(), Reason: by, Detail: detail})
	}
}

// lostText says why a snapshot was given up.
const lostText = "its header is damaged or missing, and there is no copy"

// giveUpQuestion is whether snapshots are to be given up, and says what is known of packfiles: many that are missing may be
// somewhere else. dir is that of ScrubConfig.
func giveUpQuestion(dir string, refs []string) (string, error) {
	st, err := snapshotter.ReadScrubState(dir)
	if err != nil {
		return "", err
	}
	missing := 0
	for i := range st.Damage {
		if d := &st.Damage[i]; d.Kind == snapshotter.DamagedPackfile && d.Missing() {
			missing++
		}
	}
	text := fmt.Sprintf("%s missing when the store was scrubbed last", count(missing, "packfile was", "packfiles were"))
	if st.More > 0 {
		text += fmt.Sprintf(", and %s damaged or missing", count(st.More, "other file was", "other files were"))
	}
	return fmt.Sprintf("%s. give %s up for good? nobody can bring it back then [y/N] ", text, strings.Join(refs, ", ")), nil
}

// scrubFrom calls scrub with the store to repair from, "" for none.
func scrubFrom(ctx context.Context, cfg *config.Config, from string, log *slog.Logger, sc snapshotter.ScrubConfig, scrub func(context.Context, snapshotter.ScrubConfig) (snapshotter.ScrubReport, error)) (rep snapshotter.ScrubReport, err error) {
	if !sc.Repair || from == "" {
		return scrub(ctx, sc)
	}
	named, err := namedStore(cfg, from)
	if err != nil {
		return rep, err
	}
	end, err := (&syncRun{cfg: cfg, log: log}).open(ctx, named, false, func(snaps *snapshotter.Snapshotter, _ *store.Store) { sc.From = snaps })
	if err != nil {
		return rep, fmt.Errorf("store %s: %w", from, err)
	}
	defer func() { err = errors.Join(err, end()) }()
	return scrub(ctx, sc)
}

func describeScrub(name string, rep *snapshotter.ScrubReport) *control.Scrub {
	_, _, blobs := rep.State.Damaged()
	var replaced []control.Replaced
	for _, r := range rep.Replaced {
		replaced = append(replaced, control.Replaced{Old: r.Old.String(), New: r.New.String(), Share: r.Share, Time: stamp(r.Time)})
	}
	var givenUp []string
	for _, id := range rep.GivenUp {
		givenUp = append(givenUp, id.String())
	}
	return &control.Scrub{
		Replaced: replaced, GivenUp: givenUp,
		Store: name, Scope: string(rep.Scope), Packfiles: rep.Packfiles, States: rep.States, Blobs: rep.Blobs, Bytes: rep.Bytes,
		Left: rep.Left, Unread: rep.Unread, Mended: rep.Mended, Repaired: rep.Repaired, Damaged: len(rep.State.Damage) + rep.State.More, DamagedBlobs: blobs, Unused: rep.Unused,
		Files: rep.State.Files, Fresh: rep.State.Fresh, Oldest: stamp(rep.State.Oldest), Forgotten: stamp(rep.State.Forgotten),
	}
}

// damageBytes bounds the paths that are told of a damaged file, so that it fits into a line of the
// control socket.
const damageBytes = 128 << 10

func describeDamage(d *snapshotter.Damage) *control.Damage {
	c := &control.Damage{
		Damage: d.Kind, File: d.File, Text: d.Text, Found: stamp(d.Found), Blobs: d.Blobs, Uses: []control.Use{}, More: d.More, Repair: d.Repair,
	}
	bytes := 0
	for i := range d.Uses {
		u := &d.Uses[i]
		if bytes += len(u.Path); bytes > damageBytes {
			c.More += len(d.Uses) - i
			break
		}
		c.Uses = append(c.Uses, control.Use{
			Share: u.Share, Path: strings.ToValidUTF8(u.Path, "\uFFFD"), What: u.What, Size: u.Size, ModTime: stamp(u.ModTime),
			Snapshots: u.Snapshots, First: u.First.String(), FirstTime: stamp(u.FirstTime), Last: u.Last.String(), LastTime: stamp(u.LastTime),
		})
	}
	return c
}

// writeScrub prints what is damaged, and the sum.
func writeScrub(out io.Writer, sum *control.Scrub, damage []control.Damage, asJSON bool) error {
	if asJSON {
		if err := printJSON(out, damage); err != nil {
			return err
		}
		return printJSON(out, []control.Scrub{*sum})
	}
	var b strings.Builder
	for i := range damage {
		writeDamage(&b, &damage[i])
	}
	fmt.Fprintf(&b, "read back: %s and %s, %s in %s\n", count(sum.Packfiles, "packfile", "packfiles"),
		count(sum.States, "state", "states"), count(sum.Blobs, "blob", "blobs"), size(sum.Bytes))
	for _, r := range sum.Replaced {
		fmt.Fprintf(&b, "snapshot %s of %s, %s, was made anew as %s\n", r.Old[:shortID], printable(r.Share), r.Time, r.New[:shortID])
	}
	for _, id := range sum.GivenUp {
		fmt.Fprintf(&b, "snapshot %s was given up\n", id[:shortID])
	}
	if sum.Unread > 0 {
		fmt.Fprintf(&b, "%s could not be read, which says nothing of what is in it\n", count(sum.Unread, "file", "files"))
	}
	if sum.Repaired > 0 {
		fmt.Fprintf(&b, "%s repaired\n", count(sum.Repaired, "file was", "files were"))
	} else if sum.Mended > 0 {
		fmt.Fprintf(&b, "%s not damaged any more\n", count(sum.Mended, "file is", "files are"))
	}
	if sum.Unused > 0 {
		fmt.Fprintf(&b, "%s damaged that no snapshot uses\n", count(sum.Unused, "blob is", "blobs are"))
	}
	if sum.Damaged == 0 && sum.Forgotten == "" {
		fmt.Fprintf(&b, "nothing is damaged; %d of %s read back in time\n", sum.Fresh, count(sum.Files, "file was", "files were"))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func writeDamage(b *strings.Builder, d *control.Damage) {
	fmt.Fprintf(b, "%s %s: %s\n", d.Damage, d.File, printable(d.Text))
	if d.Repair != "" {
		fmt.Fprintf(b, "  not repaired: %s\n", printable(d.Repair))
	}
	for i := range d.Uses {
		u := &d.Uses[i]
		if i == shownProblems {
			fmt.Fprintf(b, "  and %d more\n", len(d.Uses)-i+d.More)
			break
		}
		where := u.Share
		if u.Path != "" {
			where += ":" + u.Path
		}
		fmt.Fprintf(b, "  %s: %s in %s, %s", printable(where), u.What, count(u.Snapshots, "snapshot", "snapshots"), u.First[:shortID])
		if u.FirstTime != "" {
			fmt.Fprintf(b, " of %s", u.FirstTime)
		}
		if u.Last != u.First {
			fmt.Fprintf(b, " to %s of %s", u.Last[:shortID], u.LastTime)
		}
		b.WriteString("\n")
	}
}
