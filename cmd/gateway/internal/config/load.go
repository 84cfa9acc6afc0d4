package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/snapgate/gateway/snapshotter"
)

// maxFileBytes bounds a configuration file: some ten thousand users.
const maxFileBytes = 16 << 20

// loader collects what the files say.
type loader struct {
	cfg  *Config
	errs Errors
	home string

	version, dataDir bool            // seen
	shareAt          map[string]node // where each share, user, source and destination was first given
	userAt           map[string]node
	operatorsAt      node // http.operators
	sourceAt         map[string]node
	destinationAt    map[string]node
	hookAt           map[string]node
	expect           expectReader
	expects          map[string]*expectReader // of shares and sources
	users            []*userSection
	retention        retentionSection
	keeps            map[string]*keepReader // of shares and sources
}

// Load reads the configuration file name, the files it includes, and checks all of it.
// name may be relative to the working directory. An error is an *fs.PathError when the
// file cannot be read and Errors when it can but is not good.
func Load(name string) (*Config, error) {
	data, err := readFile(name)
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", name, err)
	}
	l := newLoader(&Config{File: abs, Files: []string{abs}, Store: Store{Name: DefaultStore}, Limits: Limits{Drain: defaultDrain}, Maintenance: Maintenance{Grace: snapshotter.DefaultGrace}, Verify: defaultVerify()})
	l.checkMode(name)
	root, ok := l.parse(name, filepath.Dir(abs), data)
	if ok {
		l.main(root)
		l.finish(root)
	}
	if len(l.errs) > 0 {
		return nil, l.errs
	}
	return l.cfg, nil
}

func newLoader(cfg *Config) *loader {
	return &loader{
		cfg: cfg, home: os.Getenv("HOME"),
		shareAt: map[string]node{}, userAt: map[string]node{}, sourceAt: map[string]node{}, destinationAt: map[string]node{}, hookAt: map[string]node{}, expects: map[string]*expectReader{}, keeps: map[string]*keepReader{},
	}
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeNamedPipe == 0 {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a file")}
	}
	if info.Size() > maxFileBytes {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("too large for a configuration file")}
	}
	return os.ReadFile(name)
}

// parse turns a file into its root node.
func (l *loader) parse(name, dir string, data []byte) (root node, ok bool) {
	src := &source{name: name, dir: dir, home: l.home, errs: &l.errs}
	root = node{src: src}
	file, err := parseYAML(data)
	if err != nil {
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) {
			root.tok = syntax.Token
			root.failHint(syntaxHint(syntax.Message), "%s", strings.ReplaceAll(syntax.Message, "\t", `\t`))
		} else {
			root.fail("%w", err)
		}
		return root, false
	}
	var docs []ast.Node
	for _, d := range file.Docs {
		if d.Body != nil {
			docs = append(docs, d.Body)
		}
	}
	switch {
	case len(docs) == 0:
		root.failHint("see config.example.yaml", "is empty")
		return root, false
	case len(docs) > 1:
		root.tok = docs[1].GetToken()
		root.failHint("use include for more files", "has more than one document")
		return root, false
	}
	root.ast = docs[0]
	return root, true
}

// syntaxHint says what to try about what the parser has found.
func syntaxHint(message string) string {
	switch {
	case strings.Contains(message, "already defined"):
		return "remove one of the two"
	case strings.Contains(message, "\t"), strings.Contains(message, "tab character"):
		return "indent with spaces: YAML has no tabs there"
	case strings.Contains(message, "unknown escape character"):
		return `in double quotes a \ is written \\; in single quotes as it is`
	case strings.Contains(message, "reserved character"):
		return "put a text that begins so in quotes"
	case strings.Contains(message, "non-map value"):
		return "write KEY: VALUE, with a space behind the colon"
	}
	return "check indentation, quotes and brackets here"
}

// parseYAML keeps a panic of the parser, which reads outside input, from being ours.
func parseYAML(data []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			file, err = nil, fmt.Errorf("not valid YAML (%v)", r)
		}
	}()
	return parser.ParseBytes(data, 0)
}

// main reads the main file.
func (l *loader) main(root node) {
	root.fields(fields{
		"version":     {l.readVersion},
		"data_dir":    {l.readDataDir},
		"store":       {l.readStore},
		"stores":      {l.readStores},
		"sync":        {l.readSyncs},
		"maintenance": {l.readMaintenance},
		"verify":      {l.readVerify},
		"sftp":        {l.readSFTP},
		"ftp":         {l.readFTP},
		"http":        {l.readHTTP},
		"shares":      {l.readShares},
		"users":       {l.readUsers},
		"include":     {l.readInclude},
		"limits":      {l.readLimits},
		"log":         {l.readLog},
		"audit":       {l.readAudit},

		"sources":      {l.readSources},
		"destinations": {l.readDestinations},
		"retention":    {l.readRetention},
		"hooks":        {l.readHooks},
		"expect":       {l.readExpect},
	}.later("gateway_id", "metrics", "quota"))
}

