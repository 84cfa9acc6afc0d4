package sshclient

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

// machine is what resolving needs to know about this machine and account.
type machine struct {
	home, user, uid, hostname string
	system                    string // directory of ssh_config and ssh_known_hosts
	getenv                    func(string) string
	names                     *net.Resolver // nil: the system's
}

// thisMachine describes the process' account. An account without an entry in passwd (a
// container) has what the environment says.
func thisMachine() *machine {
	m := &machine{uid: strconv.Itoa(os.Getuid()), home: os.Getenv("HOME"), user: os.Getenv("USER"), system: "/etc/ssh", getenv: os.Getenv}
	if me, err := user.Current(); err == nil {
		m.home, m.user = me.HomeDir, me.Username
	}
	if name, err := os.Hostname(); err == nil {
		m.hostname = name
	}
	return m
}

// options are what ssh_config files say about one host: for each keyword the line that wins,
// and all lines of those that add up.
type options struct {
	first map[string]*directive
	all   map[string][]*directive
}

// addsUp are the keywords whose values are collected over all matching lines.
func addsUp(key string) bool { return key == "identityfile" || key == "certificatefile" }

// resolver walks through configuration files for one host.
type resolver struct {
	*machine
	given string // the host as given
	host  string // what Host lines are about: given, in the final pass what HostName makes of it
	out   *options

	wantFinal, final bool // a Match line wants a final pass; this is it
}

// maxInclude is how deep files may include each other (READCONF_MAX_DEPTH of OpenSSH).
const maxInclude = 16

// configFile is one file to read.
type configFile struct {
	path    string
	system  bool // Include is relative to /etc/ssh, not ~/.ssh
	must    bool // it was named: a missing one is an error
	checked bool // others must not be able to write it
}

// files are the ssh_config files of a Config.
func (m *machine) files(named []string) []configFile {
	if named == nil {
		return []configFile{
			{path: filepath.Join(m.home, ".ssh", "config"), checked: true},
			{path: filepath.Join(m.system, "ssh_config"), system: true},
		}
	}
	var out []configFile
	for _, path := range named {
		out = append(out, configFile{path: m.tilde(path), must: true})
	}
	return out
}

// resolve reads the files for host. The first value of a setting wins; set are settings that
// win over all files (Config's). When a line asks for it by Match final, the files are read once
// more with the name that HostName says, for what the first pass has left open.
func (m *machine) resolve(host string, files []configFile, set []directive) (*options, error) {
	r := &resolver{machine: m, given: host, host: host, out: &options{first: map[string]*directive{}, all: map[string][]*directive{}}}
	for i := range set {
		r.set(&set[i])
	}
	if err := r.pass(files); err != nil {
		return nil, err
	}
	if !r.wantFinal {
		return r.out, nil
	}
	r.host, r.final = strings.ToLower(r.hostName()), true
	if err := r.pass(files); err != nil {
		return nil, err
	}
	return r.out, nil
}

// pass applies all files once.
func (r *resolver) pass(files []configFile) error {
	for _, f := range files {
		active := true
		if err := r.file(f, &active, 0); err != nil {
			return err
		}
	}
	return nil
}

// hostName is the host to connect to as far as it is known. Wrong tokens are reported when
// HostName is used.
func (r *resolver) hostName() string {
	if d := r.out.first["hostname"]; d != nil {
		if v, err := expandHost(d.args[0], r.given); err == nil {
			return v
		}
	}
	return r.given
}

