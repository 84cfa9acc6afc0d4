package config

import (
	"fmt"
	"maps"
	"path"
	"strings"
	"time"

	"github.com/snapgate/gateway/vfs"
)

type share = vfs.ShareConfig

// maxShareName is the longest name of a share: it is also a directory's name.
const maxShareName = 64

// readShares reads the shares section.
func (l *loader) readShares(n node) { l.named(n, "share", l.shareAt, l.readShare) }

// named calls read for every entry of a section, with its name. at is where each was first given.
func (l *loader) named(n node, what string, at map[string]node, read func(name string, value node)) {
	n.entries(func(name string, keyNode, value node) {
		if err := checkName(what, name); err != nil {
			keyNode.fail("%w", err)
			return
		}
		if first, ok := at[name]; ok {
			keyNode.fail("%s given twice, first in %s:%d", what, first.src.name, first.tok.Position.Line)
			return
		}
		at[name] = keyNode
		read(name, value)
	})
}

// CheckSourceName allows the names that a source may have.
func CheckSourceName(name string) error { return checkName("source", name) }

// checkName allows what is one plain directory name everywhere.
func checkName(what, s string) error {
	const chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	if s == "" || len(s) > maxShareName || strings.Trim(s, chars) != "" || strings.ContainsAny(s[:1], "._-") {
		return fmt.Errorf("a %s's name has 1 to %d letters, digits, dots, underscores and hyphens, and starts with a letter or digit", what, maxShareName)
	}
	return nil
}

// readShare reads one share.
func (l *loader) readShare(name string, n node) {
	s := share{Name: name}
	keep := &keepReader{}
	l.keeps[name] = keep
	when := "batch"
	known := fields{
		"snapshot": {func(n node) { when, keep.zone = l.readSnapshot(n, &s) }},
		"versions": intoChoice(&s.Versions, []string{"all", "last"}, []vfs.Versions{vfs.VersionsAll, vfs.VersionsLast}),
		"temp_names": {func(n node) {
			intoTexts(&s.TempNames).read(n)
			for _, p := range s.TempNames {
				if _, err := path.Match(p, "x"); err != nil || strings.Contains(p, "/") {
					n.failHint("want as *.part", "bad pattern %q", p)
				}
			}
		}},
		"temp_max_age":        intoDuration(&s.TempMaxAge, time.Second),
		"partial_max_age":     intoDuration(&s.PartialMaxAge, time.Minute),
		"acknowledge":         intoChoice(&s.AckStored, []string{"spooled", "stored"}, []bool{false, true}),
		"acknowledge_timeout": intoDuration(&s.AckTimeout, time.Second),
		"visible":             intoBool(&s.VisibleHistory),
		"aliases":             intoAliases(&s.Aliases),
		"max_pending":         intoInt(&s.MaxPending, 1_000_000),
		"quota":               intoBytes(&s.Quota, smallestLimit),
	}.later("hooks", "sync", "compression", "exclude")
	maps.Copy(known, keep.fields())
	known["expect"] = l.expectOf(name)
	n.fields(known)
	if s.When != vfs.WhenSchedule {
		keep.unused = fmt.Sprintf("%s.snapshot.time_zone has no effect with when: %s", n.key, when)
	}

	if s.AckStored && (s.When == vfs.WhenSession || s.When == vfs.WhenSchedule || s.When == vfs.WhenManual) {
		n.failHint("use when: close or when: batch, or acknowledge: spooled",
			"acknowledge: stored cannot wait for snapshot.when: %s", when)
	}
	l.cfg.Shares = append(l.cfg.Shares, s)
}

// intoAliases reads other names of .snapshots.
func intoAliases(dst *[]string) field {
	known := []string{".zfs/snapshot", ".snapshot", "~snapshot", "@GMT"}
	return field{func(n node) {
		n.list(func(e node) {
			var a string
			intoChoice(&a, known, known).read(e)
			if a != "" {
				*dst = append(*dst, a)
			}
		})
	}}
}

// snapshotSection is what the snapshot section says besides ShareConfig's fields.
type snapshotSection struct {
	when, cron string
	zone       *time.Location
	cronNode   node
}

func (l *loader) readSnapshot(n node, s *share) (when string, zone *time.Location) {
	c := snapshotSection{when: "batch"}
	words := []string{"batch", "close", "session", "schedule", "manual"}
	n.fields(fields{
		"when": {func(n node) {
			intoChoice(&s.When, words,
				[]vfs.When{vfs.WhenBatch, vfs.WhenClose, vfs.WhenSession, vfs.WhenSchedule, vfs.WhenManual}).read(n)
			c.when = words[s.When]
		}},
		"cron": {func(n node) {
			intoText(&c.cron).read(n)
			c.cronNode = n
		}},
		"time_zone":     {func(n node) { c.zone = readZone(n) }},
		"session_grace": intoDuration(&s.SessionGrace, time.Millisecond),
		"quiet":         intoDuration(&s.Quiet, time.Millisecond),
		"max_delay":     intoDuration(&s.MaxDelay, time.Millisecond),
	})
	if !n.clean() {
		return c.when, c.zone
	}
	switch scheduled := s.When == vfs.WhenSchedule; {
	case scheduled && c.cron == "":
		n.failHint(`add cron: "0 2 * * *"`, "when: schedule needs cron")
	case !scheduled && c.cron != "":
		n.failHint("add when: schedule, or remove cron", "cron has no effect with when: %s", c.when)
	case scheduled:
		if times := c.cronNode.cron(c.cron, c.zone); times != nil {
			s.Next = times.Next
		}
	}
	l.warnTiming(n, &c, s)
	return c.when, c.zone
}

// warnTiming notes settings that the chosen way of committing does not look at. They are
// no error: one wants to try another way without taking them all out.
func (l *loader) warnTiming(n node, c *snapshotSection, s *share) {
	batch := s.When == vfs.WhenBatch
	for key, unused := range map[string]bool{
		"session_grace": s.SessionGrace > 0 && !batch && s.When != vfs.WhenSession,
		"quiet":         s.Quiet > 0 && !batch && s.When != vfs.WhenClose,
		"max_delay":     s.MaxDelay > 0 && !batch,
	} {
		if unused {
			l.warn("%s.%s has no effect with when: %s", n.key, key, c.when)
		}
	}
}
