package alarm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/disk"
)

// fileName is the board's file in its directory.
const fileName = "alarms.json"

const (
	fileVersion = 1
	maxFile     = 16 << 20 // more than subjects from any configuration and maxText make
	// saveAfter is how old the file's Last and Times may become while nothing else changes.
	saveAfter = time.Hour
)

var (
	// ErrUnknown means that there is no such alarm.
	ErrUnknown = errors.New("there is no such alarm")
	// ErrChanged means that an alarm was raised again while somebody looked at it.
	ErrChanged = errors.New("it was raised again just now")
)

// Config configures a Board.
type Config struct {
	Dir    string // of the file; it must exist
	Disk   disk.FS
	Logger *slog.Logger
	Now    func() time.Time // nil: the clock
	// Changed is told of each alarm that was raised, and of each that is over, before the file
	// is written: what a crash cuts short comes again. One call at a time; nil for nobody. It must
	// not use the board.
	Changed func(Change)
}

// Change is what has become of an alarm.
type Change struct {
	Alarm
	Raised bool // else it is over
}

// Board has the alarms. Safe for concurrent use.
type Board struct {
	cfg Config

	// changing is held by whoever changes the board, also across I/O: what is told and written is
	// in the order of what has happened. It comes before mu.
	changing sync.Mutex
	saved    time.Time // when the file was written last
	unsaved  bool      // it could not be written

	mu     sync.Mutex // guards alarms, and is held for moments
	alarms map[key]Alarm
}

// file is what the file holds.
type file struct {
	Version int     `json:"version"`
	Alarms  []Alarm `json:"alarms"`
}

// Open reads the board of a directory that no other process changes. A file that is damaged is
// logged and left behind: what is still wrong will be found again.
func Open(cfg Config) (*Board, error) {
	if cfg.Dir == "" || cfg.Logger == nil {
		return nil, errors.New("alarm: no directory or no logger")
	}
	if cfg.Disk == nil {
		cfg.Disk = disk.OS{}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	b := &Board{cfg: cfg, alarms: map[key]Alarm{}}
	list, err := Read(cfg.Disk, cfg.Dir)
	var damaged *damagedError
	switch {
	case errors.As(err, &damaged):
		cfg.Logger.Error("the alarms cannot be read and are forgotten; what is still wrong will be found again", "err", err)
	case err != nil:
		return nil, err
	}
	for _, a := range list {
		b.alarms[a.key()] = a
	}
	return b, nil
}

// damagedError is of a file that holds no board.
type damagedError struct{ err error }

func (e *damagedError) Error() string { return e.err.Error() }
func (e *damagedError) Unwrap() error { return e.err }

// Read reads the alarms of a directory, which may be in use, ordered by kind and subject.
func Read(fsys disk.FS, dir string) ([]Alarm, error) {
	path := filepath.Join(dir, fileName)
	data, err := disk.ReadFile(fsys, path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, &damagedError{fmt.Errorf("%s: %w", path, err)}
	}
	if f.Version != fileVersion {
		return nil, &damagedError{fmt.Errorf("%s: not of version %d", path, fileVersion)}
	}
	slices.SortFunc(f.Alarms, compare)
	return f.Alarms, nil
}

// Raise says that something is wrong. When that is known it takes over what a says now, and adds its
// Pins to those it has. What the board keeps itself (Since, Last, Times, Acknowledged) is not looked at.
func (b *Board) Raise(a Alarm) {
	a.Text, a.Hint = shortened(a.Text), shortened(a.Hint)
	b.changing.Lock()
	defer b.changing.Unlock()
	now := b.cfg.Now().UTC()
	was, known := b.get(a.key())
	next := was
	if !known {
		next = Alarm{Kind: a.Kind, Subject: a.Subject, Since: now}
	}
	next.update(&a)
	next.Last, next.Times = now, was.Times+1
	b.set(next)
	if !known {
		b.cfg.Logger.Warn("alarm", "kind", string(a.Kind), "subject", a.Subject, "text", a.Text, "hint", a.Hint)
		b.tell(next, true)
	}
	if !known || !next.same(&was) || b.unsaved || now.Sub(b.saved) >= saveAfter || now.Before(b.saved) {
		b.save(now)
	}
}

// Clear says that all is well. Findings stay.
func (b *Board) Clear(kind Kind, subject string) {
	b.changing.Lock()
	defer b.changing.Unlock()
	if a, ok := b.get(key{kind, subject}); ok && !a.Finding {
		b.over(a)
	}
}

// Drop ends an alarm of what the configuration does not have any more; a finding as well.
func (b *Board) Drop(kind Kind, subject string) {
	b.changing.Lock()
	defer b.changing.Unlock()
	if a, ok := b.get(key{kind, subject}); ok {
		b.over(a)
	}
}

// Acknowledge says that somebody has looked: a finding is over, and any other alarm goes on as one that
// is known. What they have seen is one that Get has returned. It returns the alarm. Errors: ErrUnknown;
// ErrChanged of a finding, which stays: there is more to look at.
func (b *Board) Acknowledge(seen *Alarm) (Alarm, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	a, ok := b.get(seen.key())
	switch {
	case !ok:
		return Alarm{}, fmt.Errorf("%s %s: %w", seen.Kind, seen.Subject, ErrUnknown)
	case a.Finding && a.Times != seen.Times:
		return Alarm{}, fmt.Errorf("%s %s: %w", seen.Kind, seen.Subject, ErrChanged)
	}
	now := b.cfg.Now().UTC()
	if a.Finding {
		b.over(a)
	} else {
		a.Acknowledged = now
		b.set(a)
		b.save(now)
	}
	if b.unsaved {
		return a, errors.New("it could not be noted durably; see the log")
	}
	return a, nil
}

// List returns the alarms, ordered by kind and subject.
func (b *Board) List() []Alarm {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Alarm, 0, len(b.alarms))
	for _, a := range b.alarms {
		list = append(list, a)
	}
	slices.SortFunc(list, compare)
	return list
}

// Get returns an alarm.
func (b *Board) Get(kind Kind, subject string) (Alarm, bool) { return b.get(key{kind, subject}) }

func (b *Board) get(k key) (Alarm, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.alarms[k]
	return a, ok
}

func (b *Board) set(a Alarm) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.alarms[a.key()] = a
}

// over takes an alarm away; changing is held.
func (b *Board) over(a Alarm) {
	b.mu.Lock()
	delete(b.alarms, a.key())
	b.mu.Unlock()
	now := b.cfg.Now().UTC()
	b.cfg.Logger.Info("alarm is over", "kind", string(a.Kind), "subject", a.Subject, "since", a.Since, "times", a.Times)
	b.tell(a, false)
	b.save(now)
}

func (b *Board) tell(a Alarm, raised bool) {
	if b.cfg.Changed != nil {
		b.cfg.Changed(Change{a, raised})
	}
}

// save writes the file; changing is held. What cannot be written is kept in memory, and tried again
// with the next change.
func (b *Board) save(now time.Time) {
	data, err := json.MarshalIndent(file{fileVersion, b.List()}, "", "  ")
	if err == nil {
		err = disk.WriteFile(b.cfg.Disk, filepath.Join(b.cfg.Dir, fileName), append(data, '\n'), 0o600)
	}
	if err != nil && !b.unsaved {
		b.cfg.Logger.Error("the alarms cannot be written down; a restart may raise them again", "err", err)
	}
	b.unsaved, b.saved = err != nil, now
}
