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

// below is the path that dir has something at, from "/" on; ok is false when it is not in dir. Symbolic links are
// followed, of what is not there yet those of the directory that it would be in.
func below(dir, path string) (rest string, ok bool) {
	rest, err := filepath.Rel(resolve(dir), resolve(path))
	if err != nil || !filepath.IsLocal(rest) {
		return "", false
	}
	if rest == "." {
		return "/", true
	}
	return "/" + filepath.ToSlash(rest), true
}

// resolve follows the symbolic links of a path as far as it is there.
func resolve(path string) string {
	rest := ""
	for {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(real, rest)
		}
		up := filepath.Dir(path)
		if up == path {
			return filepath.Join(path, rest)
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = up
	}
}

// excludes reports whether a directory is excluded, or one that it is in.
func excludes(x *pull.Exclude, path string) bool {
	for i := 1; i < len(path); i++ {
		if path[i] == '/' && x.Match(path[:i], true) {
			return true
		}
	}
	return path != "/" && x.Match(path, true)
}

// escapePath is a pattern for a path.
func escapePath(path string) string {
	names := strings.Split(path, "/")
	for i, name := range names {
		names[i] = pull.EscapePattern(name)
	}
	return strings.Join(names, "/")
}
