package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// viewPage is how many entries of a directory are read at a time.
const viewPage = 1024

// snapWords says in a help what SNAP is.
const snapWords = `SNAP is an id or its first digits, latest, a share or source for its newest snapshot, or
SHARE@WHAT: a name below .snapshots, or a time, for the newest snapshot that is not younger:
2026-11-21, "2026-11-21 14:00", "yesterday 14:00", "3 hours ago". In a store with one share a
time needs no SHARE@. A PATH is one in the snapshot.`

// viewFlags are the flags that the commands have which look into snapshots.
type viewFlags struct {
	asJSON, noPager bool
	store           string
	alone           bool // it is no matter for the running gateway
}

func (f *viewFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON object a line")
	c.Flags().BoolVar(&f.noPager, "no-pager", false, "do not show what is printed on a terminal with $PAGER, or less")
	f.addStore(c)
}

func (f *viewFlags) addStore(c *cobra.Command) {
	c.Flags().StringVar(&f.store, "store", "", "look into the store of that `NAME`, in place of the gateway's own; it is opened here")
}

// viewing is a command that looks into snapshots: the store, which it has opened itself or which the
// running gateway has, and where it prints to.
type viewing struct {
	p      *program
	flags  *viewFlags
	cfg    *config.Config
	store  *store.Store
	snaps  *snapshotter.Snapshotter
	list   []snapshotter.Snapshot // all, newest first
	lost   []snapshotter.ID       // those that are not in it, if what the command does depends on them; see sayLost
	out    *bufio.Writer
	asJSON *json.Encoder
	now    time.Time // in the zone in which times are read and shown
}

func (p *program) newViewing(f *viewFlags, cfg *config.Config, st *store.Store, snaps *snapshotter.Snapshotter, list []snapshotter.Snapshot, w io.Writer) *viewing {
	v := &viewing{p: p, flags: f, cfg: cfg, store: st, snaps: snaps, list: list, out: bufio.NewWriterSize(w, 64<<10), now: p.now()}
	v.asJSON = json.NewEncoder(v.out)
	v.asJSON.SetEscapeHTML(false)
	return v
}

