package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/snapshotter"
)

const (
	// maxText is how large a file may be of which diff --text shows the lines: both versions are
	// in memory.
	maxText = 8 << 20
	// textProbe is in how much of a file a NUL says that it is no text.
	textProbe = 8000
)

// diffCommand is a call of gateway diff.
type diffCommand struct {
	viewFlags
	text bool
}

func (p *program) diffCommand() *cobra.Command {
	d := &diffCommand{}
	c := &cobra.Command{
		Use:   "diff SNAP SNAP [PATH]",
		Short: "Compare two snapshots",
		Long: `Lists what differs between two snapshots at a PATH and below it: + is in the second alone, - in the
first alone, M has other bytes, and m other attributes. The times of directories do not count.
Directories that are the same are not read. The running gateway does it, if there is one; else the
store is read.

` + snapWords + ` It may also stand behind one SNAP, or both.

With --text the lines of text files that differ are shown, as diff -u does. With --json every line
is an object with path, change (added, removed, changed, attributes), was and now (as gateway ls
--json has them), and diff, with --text.`,
		Example: `  gateway diff -c /etc/gateway.yaml main@yesterday main
  gateway diff --text "fw01@3 days ago" fw01 /config.xml`,
		Args: arguments(2, 3),
		RunE: func(c *cobra.Command, args []string) error {
			return p.look(c, args, &d.viewFlags, func(ctx context.Context, v *viewing) error { return d.run(ctx, v, args) })
		},
	}
	c.Flags().BoolVar(&d.text, "text", false, "show the lines of text files that differ")
	d.add(c)
	return c
}

func (d *diffCommand) run(ctx context.Context, v *viewing, args []string) error {
	var views [2]*snapshotter.View
	path := "/"
	for i, ref := range args[:2] {
		view, p, err := v.open(ctx, ref)
		if err != nil {
			return err
		}
		views[i] = view
		switch {
		case p == "/" || p == path:
		case path == "/":
			path = p
		default:
			return fmt.Errorf("%s and %s: two snapshots are compared at one path", printable(path), printable(p))
		}
	}
	if len(args) == 3 {
		found, err := v.find(views[1].Snapshot().ID.String() + ":" + args[2])
		if err != nil {
			return err
		}
		if path != "/" && path != found.Path {
			return fmt.Errorf("%s and %s: two snapshots are compared at one path", printable(path), printable(found.Path))
		}
		path = found.Path
	}
	for x, err := range snapshotter.Diff(ctx, views[0], views[1], path) {
		if errors.Is(err, fs.ErrNotExist) {
			return v.missing(ctx, views[1], path, err)
		}
		if err != nil {
			return err
		}
		change, err := v.snaps.Amounts(ctx, x)
		if err != nil {
			return err
		}
		if change == "" {
			continue
		}
		if err := d.print(ctx, v, views, x, change); err != nil {
			return err
		}
	}
	return nil
}

// diffLine is a difference in diff --json.
type diffLine struct {
	Path       text       `json:"path"`
	PathBase64 string     `json:"path_base64,omitempty"`
	Change     string     `json:"change"`
	Was        *entryLine `json:"was,omitempty"`
	Now        *entryLine `json:"now,omitempty"`
	Diff       string     `json:"diff,omitempty"`
}

