package snapshotter

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/internal/disk"
)

// ledger remembers, in a file that only grows, which file of a store was read back when. It is a
// cache: what a crash has cut off of it is read back once more.
type ledger struct {
	name string
	f    *os.File
	at   map[ledgerKey]ledgerEntry
	rows int // in the file
}

// ledgerKey names a file of a store.
type ledgerKey struct {
	kind byte
	mac  objects.MAC
}

// The kinds of files.
const (
	ledgerPackfile byte = iota + 1
	ledgerState
)

type ledgerEntry struct {
	when int64 // nanoseconds; 0: it is gone; 1: suspect
	size int64
}

// unread is the size of what has not been read back yet; when is the time of the first scrub.
const unread = -1

// suspect is the time of what was damaged when it was read back: there may be nothing else that says so.
const suspect = 1

const (
	ledgerMagic = "snapgate verified 1\n"
	ledgerRow   = 1 + len(objects.MAC{}) + 8 + 8 + 4
	// ledgerSlack is how many rows that do not count a file may have beside those that do.
	ledgerSlack = 10_000
)

func ledgerHead(storeID string) []byte { return []byte(ledgerMagic + storeID + "\n") }

// ledgerName is the file of the ledger.
const ledgerName = "verified"

// forgetLedger has everything read back anew.
func forgetLedger(dir string) error {
	if err := os.Remove(filepath.Join(dir, ledgerName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// openLedger opens the file, or makes it; one that is another store's, or damaged at its beginning,
// is made anew.
func openLedger(dir, storeID string) (l *ledger, err error) {
	l = &ledger{name: filepath.Join(dir, ledgerName), at: make(map[ledgerKey]ledgerEntry)}
	data, err := os.ReadFile(l.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	rest, ok := bytes.CutPrefix(data, ledgerHead(storeID))
	if ok {
		l.load(rest)
	}
	if !ok || l.rows > len(l.at)+ledgerSlack || l.rows*ledgerRow < len(rest) {
		if err := l.rewrite(storeID); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
	}
	if l.f, err = os.OpenFile(l.name, os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return l, nil
}

func (l *ledger) load(rows []byte) {
	le := binary.LittleEndian
	for ; len(rows) >= ledgerRow; rows = rows[ledgerRow:] {
		row := rows[:ledgerRow]
		if le.Uint32(row[ledgerRow-4:]) != crc32.Checksum(row[:ledgerRow-4], castagnoli) {
			return
		}
		k := ledgerKey{row[0], objects.MAC(row[1:33])}
		e := ledgerEntry{int64(le.Uint64(row[33:])), int64(le.Uint64(row[41:]))}
		if l.rows++; e.when == 0 {
			delete(l.at, k)
		} else {
			l.at[k] = e
		}
	}
}

func (k ledgerKey) row(e ledgerEntry) []byte {
	le := binary.LittleEndian
	row := append(make([]byte, 0, ledgerRow), k.kind)
	row = append(row, k.mac[:]...)
	row = le.AppendUint64(row, uint64(e.when))
	row = le.AppendUint64(row, uint64(e.size))
	return le.AppendUint32(row, crc32.Checksum(row, castagnoli))
}

// rewrite leaves out what does not count.
func (l *ledger) rewrite(storeID string) error {
	data := ledgerHead(storeID)
	for k, e := range l.at {
		data = append(data, k.row(e)...)
	}
	l.rows = len(l.at)
	return disk.WriteFile(disk.OS{}, l.name, data, 0o600)
}

// put notes that a file was read back; a kill does not undo it.
func (l *ledger) put(k ledgerKey, e ledgerEntry) error {
	if e.when == 0 {
		delete(l.at, k)
	} else {
		l.at[k] = e
	}
	l.rows++
	if _, err := l.f.Write(k.row(e)); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// any reports whether anything has a time.
func (l *ledger) any(when int64) bool {
	for _, e := range l.at {
		if e.when == when {
			return true
		}
	}
	return false
}

// sync makes what was put survive a power loss.
func (l *ledger) sync() error { return l.f.Sync() }

func (l *ledger) close() error { return errors.Join(l.f.Sync(), l.f.Close()) }

// ScrubState is what scrubs of a store have left: what is damaged, and how far they are.
type ScrubState struct {
	Store  string    `json:"store"`            // its identifier
	Last   time.Time `json:"last,omitzero"`    // when the last scrub has ended
	Began  time.Time `json:"began,omitzero"`   // when the last scrub of all that has ended began
	Whole  time.Time `json:"whole,omitzero"`   // when it has ended
	All    time.Time `json:"all,omitzero"`     // when the one that has not ended began
	Oldest time.Time `json:"oldest,omitzero"`  // since when what was read back longest ago was not; zero: never looked
	Files  int       `json:"files"`            // packfiles and states there are
	Fresh  int       `json:"fresh"`            // of those, read back within Every
	Unread int       `json:"unread,omitempty"` // never read back so far
	Every  string    `json:"every,omitempty"`  // of the last scrub
	Read   int64     `json:"read"`             // bytes, in all
	Blobs  int64     `json:"blobs"`            // compared, in all
	Damage []Damage  `json:"damage,omitempty"` // what is not mended
	More   int       `json:"more,omitempty"`   // damaged files beyond those
	Since  time.Time `json:"since,omitzero"`   // of the first of Damage
	// Forgotten is when what earlier scrubs had left could not be read. It is zero again when all was read back since.
	Forgotten time.Time `json:"forgotten,omitzero"`

	Accepted      time.Time `json:"accepted,omitzero"`        // when missing states were last taken for removed, each time a later one; see ScrubConfig.Accept
	Repaired      time.Time `json:"repaired,omitzero"`        // when a scrub has repaired something last
	RepairedFiles int       `json:"repaired_files,omitempty"` // how many files it was

	suspects []objects.MAC // damaged packfiles that Damage may not name
}

// Sound reports whether no damage is known, and none was forgotten.
func (s *ScrubState) Sound() bool { return len(s.Damage) == 0 && s.More == 0 && s.Forgotten.IsZero() }

// Known is nil, or ErrForgotten.
func (s *ScrubState) Known() error {
	if s.Forgotten.IsZero() {
		return nil
	}
	return ErrForgotten
}

// Damaged counts damaged packfiles, states, and blobs that snapshots use, as far as Damage has them.
func (s *ScrubState) Damaged() (packfiles, states, blobs int) {
	for i := range s.Damage {
		d := &s.Damage[i]
		switch d.Kind {
		case DamagedPackfile:
			packfiles++
		case DamagedState:
			states++
		}
		blobs += d.Blobs
	}
	return packfiles, states, blobs
}

// The uses of all damage that are kept have usesBytes together, but for the first of each; one has useBytes beside its names.
const (
	usesBytes = 32 << 20
	useBytes  = 350
)

// ReadScrubState reads what scrubs have left in a directory; zero when there was none.
func ReadScrubState(dir string) (st ScrubState, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "scrub.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &st)
	}
	if err == nil && st.More > 0 {
		st.suspects, err = readSuspects(dir, st.Store)
	}
	if err != nil {
		return ScrubState{}, fmt.Errorf("what is known of the store's files: %w", err)
	}
	return st, nil
}

// readSuspects lists the packfiles that a ledger calls damaged.
func readSuspects(dir, storeID string) (macs []objects.MAC, err error) {
	data, err := os.ReadFile(filepath.Join(dir, ledgerName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l := &ledger{at: make(map[ledgerKey]ledgerEntry)}
	if rest, ok := bytes.CutPrefix(data, ledgerHead(storeID)); ok {
		l.load(rest)
	}
	for k, e := range l.at {
		if e.when == suspect && k.kind == ledgerPackfile {
			macs = append(macs, k.mac)
		}
	}
	return macs, nil
}

// boundUses returns damage with as many uses as are kept.
func boundUses(damage []Damage) []Damage {
	damage, room := slices.Clone(damage), usesBytes
	for i := range damage {
		d := &damage[i]
		n := 0
		for n < len(d.Uses) && (n == 0 || room > 0) {
			room -= useBytes + len(d.Uses[n].Share) + len(d.Uses[n].Path)
			n++
		}
		d.More += len(d.Uses) - n
		d.Uses = d.Uses[:n]
	}
	return damage
}

func writeScrubState(dir string, st *ScrubState) error {
	bounded := *st
	bounded.Damage = boundUses(st.Damage)
	data, err := json.Marshal(&bounded)
	if err == nil {
		err = disk.WriteFile(disk.OS{}, filepath.Join(dir, "scrub.json"), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("what is known of the store's files: %w", err)
	}
	return nil
}
