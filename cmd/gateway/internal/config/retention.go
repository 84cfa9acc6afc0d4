package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/internal/retention"
)

// PruneJob is the name of the job that removes what retention does not keep.
const PruneJob = "prune"

// defaultPrune is when that runs without retention.prune.
const defaultPrune = "30 4 * * *"

// Retention says what is kept of the snapshots of shares and sources.
type Retention struct {
	// Of has the policies of the shares and sources that have one, also by default.
	Of map[string]retention.Policy
	// Prune is when serve removes what they do not keep: nil Times when they keep everything, or
	// when it is done by hand.
	Prune Schedule
}

// Removes reports whether any policy ever removes anything.
func (r *Retention) Removes() bool {
	for _, p := range r.Of {
		if !p.KeepsAll() {
			return true
		}
	}
	return false
}

// keepReader reads keep and lock of one place.
type keepReader struct {
	policy retention.Policy
	zone   *time.Location
	keep   bool // keep is there
	lock   bool
	// unused is a warning that zone has no effect, but for keep; "" for none.
	unused string
}

func (k *keepReader) fields() fields {
	return fields{
		"keep": {func(n node) {
			k.keep = true
			text, ok := n.text()
			if !ok {
				return
			}
			p, err := retention.Parse(text)
			if err != nil {
				n.failHint(`want as "all 1d, hourly 7d, daily 30d, weekly 1y, yearly forever, last 10"`, "%w", err)
				return
			}
			k.policy.Rules, k.policy.Last = p.Rules, p.Last
		}},
		"lock": {func(n node) {
			k.lock = true
			intoDuration(&k.policy.Lock, time.Minute).read(n)
		}},
	}
}

// readRetention reads the retention section: what holds where nothing else is said.
func (l *loader) readRetention(n node) {
	n.fields(l.retention.sectionFields())
}

// sectionFields are the keys of a retention section.
func (r *retentionSection) sectionFields() fields {
	known := r.fields()
	known["time_zone"] = field{func(n node) { r.zone = readZone(n) }}
	known["prune"] = field{func(n node) { r.pruneNode = n; intoText(&r.prune).read(n) }}
	known["jitter"] = field{func(n node) {
		r.jitter = 0
		intoDuration(&r.jitter, 0).read(n)
		if n.clean() && r.jitter == 0 {
			r.jitter = -1 // none, not the default
		}
	}}
	return known
}

// retentionSection is the retention section.
type retentionSection struct {
	keepReader
	prune     string
	pruneNode node
	jitter    time.Duration
}

// finishRetention gives all shares and sources their policies.
func (l *loader) finishRetention() {
	l.cfg.Retention.Of = map[string]retention.Policy{}
	for _, s := range l.cfg.Shares {
		l.settle(s.Name)
	}
	for _, s := range l.cfg.Sources {
		l.settle(s.Name)
	}
	l.finishPrune()
}

// settle decides on the policy of a share or source.
func (l *loader) settle(name string) {
	own, common := l.keeps[name], &l.retention.keepReader
	p := common.policy
	if own != nil && own.keep {
		p.Rules, p.Last = own.policy.Rules, own.policy.Last
	}
	if own != nil && own.lock {
		p.Lock = own.policy.Lock
	}
	p.Zone = common.zone
	if own != nil && own.zone != nil {
		p.Zone = own.zone
	}
	if p.Zone == nil {
		p.Zone = time.UTC
	}
	if own != nil && own.keep || own != nil && own.lock || common.keep || common.lock {
		l.cfg.Retention.Of[name] = p
	}
	if own != nil && own.zone != nil && own.unused != "" && p.KeepsAll() {
		l.warn("%s", own.unused)
	}
}

// finishPrune decides when serve prunes.
func (l *loader) finishPrune() {
	l.schedulePrune(&l.retention, &l.cfg.Retention)
	if l.cfg.Retention.Prune.Times == nil {
		return
	}
	hint := "give it another name"
	if at, ok := l.sourceAt[PruneJob]; ok {
		at.failHint(hint, "the job of retention has this name, and jobs are told apart by theirs")
	}
	if s := l.cfg.SyncNamed(PruneJob); s != nil {
		s.at.failHint(hint, "the job of retention has this name, and jobs are told apart by theirs")
	}
}

// schedulePrune decides when what a section's policies do not keep is removed.
func (l *loader) schedulePrune(r *retentionSection, into *Retention) {
	if !into.Removes() {
		if r.prune != "" {
			l.warn("retention.prune has no effect: everything is kept")
		}
		return
	}
	line := r.prune
	switch line {
	case "by hand":
		return
	case "":
		line = defaultPrune
	}
	zone := r.zone
	if zone == nil {
		zone = time.UTC
	}
	times, err := jobs.ParseCron(line, zone)
	if err != nil {
		r.pruneNode.failHint(`want minute, hour, day, month, weekday, as "30 4 * * *", or: by hand`, "%w", err)
		return
	}
	into.Prune = Schedule{Times: times, Jitter: r.jitter}
}

// Words says for each share and source with a policy what it means, a line each.
func (r *Retention) Words() []string {
	var lines []string
	for name, p := range r.Of {
		lines = append(lines, fmt.Sprintf("%s: %s", name, p.Words()))
	}
	slices.SortFunc(lines, strings.Compare)
	return lines
}