func (d *diffCommand) print(ctx context.Context, v *viewing, views [2]*snapshotter.View, x snapshotter.Difference, change string) error {
	lines := ""
	if d.text && change != snapshotter.Attributes {
		leave, err := v.p.takeText(ctx)
		if err != nil {
			return err
		}
		lines, err = d.lines(ctx, views, x)
		leave()
		if err != nil {
			return err
		}
	}
	if d.asJSON {
		l := diffLine{Path: text{x.Path}, PathBase64: bytesOf(x.Path), Change: change, Diff: strings.ToValidUTF8(lines, "\uFFFD")}
		if x.Was != nil {
			e := newEntryLine(x.Path, *x.Was)
			l.Was = &e
		}
		if x.Now != nil {
			e := newEntryLine(x.Path, *x.Now)
			l.Now = &e
		}
		return v.asJSON.Encode(&l)
	}
	var err error
	switch change {
	case snapshotter.Added:
		_, err = fmt.Fprintf(v.out, "+ %s%s\n", shownName(x.Path, *x.Now), sizeNote(x.Now))
	case snapshotter.Gone:
		_, err = fmt.Fprintf(v.out, "- %s%s\n", shownName(x.Path, *x.Was), sizeNote(x.Was))
	case snapshotter.Changed:
		_, err = fmt.Fprintf(v.out, "M %s  (%s)\n", shownName(x.Path, *x.Now), contentNote(x.Was, x.Now))
	default:
		_, err = fmt.Fprintf(v.out, "m %s  (%s)\n", shownName(x.Path, *x.Now), v.attributeNote(x.Was, x.Now))
	}
	if err == nil && lines != "" {
		_, err = v.out.WriteString(lines)
	}
	return err
}

func sizeNote(e *snapshotter.Entry) string {
	if e.Kind != snapshotter.File {
		return ""
	}
	return "  (" + bytesText(e.Size) + ")"
}

// contentNote says how the content of an entry has changed.
func contentNote(was, now *snapshotter.Entry) string {
	switch {
	case was.Kind != now.Kind:
		return kindWord(was.Kind) + " -> " + kindWord(now.Kind)
	case now.Kind == snapshotter.Symlink:
		return "was -> " + printable(was.Target)
	}
	return bytesText(was.Size) + " -> " + bytesText(now.Size)
}

// attributeNote says how the attributes of an entry have changed.
func (v *viewing) attributeNote(was, now *snapshotter.Entry) string {
	var list []string
	if was.Attr.Mode != now.Attr.Mode {
		list = append(list, modeText(was.Attr.Mode)+" -> "+modeText(now.Attr.Mode))
	}
	if was.Attr.UID != now.Attr.UID || was.Attr.GID != now.Attr.GID {
		list = append(list, fmt.Sprintf("%d:%d -> %d:%d", was.Attr.UID, was.Attr.GID, now.Attr.UID, now.Attr.GID))
	}
	if !was.Attr.ModTime.Equal(now.Attr.ModTime) && now.Kind != snapshotter.Dir {
		list = append(list, v.when(was.Attr.ModTime)+" -> "+v.when(now.Attr.ModTime))
	}
	if len(list) == 0 {
		return "names of owners, or the content type"
	}
	return strings.Join(list, ", ")
}

// lines are the lines of a text file that differ, or why they are not shown; "" for what is no
// file.
func (d *diffCommand) lines(ctx context.Context, views [2]*snapshotter.View, x snapshotter.Difference) (string, error) {
	var texts [2][]byte
	names := [2]string{"/dev/null", "/dev/null"}
	for i, e := range []*snapshotter.Entry{x.Was, x.Now} {
		if e == nil || e.Kind != snapshotter.File {
			continue
		}
		if e.Size > maxText {
			return fmt.Sprintf("%s: too large to show its lines\n", printable(x.Path)), nil
		}
		var b bytes.Buffer
		if err := copyFile(ctx, &b, views[i], x.Path); err != nil {
			return "", err
		}
		texts[i] = b.Bytes()
		if bytes.IndexByte(texts[i][:min(len(texts[i]), textProbe)], 0) >= 0 {
			return fmt.Sprintf("%s: not a text\n", printable(x.Path)), nil
		}
		s := views[i].Snapshot()
		names[i] = fmt.Sprintf("%s:%s", s.ID.String()[:shortID], printable(x.Path))
	}
	lines := string(diff.Diff(names[0], texts[0], names[1], texts[1]))
	_, lines, _ = strings.Cut(lines, "\n") // the line with the command
	if lines != "" && !strings.HasSuffix(lines, "\n") {
		lines += "\n"
	}
	return lines, nil
}
