package config

import (
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/watch"
)

// What is suspicious where nothing else is said, as a part of all: see docs/OPERATIONS.md.
const (
	defaultDeletion  = 0.5
	defaultOverwrite = 0.5
	defaultSpoolFull = 0.8
)

// Expect says what is expected, and what is an alarm else.
type Expect struct {
	Of map[string]watch.Expect // of shares and sources, all of them
	// SpoolFull is the part of limits.spool that is nearly full.
	SpoolFull float64
	// StoreFree is how many bytes a disk with a store has free at least; 0 for a twentieth of it, but
	// no more than 20 GiB.
	StoreFree int64
}

// HasTimes reports whether backups are expected at times.
func (e *Expect) HasTimes() bool {
	for _, x := range e.Of {
		if x.Every > 0 {
			return true
		}
	}
	return false
}

// expectReader reads expect of one place.
type expectReader struct {
	watch.Expect
	seen map[string]node
}

func (r *expectReader) fields() fields {
	r.seen = map[string]node{}
	known := fields{}
	for key, f := range map[string]field{
		"every": intoDuration(&r.Every, time.Minute), "min_size": intoBytes(&r.MinSize, 1),
		"max_shrink": intoPart(&r.MaxShrink, true), "max_deletion": intoPart(&r.MaxDeletion, true), "max_overwrite": intoPart(&r.MaxOverwrite, true),
	} {
		known[key] = noting(r.seen, key, f)
	}
	return known
}

// intoPart stores 1% to 100% as a part of 1, and off as 0 where that can be.
func intoPart(dst *float64, canBeOff bool) field {
	return field{func(n node) {
		s, ok := n.text()
		if !ok {
			return
		}
		if canBeOff && s == "off" {
			*dst = 0
			return
		}
		digits, percent := strings.CutSuffix(s, "%")
		i, err := strconv.Atoi(digits)
		switch {
		case (!percent || err != nil || i < 1 || i > 100) && canBeOff:
			n.fail("%q is not a part; want from 1%% to 100%%, or off", s)
		case !percent || err != nil || i < 1 || i > 100:
			n.fail("%q is not a part; want from 1%% to 100%%", s)
		default:
			*dst = float64(i) / 100
		}
	}}
}

// expectOf is the expect section of a share or source.
func (l *loader) expectOf(name string) field {
	return field{func(n node) {
		r := &expectReader{}
		l.expects[name] = r
		n.fields(r.fields())
	}}
}

// readExpect reads the expect section: what holds where nothing else is said.
func (l *loader) readExpect(n node) {
	known := l.expect.fields()
	maps.Copy(known, fields{
		"spool_full": intoPart(&l.cfg.Expect.SpoolFull, false),
		"store_free": intoBytes(&l.cfg.Expect.StoreFree, 1),
	})
	n.fields(known)
}

// finishExpect says for all shares and sources what is expected.
func (l *loader) finishExpect() {
	e := &l.cfg.Expect
	if e.SpoolFull == 0 {
		e.SpoolFull = defaultSpoolFull
	}
	common := watch.Expect{MaxDeletion: defaultDeletion, MaxOverwrite: defaultOverwrite}
	l.expect.onto(&common)
	e.Of = map[string]watch.Expect{}
	for _, s := range l.cfg.AllShares() {
		x := common
		if own := l.expects[s.Name]; own != nil {
			own.onto(&x)
		}
		e.Of[s.Name] = x
	}
}

// onto puts what was said in the place of what was not.
func (r *expectReader) onto(x *watch.Expect) {
	for key := range r.seen {
		switch key {
		case "every":
			x.Every = r.Every
		case "min_size":
			x.MinSize = r.MinSize
		case "max_shrink":
			x.MaxShrink = r.MaxShrink
		case "max_deletion":
			x.MaxDeletion = r.MaxDeletion
		case "max_overwrite":
			x.MaxOverwrite = r.MaxOverwrite
		}
	}
}
