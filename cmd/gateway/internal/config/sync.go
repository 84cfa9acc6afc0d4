package config

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Sync is a job that copies the snapshots of one store to another one.
type Sync struct {
	Name     string
	From, To string   // names of stores
	Shares   []string // of shares and sources; empty for all snapshots
	Verify   bool     // read back what was copied
	// Schedule says when serve runs it.
	Schedule Schedule

	at node
}

// readSyncs reads the sync section: jobs by name.
func (l *loader) readSyncs(n node) {
	l.named(n, "job", map[string]node{}, l.readSync)
	slices.SortFunc(l.cfg.Syncs, func(a, b Sync) int { return cmp.Compare(a.Name, b.Name) })
}

func (l *loader) readSync(name string, n node) {
	s := Sync{Name: name, From: DefaultStore, at: n}
	if !n.isMapping("a job has a name: sync: { nightly: { to: NAME } }") {
		return
	}
	known := fields{
		"from": intoText(&s.From),
		"to":   intoText(&s.To),
		"shares": {func(n node) {
			if n.isList() {
				intoTexts(&s.Shares).read(n)
			} else if text, ok := n.text(); ok {
				s.Shares = []string{text}
			}
		}},
		"verify": intoBool(&s.Verify),
	}
	var when scheduleReader
	maps.Copy(known, when.fields())
	n.fields(known)
	if s.To == "" && n.clean() {
		n.failHint("add to: NAME, one of stores", "to is missing")
	}
	s.Schedule = when.schedule(l, n)
	l.cfg.Syncs = append(l.cfg.Syncs, s)
}

// finishSyncs checks that the stores of jobs are there, and are two. Whether a share is there is
// not asked: its snapshots are, also when it is not configured any more.
func (l *loader) finishSyncs() {
	for i := range l.cfg.Syncs {
		s := &l.cfg.Syncs[i]
		if s.To == "" || !s.at.clean() {
			continue
		}
		if _, ok := l.cfg.Source(s.Name); ok {
			s.at.failHint("give one of them another name", "a source has this name, and jobs are told apart by theirs")
		}
		from, to := l.cfg.StoreNamed(s.From), l.cfg.StoreNamed(s.To)
		hint := "the stores are: " + strings.Join(l.cfg.StoreNames(), ", ")
		if from == nil {
			s.at.failHint(hint, "from: there is no store %q", s.From)
		}
		if to == nil {
			s.at.failHint(hint, "to: there is no store %q", s.To)
		}
		if from != nil && to != nil && from.Location == to.Location {
			s.at.fail("from and to are the same store")
		}
		s.at = node{}
	}
}

// SyncNamed returns a configured job, nil when there is none of that name.
func (c *Config) SyncNamed(name string) *Sync {
	for i := range c.Syncs {
		if c.Syncs[i].Name == name {
			return &c.Syncs[i]
		}
	}
	return nil
}
