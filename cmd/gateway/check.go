package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// checkCommand is a call of gateway check.
type checkCommand struct {
	viewFlags
	share, sample string
	part          float64
}

func (p *program) checkCommand() *cobra.Command {
	ck := &checkCommand{viewFlags: viewFlags{noPager: true}}
	c := &cobra.Command{
		Use:   "check [SNAP]...",
		Short: "Check snapshots",
		Long: `Reads snapshots, or all, and compares every index, entry, object and chunk with its checksum: more than
plakar check, which does not read by what files are opened (the index of paths and its entries); what several snapshots have in
common is read once. The running gateway does it,
if there is one. It takes no lock and changes nothing. It goes on after a snapshot that is damaged, names the
files that are, and its exit status is 1 then, as when something could not be read.

With --sample it reads all directories, and a part of the files with their entries, which each call
chooses anew: 5% every day reads in a month what most of the store holds.

` + snapWords + `

With --json every line is an object with snapshot, time, share, result (good, damaged, unread, of one that
a store elsewhere did not give, which says nothing of what it holds, or removed, of one that was removed meanwhile), error,
damaged (path and text of each file, up to 1,000), files and bytes (that were read, with --sample)
and seconds.`,
		Example: `  gateway check -c /etc/gateway.yaml main
  gateway check --sample 5%
  gateway check --json --share web1 | jq -r 'select(.result != "good") | .snapshot'`,
		Args: arguments(0, 1000),
		RunE: func(c *cobra.Command, args []string) error {
			if err := ck.parse(args); err != nil {
				return usageError(c, err)
			}
			return p.look(c, args, &ck.viewFlags, func(ctx context.Context, v *viewing) error { return ck.run(ctx, v, args) })
		},
	}
	f := c.Flags()
	f.StringVar(&ck.sample, "sample", "", "read the bytes of a `PART` of the files, as 5%")
	f.StringVar(&ck.share, "share", "", "check all snapshots of the share or source of that `NAME`")
	f.BoolVar(&ck.asJSON, "json", false, "print one JSON object a line")
	ck.addStore(c)
	f.SortFlags = false
	return c
}

func (ck *checkCommand) parse(args []string) error {
	if ck.share != "" && len(args) > 0 {
		return errors.New("either --share or SNAP")
	}
	if ck.sample == "" {
		return nil
	}
	number, ok := strings.CutSuffix(ck.sample, "%")
	percent, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(percent > 0 && percent <= 100) {
		return fmt.Errorf("--sample %q: it is a part in percent, as 5%%", ck.sample)
	}
	ck.part = percent / 100
	return nil
}

func (ck *checkCommand) run(ctx context.Context, v *viewing, args []string) error {
	list, err := ck.snapshots(v, args)
	if err != nil {
		return err
	}
	checker, err := v.snaps.NewChecker()
	if err != nil {
		return err
	}
	defer checker.Close()
	named := make(map[snapshotter.ID]bool) // as damaged
	var unread, left error                 // the first; what was not looked at
	var total snapshotter.Sampled
	for i, s := range list {
		l, err := ck.check(ctx, checker, s)
		if errors.Is(err, snapshotter.ErrUnread) {
			unread = cmp.Or(unread, err)
		} else if err != nil {
			return err
		}
		if l.Result == "damaged" {
			named[s.ID] = true
		}
		if l.Files != nil {
			total.Files += *l.Files
			total.Bytes += *l.Bytes
		}
		if err := ck.print(v, s, l); err != nil {
			return err
		}
		if left = gaveUp(checker, len(list)-i-1); left != nil {
			break
		}
	}
	if ck.part > 0 && !ck.asJSON {
		_, _ = fmt.Fprintf(v.p.stderr, "read the bytes of %s, %s\n", count(total.Files, "file", "files"), bytesText(int64(total.Bytes)))
	}
	lost, err := ck.unlisted(ctx, v, checker, args, named)
	if err != nil {
		return err
	}
	if n := len(named) + lost; n > 0 {
		return andGivenUp(fmt.Errorf("%d of %s: %w", n, count(len(list)+lost, "snapshot", "snapshots"), store.ErrDamaged), left)
	}
	return cmp.Or(left, unread)
}

// gaveUp returns an error when nothing is read any more, and snapshots are left.
func gaveUp(checker *snapshotter.Checker, left int) error {
	err := checker.GaveUp()
	if err == nil || left == 0 {
		return nil
	}
	return fmt.Errorf("given up, %s not looked at: %w", count(left, "snapshot was", "snapshots were"), err)
}

// andGivenUp adds to what is damaged what was not looked at, if there is such.
func andGivenUp(damaged, left error) error {
	if left == nil {
		return damaged
	}
	return fmt.Errorf("%w; %w", damaged, left)
}

// unlisted names the snapshots that nothing is known of but that there are such: their headers
// cannot be read. It does so when all are checked, without those that were named as damaged, and returns how many are.
func (ck *checkCommand) unlisted(ctx context.Context, v *viewing, checker *snapshotter.Checker, args []string, named map[snapshotter.ID]bool) (n int, err error) {
	if len(args) > 0 || ck.share != "" {
		return 0, nil
	}
	lost, err := unlistedDamage(ctx, v.snaps, checker, named)
	for _, l := range lost {
		if l.Result == "damaged" {
			n++
		}
		if err := ck.print(v, snapshotter.Snapshot{}, l); err != nil {
			return n, err
		}
	}
	return n, err
}

