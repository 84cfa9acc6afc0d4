package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store/internal/backend"
)

const (
	// packfileTries is how often a packfile is asked for in vain, one time after the other, until nothing of it is asked for any
	// more: each time may cost some tries of the connection, and minutes.
	packfileTries = 4
	// triesInVain is after how many tries of which none was answered nothing is asked for any more, if they were for packfilesInVain
	// packfiles or more, and what should be there is not given either: it is not for some that are bad, and lie side by side.
	triesInVain     = 32
	packfilesInVain = 4
	// sparedMost is how often that it is given keeps asking from being over, with no answer to anything else in between: a server
	// has in memory what it was asked for last, also when its disk gives nothing any more. It is 72 packfiles side by side,
	// or more, that are asked for in vain before all is over.
	sparedMost = 8
)

// ErrNotAsked says, with ErrUnavailable, that a store was not asked as it has not given what it was asked for before: see Patience.
var ErrNotAsked = errors.New("not tried again")

// Patience bounds how often a store that is elsewhere is asked for what it does not give, by whoever reads much of it and is to
// say at the end what could not be read. Nil is without an end. Safe for concurrent use.
type Patience struct {
	read func(packfile objects.MAC) error // reads a few bytes of it, from the store

	mu     sync.Mutex
	turn   int                      // guarded by mu: how often Begin was called
	tried  map[objects.MAC]*tried   // guarded by mu: what was not given when it was asked for last
	vain   map[objects.MAC]struct{} // guarded by mu: what was asked for since the last answer
	row    int                      // guarded by mu: how often
	given  objects.MAC              // guarded by mu: the packfile that was given last; zero for none
	copied objects.MAC              // guarded by mu: one that there is a local copy of; zero for none
	asking bool                     // guarded by mu: somebody reads those two
	spared int                      // guarded by mu: how often they were given, since the last answer to anything else
	end    error                    // guarded by mu: nil as long as there is patience
}

// tried is a packfile that was asked for in vain.
type tried struct {
	times int   // in a row
	pause int   // how many turns it is not asked for; 0: it always was
	again int   // the turn from which on it is
	last  error // why it was not given
}

// NewPatience makes a Patience with the store.
func (s *Store) NewPatience() *Patience { return newPatience(s.readHead) }

func newPatience(read func(packfile objects.MAC) error) *Patience {
	return &Patience{read: read, tried: make(map[objects.MAC]*tried), vain: make(map[objects.MAC]struct{})}
}

// readHead reads the first bytes of a packfile, not from a local copy.
func (s *Store) readHead(packfile objects.MAC) (err error) {
	rd, err := s.conn.connector.Get(backend.Insist(context.Background()), storage.StorageResourcePackfile, packfile, &storage.Range{Length: storage.STORAGE_HEADER_SIZE})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	_, err = io.ReadFull(rd, make([]byte, storage.STORAGE_HEADER_SIZE))
	return err
}

// Begin begins a turn. Packfiles that were given up are asked for again in the next one, and after that in twice as many each
// time: all turns together cost a few tries more than one does.
func (p *Patience) Begin() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn++
	maps.DeleteFunc(p.tried, func(_ objects.MAC, t *tried) bool { return t.pause == 0 })
}

// Over returns why nothing is asked for any more, an ErrUnavailable; nil as long as something is.
func (p *Patience) Over() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// Refuse returns why a packfile is not asked for any more, ErrNotAsked with ErrUnavailable, or nil.
func (p *Patience) Refuse(packfile objects.MAC) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil {
		return fmt.Errorf("%w: %w", ErrNotAsked, p.end)
	}
	if t := p.tried[packfile]; t != nil && t.again > p.turn {
		return fmt.Errorf("%w: %w", ErrNotAsked, t.last)
	}
	return nil
}

// NoteCopy notes a packfile that there is a local copy of, so that the store should give it, too. Zero is none.
func (p *Patience) NoteCopy(packfile objects.MAC) {
	if p == nil || packfile == (objects.MAC{}) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.copied = packfile
}

// Note notes what has come of asking for a packfile: nil, an ErrUnavailable, or another answer, as that it is missing. Before nothing
// is asked for any more it reads from the store what that gave before, or should have.
func (p *Patience) Note(packfile objects.MAC, err error) {
	if p == nil || errors.Is(err, backend.ErrNotTried) { // which costs nothing, and many come in a moment
		return
	}
	if !p.note(packfile, err) {
		return
	}
	p.mu.Lock()
	ask := []objects.MAC{p.given, p.copied}
	p.mu.Unlock()
	asked := true
	gives := slices.ContainsFunc(ask, func(mac objects.MAC) bool {
		if mac == (objects.MAC{}) {
			return false
		}
		err := p.read(mac)
		asked = asked && !errors.Is(err, backend.ErrNotTried)
		return err == nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking = false
	switch {
	case gives && p.spared < sparedMost:
		p.spared++
		p.answered()
	case (asked || gives) && p.allInVain(): // still
		p.end = fmt.Errorf("%d tries in a row to read %d packfiles were in vain: %w", p.row, len(p.vain), err)
	}
}

// answered notes an answer; mu is held.
func (p *Patience) answered() {
	p.row = 0
	clear(p.vain)
}

// allInVain reports whether so much was asked for in vain that the store perhaps gives nothing; mu is held.
func (p *Patience) allInVain() bool { return p.row >= triesInVain && len(p.vain) >= packfilesInVain }

// note is Note, and returns whether the caller is to find out if the store gives anything.
func (p *Patience) note(packfile objects.MAC, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !errors.Is(err, ErrUnavailable) {
		p.answered()
		p.spared = 0
		delete(p.tried, packfile)
		if err == nil {
			p.given = packfile
		}
		return false
	}
	t := p.tried[packfile]
	if t == nil {
		t = new(tried)
		p.tried[packfile] = t
	}
	t.last = err
	if t.times++; t.times >= packfileTries && t.again <= p.turn {
		t.pause = max(1, 2*t.pause)
		t.again = p.turn + t.pause
	}
	p.vain[packfile] = struct{}{}
	p.row++
	if p.end != nil || p.asking || !p.allInVain() {
		return false
	}
	p.asking = true
	return true
}

// FarPackfile returns the packfile that has a blob, and whether there is no local copy of it, as of the last Refresh and Ingest.
// Of a store that is not elsewhere, and of a blob that it does not know, it is zero and false.
func (s *Store) FarPackfile(typ resources.Type, mac objects.MAC) (packfile objects.MAC, far bool) {
	if !s.conn.remote {
		return packfile, false
	}
	payload, err := s.locator.locate(s, typ, mac)
	if err != nil {
		return packfile, false
	}
	delta, err := state.DeltaEntryFromBytes(payload)
	if err != nil {
		return packfile, false
	}
	packfile = delta.Location.Packfile
	return packfile, s.conn.mirror == nil || !s.conn.mirror.has(packfile)
}