// file applies one file. active says whether the lines in hand are for the host.
func (r *resolver) file(f configFile, active *bool, depth int) error {
	if f.checked {
		if err := checkOwner(f.path); err != nil {
			return err
		}
	}
	data, err := readLimited(f.path, maxConfigSize)
	if errors.Is(err, fs.ErrNotExist) && !f.must {
		return nil
	}
	if err != nil {
		return configError("ssh_config: %w", err)
	}
	lines, err := parseConfig(f.path, string(data))
	if err != nil {
		return err
	}
	for i := range lines {
		if err := r.line(&lines[i], f, active, depth); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) line(d *directive, f configFile, active *bool, depth int) error {
	var err error
	switch d.key {
	case "host":
		if slices.Contains(d.args, "") {
			return configError("%s: Host with an empty pattern", d.where())
		}
		*active = matchList(d.args, r.host)
	case "match":
		*active, err = r.match(d)
	case "include":
		// What a block that is not for this host includes is not for it either.
		if *active {
			err = r.include(d, f, depth)
		}
	default:
		if *active {
			r.set(d)
		}
	}
	return err
}

// set takes a line over unless one before it has said the same.
func (r *resolver) set(d *directive) {
	if r.final && d.key == "hostname" {
		return // the final pass is about the name that the first one has found
	}
	if d.key == "rsaminsize" { // as Red Hat called it before OpenSSH 9.1
		d.key = "requiredrsasize"
	}
	if addsUp(d.key) {
		same := func(o *directive) bool { return slices.Equal(o.args, d.args) }
		if !slices.ContainsFunc(r.out.all[d.key], same) {
			r.out.all[d.key] = append(r.out.all[d.key], d)
		}
		return
	}
	// ProxyJump and ProxyCommand compete: the one that is set first wins.
	rival := map[string]string{"proxyjump": "proxycommand", "proxycommand": "proxyjump"}[d.key]
	if r.out.first[d.key] == nil && (rival == "" || r.out.first[rival] == nil) {
		r.out.first[d.key] = d
	}
}

// include applies the files that an Include names, in the order of their names. A pattern
// without a file is no error.
func (r *resolver) include(d *directive, f configFile, depth int) error {
	if depth+1 >= maxInclude {
		return configError("%s: Include nested too deep", d.where())
	}
	for _, pattern := range d.args {
		switch {
		case strings.HasPrefix(pattern, "~"):
			pattern = r.tilde(pattern)
		case filepath.IsAbs(pattern):
		case f.system:
			pattern = filepath.Join(r.system, pattern)
		default:
			pattern = filepath.Join(r.home, ".ssh", pattern)
		}
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return configError("%s: Include %s: %w", d.where(), pattern, err)
		}
		sort.Strings(paths)
		for _, path := range paths {
			// A file that sets its own Host lines does not change what follows here.
			active := true
			if err := r.file(configFile{path: path, system: f.system, checked: f.checked}, &active, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// match evaluates a Match line. exec and what is newer need the real ssh, unless an earlier
// criterion of the line rules the host out.
func (r *resolver) match(d *directive) (bool, error) {
	result, rest := true, d.rest
	for n := 0; rest != "" && rest[0] != '#'; n++ {
		var word, arg string
		word, rest = cutKeyword(rest)
		word, negated := strings.CutPrefix(word, "!")
		criterion := strings.ToLower(word)
		switch criterion {
		case "all":
			// The manual has canonical and final before it; ssh takes any one criterion.
			if n > 1 || rest != "" && rest[0] != '#' {
				return false, configError("%s: Match all must stand alone or behind canonical or final", d.where())
			}
			return result && !negated, nil
		case "final", "canonical":
			// Without CanonicalizeHostname only final asks for the pass that both match in; that
			// !final does so, too, was a mistake of OpenSSH up to 10.0.
			r.wantFinal = r.wantFinal || criterion == "final" && !negated
			result = result && r.final != negated
			continue
		}
		if arg, rest = cutKeyword(rest); arg == "" || arg[0] == '#' {
			return false, configError("%s: Match %s without a value", d.where(), word)
		}
		if !result {
			continue // ruled out already: as with ssh, exec does not run then
		}
		yes, ok := r.criterion(criterion, arg)
		if !ok {
			return false, unsupported(d, "Match "+word)
		}
		result = result && yes != negated
	}
	return result, nil
}

// criterion evaluates one criterion of a Match line; ok is false for one that is not known.
func (r *resolver) criterion(name, list string) (yes, ok bool) {
	var value string
	switch name {
	case "host":
		value, list = strings.ToLower(r.hostName()), strings.ToLower(list)
	case "originalhost":
		value, list = strings.ToLower(r.given), strings.ToLower(list)
	case "user":
		value = r.user
		if d := r.out.first["user"]; d != nil {
			value = d.args[0]
		}
	case "localuser":
		value = r.user
	default:
		return false, false
	}
	return matchList(strings.Split(list, ","), value), true
}

// unsupported is the error for what only the real ssh can do.
func unsupported(d *directive, what string) *Error {
	return &Error{
		Kind: KindUnsupported, Detail: fmt.Sprintf("%s: %s", d.where(), what),
		Hint: "set transport: openssh, which runs the system's ssh",
	}
}

// checkOwner refuses a file that somebody else could write, as ssh does: what it says could
// send connections anywhere.
func checkOwner(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return nil //nolint:nilerr // reading it tells
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && st.Uid != 0 && int(st.Uid) != os.Getuid() || info.Mode()&0o022 != 0 {
		e := configError("%s: others own it or may write it", path)
		e.Hint = "chmod go-w " + path
		return e
	}
	return nil
}