// look does what a command does that reads snapshots, and prints what do prints, on a terminal by a
// pager. The running gateway does it, if there is one and it is its store; else the store is opened,
// beside whatever else uses it.
func (p *program) look(c *cobra.Command, args []string, f *viewFlags, do func(context.Context, *viewing) error) error {
	ctx, name := c.Context(), c.Name()
	if p.served != nil {
		return p.lookServed(ctx, name, f, do)
	}
	cfg, err := p.load()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	asked, err := p.askRunning(ctx, cfg, f, commandLine(c, args))
	if asked == nil {
		return err
	}
	err = p.lookAlone(ctx, cfg, f, do)
	switch {
	case errors.Is(err, config.ErrPassphrase):
		err = &hintedError{err: err, hint: hintOfPassphrase(f, asked)}
	case err != nil && ctx.Err() != nil:
		err = errInterrupted
	case err == nil:
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

// lookAlone opens the store for a command.
func (p *program) lookAlone(ctx context.Context, cfg *config.Config, f *viewFlags, do func(context.Context, *viewing) error) error {
	named := &cfg.Store
	if f.store != "" {
		var err error
		if named, err = namedStore(cfg, f.store); err != nil {
			return err
		}
	}
	return storeError(named, readConfigured(ctx, cfg, named, func(ctx context.Context, st *store.Store, snaps *snapshotter.Snapshotter) error {
		list, err := snaps.Snapshots(ctx, "")
		if err != nil {
			return err
		}
		w, end, err := p.page(f.noPager)
		if err != nil {
			return err
		}
		v := p.newViewing(f, cfg, st, snaps, list, w)
		err = do(ctx, v)
		switch ferr := v.out.Flush(); {
		case errors.Is(ferr, syscall.EPIPE): // the pager was left
			err = nil
		case err == nil:
			err = ferr
		}
		err = errors.Join(err, end())
		v.sayLost()
		return err
	}))
}

// hintOfPassphrase says what to do about a passphrase that is not to be had, when asked is why the
// running gateway has not done it.
func hintOfPassphrase(f *viewFlags, asked error) string {
	const own = "run it with the environment that the store's passphrase_env or passphrase_command needs"
	switch {
	case f.store != "":
		return "with --store this command opens the store itself: " + own
	case f.alone:
		return "this command opens the store itself, and a running gateway does not give its passphrase away: " + own
	case errors.Is(asked, control.ErrNoServer):
		return "no gateway is running that has it: start it, or " + own
	}
	return fmt.Sprintf("the running gateway, which has it, was asked in vain (%v): run it as the gateway's user, and with the same configuration and version; or %s", asked, own)
}

// find finds the snapshot, and the path in it, that are meant.
func (v *viewing) find(ref string) (snapref.Found, error) {
	found, err := snapref.Find(ref, v.list, snapref.Options{Now: v.now, Lineage: lineages(v.cfg)})
	if !found.Newest && !errors.Is(err, snapref.ErrNotFound) {
		return found, err
	}
	within, cancel := context.WithTimeout(context.Background(), catchUpLimit)
	defer cancel()
	lost, lerr := v.snaps.Unreadable(within)
	if errors.Is(lerr, context.DeadlineExceeded) {
		return found, err // a commit goes on: what it is about to list cannot be told from what is lost
	}
	if lerr != nil {
		return found, lerr
	}
	if found.Newest { // but for these
		v.lost = lost
		return found, nil
	}
	if err = unreadableAs(ref, lost, err); errors.Is(err, snapref.ErrNotFound) {
		v.lost = lost // which may be all that a share has
	}
	return found, err
}

// unreadableAs returns an error for a reference to a snapshot that cannot be read; err when it names none of them.
func unreadableAs(ref string, lost []snapshotter.ID, err error) error {
	start, _, _ := strings.Cut(ref, ":")
	for _, id := range lost {
		if len(start) >= shortest && strings.HasPrefix(id.String(), strings.ToLower(start)) {
			err := fmt.Errorf("snapshot %s: %w: %s", id.String()[:shortID], store.ErrDamaged, unreadableText)
			return &hintedError{err: err, hint: hintOfUnreadable}
		}
	}
	return err
}

// findCertain finds the snapshot of list, which is that of snaps, that a command does something with. What is the newest is not guessed when
// it may be one that cannot be read: whose such a one is nobody knows.
func findCertain(ctx context.Context, ref string, list []snapshotter.Snapshot, lineage func(share string) snapshotter.Lineage, snaps *snapshotter.Snapshotter) (snapref.Found, error) {
	found, err := snapref.Find(ref, list, snapref.Options{Now: time.Now(), Lineage: lineage})
	if !found.Newest && !errors.Is(err, snapref.ErrNotFound) {
		return found, err
	}
	lost, lerr := snaps.Unreadable(ctx)
	switch {
	case lerr != nil:
		return found, lerr
	case len(lost) == 0:
		return found, err
	case err != nil:
		if err = unreadableAs(ref, lost, err); errors.Is(err, snapref.ErrNotFound) {
			err = fmt.Errorf("%w; %s", err, describeUnreadable(texts(lost)))
		}
		return found, err
	}
	s := found.Snapshot
	return found, &hintedError{
		err: fmt.Errorf("snapshot %q: one that cannot be read may be the newest: %s", ref, describeUnreadable(texts(lost))),
		hint: fmt.Sprintf("write the id of the snapshot that is meant; the newest that can be read is %s of %s, %s\n%s",
			s.ID.String()[:shortID], printable(s.Share), s.Time.UTC().Format(time.RFC3339), hintOfUnreadable),
	}
}

// sayLost warns of snapshots that are not listed when what is called the newest may not be.
func (v *viewing) sayLost() {
	if len(v.lost) > 0 {
		v.p.sayUnreadable(texts(v.lost))
	}
}

// texts are ids as text.
func texts(ids []snapshotter.ID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}

// What there is to be said of a snapshot that should be there and is not listed.
const (
	unreadableText   = "its header, or an index of it, cannot be read"
	hintOfUnreadable = "gateway scrub names what is damaged or missing, gateway scrub --repair gets it back from a copy; without one, gateway scrub --give-up ends it"
	// shortest is how many digits of an id are taken for one.
	shortest = 4
)

// open opens what a reference means.
func (v *viewing) open(ctx context.Context, ref string) (*snapshotter.View, string, error) {
	found, err := v.find(ref)
	if err != nil {
		return nil, "", err
	}
	view, err := v.snaps.View(ctx, found.Snapshot.ID)
	return view, found.Path, err
}

// entry opens what a reference means, and describes what is there.
func (v *viewing) entry(ctx context.Context, ref string) (*snapshotter.View, string, snapshotter.Entry, error) {
	view, path, err := v.open(ctx, ref)
	if err != nil {
		return nil, "", snapshotter.Entry{}, err
	}
	e, err := view.Lstat(ctx, path)
	if err != nil {
		err = v.missing(ctx, view, path, err)
	}
	return view, path, e, err
}

// missing says of a path that is not in a snapshot why, as far as the snapshot knows.
func (v *viewing) missing(ctx context.Context, view *snapshotter.View, path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s := view.Snapshot()
	missing := fmt.Errorf("%s: %w in snapshot %s of %s, %s", printable(path), errNotThere, s.ID.String()[:shortID], printable(s.Share), v.when(s.Time))
	if s.Errors > 0 {
		for f, ferr := range view.Errors(ctx) {
			if ferr != nil {
				break
			}
			if f.Path == "/" || f.Path == path || strings.HasPrefix(path, f.Path+"/") {
				text := "it may be what could not be captured"
				if f.Path == path {
					text = "it could not be captured"
				}
				return &hintedError{err: missing, hint: fmt.Sprintf("%s: %s: %s", text, printable(f.Path), f.Text)}
			}
		}
	}
	if s.Lost > 0 {
		return &hintedError{err: missing, hint: count(s.Lost, "file is", "files are") + " not in this snapshot, as the store had lost them"}
	}
	return missing
}

// errNotThere is the error for a path that a snapshot does not have.
var errNotThere = errors.New("no such file or directory")

// lineages tells a share's own line of snapshots.
func lineages(cfg *config.Config) func(share string) snapshotter.Lineage {
	return func(share string) snapshotter.Lineage {
		if _, ok := cfg.Source(share); ok {
			return vfs.StoredSourceLineage(cfg.DataDir, share)
		}
		if l := vfs.StoredLineage(cfg.DataDir, share); l != (snapshotter.Lineage{}) {
			return l
		}
		return vfs.StoredSourceLineage(cfg.DataDir, share)
	}
}

// timeLayout is how a time of a file is shown to people.
const timeLayout = "2006-01-02 15:04:05"

// when is a time as people read it, in their zone.
func (v *viewing) when(t time.Time) string { return t.In(v.now.Location()).Format(timeLayout) }

// entries lists a directory in byte order of the names.
func entries(ctx context.Context, view *snapshotter.View, dir string) iter.Seq2[snapshotter.Entry, error] {
	return func(yield func(snapshotter.Entry, error) bool) {
		after := ""
		for {
			page, err := view.ReadDir(ctx, dir, after, viewPage)
			if err != nil {
				yield(snapshotter.Entry{}, err)
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
				after = e.Name
			}
			if len(page) < viewPage {
				return
			}
		}
	}
}

// errSkipped is returned by a function that walk calls with a directory, to leave out what is in
// it.
var errSkipped = errors.New("skipped")

// walk calls each for all that is below a directory, a directory before what is in it.
func walk(ctx context.Context, view *snapshotter.View, dir string, each func(path string, e snapshotter.Entry) error) error {
	for e, err := range entries(ctx, view, dir) {
		if err != nil {
			return err
		}
		path := below(dir, e.Name)
		switch err := each(path, e); {
		case errors.Is(err, errSkipped):
			continue
		case err != nil:
			return err
		case e.Kind != snapshotter.Dir:
			continue
		}
		if err := walk(ctx, view, path, each); err != nil {
			return err
		}
	}
	return nil
}

// below is the path of an entry of a directory.
func below(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// text is a name that may not be UTF-8, as JSON has it: with its bytes where they would be lost.
type text struct{ s string }

func (t text) MarshalJSON() ([]byte, error) {
	return json.Marshal(strings.ToValidUTF8(t.s, "\uFFFD"))
}

// bytesOf returns a name in base64 when it is not UTF-8, "" when it is.
func bytesOf(s string) string {
	if utf8.ValidString(s) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}

// entryLine is an entry in --json.
type entryLine struct {
	Path        text   `json:"path"`
	PathBase64  string `json:"path_base64,omitempty"` // of a path that is not UTF-8
	Kind        string `json:"kind"`                  // file, directory or link
	Size        int64  `json:"size"`
	Mode        string `json:"mode"` // octal
	ModTime     string `json:"mtime"`
	UID         uint32 `json:"uid"`
	GID         uint32 `json:"gid"`
	Owner       string `json:"owner,omitempty"`
	Group       string `json:"group,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Target      *text  `json:"target,omitempty"` // of a link
	TargetBytes string `json:"target_base64,omitempty"`
}

func newEntryLine(path string, e snapshotter.Entry) entryLine {
	l := entryLine{
		Path: text{path}, PathBase64: bytesOf(path), Kind: kindWord(e.Kind), Size: e.Size, Mode: modeText(e.Attr.Mode),
		ModTime: e.Attr.ModTime.UTC().Format(time.RFC3339Nano), UID: e.Attr.UID, GID: e.Attr.GID, Owner: e.Owner, Group: e.Group,
		ContentType: e.ContentType,
	}
	if e.Kind == snapshotter.Symlink {
		l.Target, l.TargetBytes = &text{e.Target}, bytesOf(e.Target)
	}
	return l
}

func kindWord(k snapshotter.ChangeKind) string {
	switch k {
	case snapshotter.Dir:
		return "directory"
	case snapshotter.Symlink:
		return "link"
	}
	return "file"
}

// modeText is a mode as chmod takes it.
func modeText(m fs.FileMode) string { return fmt.Sprintf("%04o", unixBits(m)) }

// unixBits is a mode as Unix has it.
func unixBits(m fs.FileMode) uint32 {
	n := uint32(m.Perm())
	for i, bit := range []fs.FileMode{fs.ModeSticky, fs.ModeSetgid, fs.ModeSetuid} {
		if m&bit != 0 {
			n |= 0o1000 << i
		}
	}
	return n
}

// shownName is a name for people: with a slash behind a directory and the target of a link.
func shownName(name string, e snapshotter.Entry) string {
	switch e.Kind {
	case snapshotter.Dir:
		return printable(strings.TrimSuffix(name, "/")) + "/"
	case snapshotter.Symlink:
		return printable(name) + " -> " + printable(e.Target)
	}
	return printable(name)
}

// long is an entry as ls -l shows it.
func (v *viewing) long(w io.Writer, name string, e snapshotter.Entry) error {
	mode := e.Attr.Mode
	switch e.Kind {
	case snapshotter.Dir:
		mode |= fs.ModeDir
	case snapshotter.Symlink:
		mode |= fs.ModeSymlink
	}
	size := "-"
	if e.Kind == snapshotter.File {
		size = bytesText(e.Size)
	}
	_, err := fmt.Fprintf(w, "%s  %-8s %-8s %9s  %s  %s\n", unixMode(mode), owner(e.Owner, e.Attr.UID), owner(e.Group, e.Attr.GID),
		size, v.when(e.Attr.ModTime), shownName(name, e))
	return err
}

// owner is a name that a snapshot has, or else the number.
func owner(name string, id uint32) string {
	if name == "" {
		return fmt.Sprint(id)
	}
	return printable(name)
}

// unixMode is a mode as ls shows it.
func unixMode(m fs.FileMode) string {
	b := []byte("-rwxrwxrwx")
	for i := range 9 {
		if m&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	switch {
	case m.IsDir():
		b[0] = 'd'
	case m&fs.ModeSymlink != 0:
		b[0] = 'l'
	}
	for _, s := range []struct {
		bit   fs.FileMode
		at    int
		c     byte
		other byte // without x
	}{{fs.ModeSetuid, 3, 's', 'S'}, {fs.ModeSetgid, 6, 's', 'S'}, {fs.ModeSticky, 9, 't', 'T'}} {
		switch {
		case m&s.bit == 0:
		case b[s.at] == 'x':
			b[s.at] = s.c
		default:
			b[s.at] = s.other
		}
	}
	return string(b)
}
