package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/vfs"
)

// Source is a remote that is pulled from.
type Source struct {
	Remote
	Exclude *pull.Exclude // nil excludes nothing
	// Schedule says when serve pulls from it.
	Schedule Schedule
	// Unchanged makes a snapshot also when nothing has changed.
	Unchanged bool
	Checksum  bool // read all files, whatever their size and time say
	Partial   bool // make a snapshot also when the connection is lost for good
	// MaxEntries and MaxTime are what a run gives up at; 0 for the default, and for no limit.
	MaxEntries int
	MaxTime    time.Duration
	// Of the read-only share that shows its snapshots.
	VisibleHistory bool
	Aliases        []string
}

// Source returns the source of a name.
func (c *Config) Source(name string) (Source, bool) {
	for _, s := range c.Sources {
		if s.Name == name {
			return s, true
		}
	}
	return Source{}, false
}

// Destination returns the destination of a name.
func (c *Config) Destination(name string) (Remote, bool) {
	for _, d := range c.Destinations {
		if d.Name == name {
			return d, true
		}
	}
	return Remote{}, false
}

// AllShares are the shares and, read-only, the sources.
func (c *Config) AllShares() []vfs.ShareConfig {
	all := slices.Clone(c.Shares)
	for _, s := range c.Sources {
		all = append(all, vfs.ShareConfig{Name: s.Name, Source: true, VisibleHistory: s.VisibleHistory, Aliases: s.Aliases})
	}
	return all
}

// readSources reads the sources section.
func (l *loader) readSources(n node) {
	l.named(n, "source", l.sourceAt, func(name string, value node) {
		s := Source{Remote: Remote{Name: name}}
		l.readSource(value, &s)
		l.cfg.Sources = append(l.cfg.Sources, s)
	})
}

// readDestinations reads the destinations section.
func (l *loader) readDestinations(n node) {
	l.named(n, "destination", l.destinationAt, func(name string, value node) {
		d := Remote{Name: name}
		ofSources := fields{}
		for key := range (&sourceReader{l: l, s: &Source{}}).fields() {
			ofSources[key] = field{func(n node) { n.fail("is for sources alone") }}
		}
		l.readRemote(value, &d, ofSources)
		l.cfg.Destinations = append(l.cfg.Destinations, d)
	})
}

// sourceReader reads what sources have besides the settings of remotes.
type sourceReader struct {
	l *loader
	s *Source

	patterns    []string
	excludeFile string
	schedule    scheduleReader
	at          map[string]node
}

func (sr *sourceReader) fields() fields {
	known := fields{
		"exclude": intoTexts(&sr.patterns),
		"exclude_file": {func(n node) {
			if s, ok := n.text(); ok {
				sr.excludeFile = n.path(s)
			}
		}},
		"unchanged":   intoChoice(&sr.s.Unchanged, []string{"skip", "snapshot"}, []bool{false, true}),
		"checksum":    intoBool(&sr.s.Checksum),
		"partial":     intoBool(&sr.s.Partial),
		"max_entries": intoInt(&sr.s.MaxEntries, 2_000_000_000),
		"max_time":    intoDuration(&sr.s.MaxTime, time.Second),
		"visible":     intoBool(&sr.s.VisibleHistory),
		"aliases":     intoAliases(&sr.s.Aliases),
	}
	sr.at = make(map[string]node, len(known))
	for key, f := range known {
		known[key] = noting(sr.at, key, f)
	}
	maps.Copy(known, sr.schedule.fields())
	return known
}

// readSource reads one source.
func (l *loader) readSource(n node, s *Source) {
	sr := &sourceReader{l: l, s: s}
	known := sr.fields()
	keep := &keepReader{}
	l.keeps[s.Name] = keep
	maps.Copy(known, keep.fields())
	known["expect"] = l.expectOf(s.Name)
	l.readRemote(n, &s.Remote, known)
	sr.readExclude()
	keep.zone = sr.schedule.zone
	_, scheduled := sr.schedule.at["schedule"]
	if _, zoned := sr.schedule.at["time_zone"]; zoned && !scheduled {
		delete(sr.schedule.at, "time_zone")
		keep.unused = n.label() + ".time_zone has no effect without schedule"
	}
	s.Schedule = sr.schedule.schedule(l, n)
}

// maxExcludeBytes bounds an exclude_file.
const maxExcludeBytes = 1 << 20

// readExclude compiles the patterns: those of the file come first, so that the others have the
// last word.
func (sr *sourceReader) readExclude() {
	if sr.excludeFile != "" {
		at := sr.at["exclude_file"]
		info, err := os.Stat(sr.excludeFile)
		if err == nil && info.Size() > maxExcludeBytes {
			err = fmt.Errorf("%s is too large", sr.excludeFile)
		}
		var data []byte
		if err == nil {
			data, err = os.ReadFile(sr.excludeFile)
		}
		if err != nil {
			at.fail("%w", err)
			return
		}
		const mark = "\ufeff" // of UTF-8, which editors of Windows begin a file with
		lines := strings.Split(strings.TrimPrefix(string(data), mark), "\n")
		if _, err := pull.ParseExclude(lines); err != nil {
			at.fail("%s: %w", sr.excludeFile, err)
			return
		}
		sr.patterns = append(lines, sr.patterns...)
	}
	if len(sr.patterns) == 0 {
		return
	}
	x, err := pull.ParseExclude(sr.patterns)
	if err != nil {
		sr.at["exclude"].failHint("write patterns as in a .gitignore file", "%w", err)
		return
	}
	sr.s.Exclude = x
}

// checkSources refuses a source that has a share's name: its snapshots are shown as a share of
// that name. It warns of one that has the gateway's own data in it.
func (l *loader) checkSources() {
	for _, s := range l.cfg.Sources {
		l.warnOwn(&s)
		if share, ok := l.shareAt[s.Name]; ok {
			at := l.sourceAt[s.Name]
			at.failHint("give one of them another name", "a share has that name (%s:%d), and a source's snapshots are shown as a share of its name",
				share.src.name, share.tok.Position.Line)
		}
	}
}

// AdHoc reads the settings of a source that is given on a command line: values are texts, lists
// of texts, whole numbers, true or false. Paths are relative to dir. Errors are Errors, with
// "command line" for a file.
func AdHoc(dir string, settings map[string]any) (s Source, warnings []string, err error) {
	l := newLoader(&Config{})
	for key, v := range settings {
		text, ok := v.(string)
		if ok && !utf8.ValidString(text) {
			return Source{}, nil, fmt.Errorf("command line: %s: not valid UTF-8", key)
		}
	}
	// JSON is YAML.
	data, err := json.Marshal(settings)
	if err != nil {
		return Source{}, nil, fmt.Errorf("command line: %w", err)
	}
	root, ok := l.parse("command line", dir, data)
	if ok {
		l.readSource(root, &s)
	}
	if len(l.errs) > 0 {
		for _, e := range l.errs {
			e.Line, e.Column = 0, 0 // of a text that nobody has seen
		}
		return Source{}, nil, l.errs
	}
	return s, l.cfg.Warnings, nil
}