// finish checks what needs the whole configuration and fills in what is derived.
func (l *loader) finish(root node) {
	if !l.version {
		root.failHint("put version: 1 at the top", "version is missing")
	}
	if !l.dataDir {
		root.failHint("add data_dir: ./data", "data_dir is missing")
	}
	l.finishStore(root)
	l.finishRetention()
	l.finishHooks()
	l.finishExpect()
	l.finishSyncs()
	l.finishMaintenance()
	l.finishVerify()
	l.finishUpkeep()
	for _, u := range l.users {
		l.finishUser(u)
	}
	l.checkOperators()
	l.checkSources()
	slices.Sort(l.cfg.Warnings)
	slices.SortFunc(l.cfg.Shares, func(a, b share) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(l.cfg.Users, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(l.cfg.Sources, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(l.cfg.Destinations, func(a, b Remote) int { return strings.Compare(a.Name, b.Name) })
}

func (l *loader) readVersion(n node) {
	v, ok := n.integer()
	switch {
	case !ok:
		n.fail("must be the number %d", Version)
	case v > Version:
		n.failHint("use a newer gateway", "version %d is newer than this gateway reads", v)
	case v != Version:
		n.fail("there is no version %d; want %d", v, Version)
	}
	l.version = true
}

func (l *loader) readDataDir(n node) {
	l.dataDir = true
	s, ok := n.text()
	if !ok {
		return
	}
	l.cfg.DataDir = n.path(s)
	// kloset's index below it is opened by an SQLite URI in which these have a meaning.
	if i := strings.IndexAny(l.cfg.DataDir, "?#%"); i >= 0 {
		n.failHint("choose another directory",
			"%q: the character %q is not possible in the path of the data", l.cfg.DataDir, l.cfg.DataDir[i:i+1])
	}
}

// readInclude reads more files of shares, users, sources and destinations: a name or pattern, or a list of them.
func (l *loader) readInclude(n node) {
	if n.isList() {
		n.list(l.include)
		return
	}
	l.include(n)
}

func (l *loader) include(n node) {
	s, ok := n.text()
	if !ok {
		return
	}
	pattern := n.path(s)
	names, err := filepath.Glob(pattern)
	if err != nil {
		n.fail("bad pattern %q", s)
		return
	}
	if !strings.ContainsAny(pattern, "*?[") {
		names = []string{pattern}
	}
	for _, name := range names {
		l.includeFile(n, name)
	}
}

func (l *loader) includeFile(n node, name string) {
	if slices.Contains(l.cfg.Files, name) {
		n.fail("%s is included twice", n.src.rel(name))
		return
	}
	data, err := readFile(name)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		n.fail("%s: %w", n.src.rel(name), err)
		return
	}
	l.cfg.Files = append(l.cfg.Files, name)
	l.checkMode(name)
	root, ok := l.parse(n.src.rel(name), filepath.Dir(name), data)
	if !ok {
		return
	}
	root.fields(fields{
		"version": {l.readVersion},
		"shares":  {l.readShares},
		"users":   {l.readUsers},

		"sources":      {l.readSources},
		"destinations": {l.readDestinations},
	})
}

// checkMode refuses a file that anybody may write: who writes it, decides what runs. A
// file that its group may write is normal where every user has a group of its own.
func (l *loader) checkMode(name string) {
	info, err := os.Stat(name)
	if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o002 != 0 {
		src := &source{name: name, errs: &l.errs}
		node{src: src}.failHint("run: chmod o-w "+name, "anybody may write it (mode %04o)", info.Mode().Perm())
	}
}

// path makes a path absolute: relative to the file, "~" is $HOME.
func (n node) path(s string) string {
	switch {
	case s == "~" || strings.HasPrefix(s, "~/"):
		if n.src.home == "" {
			n.fail("%q needs $HOME, which is not set", s)
			return s
		}
		return filepath.Join(n.src.home, s[1:])
	case filepath.IsAbs(s):
		return filepath.Clean(s)
	}
	return filepath.Join(n.src.dir, s)
}

// rel names an included file as the user would: next to the main file's name.
func (s *source) rel(name string) string {
	if r, err := filepath.Rel(s.dir, name); err == nil && filepath.IsLocal(r) {
		return filepath.Join(filepath.Dir(s.name), r)
	}
	return name
}