// unlistedDamage describes the snapshots whose headers cannot be read, but for those that were named.
func unlistedDamage(ctx context.Context, snaps *snapshotter.Snapshotter, checker *snapshotter.Checker, named map[snapshotter.ID]bool) (lines []*checkLine, err error) {
	ids, err := snaps.Unreadable(ctx)
	for _, id := range ids {
		if named[id] {
			continue
		}
		l := &checkLine{Snapshot: id.String(), Result: "damaged", Error: unreadableText}
		l.meanwhile(ctx, checker, id)
		lines = append(lines, l)
	}
	return lines, cmp.Or(err, ctx.Err())
}

// snapshots lists what is to be checked, the newest first when it is not named one by one.
func (ck *checkCommand) snapshots(v *viewing, args []string) ([]snapshotter.Snapshot, error) {
	if len(args) == 0 && ck.share == "" {
		return v.list, nil
	}
	var list []snapshotter.Snapshot
	for _, ref := range args {
		found, err := v.find(ref)
		if err != nil {
			return nil, err
		}
		if found.Path != "/" {
			return nil, fmt.Errorf("%s: snapshots are checked as a whole", printable(ref))
		}
		list = append(list, found.Snapshot)
	}
	for _, s := range v.list {
		if ck.share != "" && s.Share == ck.share {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return nil, knownShare(v.cfg, ck.share)
	}
	return list, nil
}

// checkLine is a snapshot in check --json.
type checkLine struct {
	Snapshot string    `json:"snapshot"`
	Time     string    `json:"time"`
	Share    string    `json:"share"`
	Result   string    `json:"result"` // good, damaged, unread or removed
	Error    string    `json:"error,omitempty"`
	Damaged  []problem `json:"damaged,omitempty"`
	More     uint64    `json:"more_damaged,omitempty"`
	Files    *uint64   `json:"files,omitempty"`
	Bytes    *uint64   `json:"bytes,omitempty"`
	Seconds  float64   `json:"seconds"`
}

// check checks a snapshot. With ErrUnread, of a store that can be reached, it says so of the snapshot, too: others may
// be read.
func (ck *checkCommand) check(ctx context.Context, checker *snapshotter.Checker, s snapshotter.Snapshot) (*checkLine, error) {
	l := &checkLine{Snapshot: s.ID.String(), Time: stamp(s.Time), Share: s.Share, Result: "good"}
	began := time.Now()
	var sampled snapshotter.Sampled
	var err error
	if ck.part > 0 {
		if sampled, err = checker.Sample(ctx, s.ID, ck.part); err == nil {
			l.Files, l.Bytes = &sampled.Files, &sampled.Bytes
		}
	} else {
		sampled, err = checker.CheckFiles(ctx, s.ID)
	}
	l.Seconds = time.Since(began).Seconds()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err == nil && len(sampled.Damaged) == 0:
	case errors.Is(err, store.ErrUnavailable) && !errors.Is(err, snapshotter.ErrUnread):
		return nil, err
	case errors.Is(err, snapshotter.ErrUnread) && len(sampled.Damaged) == 0:
		l.Result = "unread"
	default: // also when something else could not be read
		l.Result = "damaged"
	}
	switch {
	case errors.Is(err, snapshotter.ErrNoSnapshot): // and it was listed
		l.Error = unreadableText
	case err != nil:
		l.Error = err.Error()
	}
	l.meanwhile(ctx, checker, s.ID)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case l.Result == "removed":
		return l, nil
	}
	for _, d := range sampled.Damaged {
		l.Damaged = append(l.Damaged, problem{Path: text{d.Path}, PathBase64: bytesOf(d.Path), Text: strings.ToValidUTF8(d.Err.Error(), "\uFFFD")})
	}
	l.More = sampled.More
	if l.Result == "unread" {
		return l, err
	}
	return l, nil
}

// meanwhile looks whether a snapshot in which something was found was removed meanwhile: what maintenance takes away of it is
// no damage. While that is not proven, what was found stands.
func (l *checkLine) meanwhile(ctx context.Context, checker *snapshotter.Checker, id snapshotter.ID) {
	if l.Result == "good" {
		return
	}
	switch removed, err := checker.Removed(ctx, id); {
	case removed:
		l.Result, l.Error = "removed", ""
	case err != nil && l.Result == "damaged":
		l.Error = strings.TrimPrefix(l.Error+"; whether it was removed meanwhile is not known: "+err.Error(), "; ")
	}
}

func (ck *checkCommand) print(v *viewing, s snapshotter.Snapshot, l *checkLine) error {
	if ck.asJSON {
		if err := v.asJSON.Encode(l); err != nil {
			return err
		}
		return v.out.Flush() // whoever waits for it
	}
	when := "-"
	if !s.Time.IsZero() {
		when = v.when(s.Time)
	}
	fmt.Fprintf(v.out, "%s  %s  %s  %s", l.Snapshot[:shortID], when, printable(l.Share), l.Result)
	if l.Error != "" {
		fmt.Fprintf(v.out, ": %s", printable(l.Error))
	}
	fmt.Fprintln(v.out)
	for i, d := range l.Damaged {
		if i == shownProblems {
			fmt.Fprintf(v.out, "  and %d more\n", uint64(len(l.Damaged)-i)+l.More)
			break
		}
		fmt.Fprintf(v.out, "  %s: %s\n", printable(d.Path.s), printable(d.Text))
	}
	return v.out.Flush()
}
