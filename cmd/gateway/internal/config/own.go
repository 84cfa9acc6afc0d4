package config

import (
	"path/filepath"
	"strings"

	"github.com/snapgate/gateway/pull"
)

// warnOwn warns of a local source that has the gateway's own data in it: each run would store what the one before has
// stored.
func (l *loader) warnOwn(s *Source) {
	if s.Location.Scheme != pull.SchemeFS {
		return
	}
	own := map[string]string{"data_dir": l.cfg.DataDir}
	_, data := below(s.Location.Path, l.cfg.DataDir)
	for _, st := range l.cfg.AllStores() {
		// What is below data_dir goes with it.
		if _, ok := below(l.cfg.DataDir, st.Path); st.Path != "" && !(data && ok) {
			own["the store "+st.Name] = st.Path
		}
	}
	for what, path := range own {
		rest, ok := below(s.Location.Path, path)
		switch {
		case !ok || excludes(s.Exclude, rest):
		case rest == "/":
			l.warn("%s: it is %s: each run would store what the one before has stored", l.sourceAt[s.Name].label(), what)
		default:
			l.warn("%s: %s is in it, and each run would store what the one before has stored: add exclude: [%q]",
				l.sourceAt[s.Name].label(), what, escapePath(rest))
		}
	}
}

// below is the path that dir has something at, from "/" on; ok is false when it is not in dir. Paths are compared as they are
// written: whoever followed links would wait for a source, or a store, whose server is away.
func below(dir, path string) (rest string, ok bool) {
	rest, err := filepath.Rel(dir, path)
	if err != nil || !filepath.IsLocal(rest) {
		return "", false
	}
	if rest == "." {
		return "/", true
	}
	return "/" + filepath.ToSlash(rest), true
}

// excludes reports whether a directory is excluded, one that it is in, or all that is in it.
func excludes(x *pull.Exclude, path string) bool {
	for i := 1; i < len(path); i++ {
		if path[i] == '/' && x.Match(path[:i], true) {
			return true
		}
	}
	if path != "/" && x.Match(path, true) {
		return true
	}
	for _, name := range []string{"snapgate", ".0"} { // nobody excludes both of them by name
		for _, dir := range []bool{false, true} {
			if !x.Match(strings.TrimSuffix(path, "/")+"/"+name, dir) {
				return false
			}
		}
	}
	return true
}

// escapePath is a pattern for a path.
func escapePath(path string) string {
	names := strings.Split(path, "/")
	for i, name := range names {
		names[i] = pull.EscapePattern(name)
	}
	return strings.Join(names, "/")
}
