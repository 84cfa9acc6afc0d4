package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/store"
)

// smallestLimit is the least that a store may be limited to, in bytes.
const smallestLimit = 1 << 20

// remoteMinTimeout is the least that a request may be given: servers are allowed to think.
const remoteMinTimeout = time.Second

// readStore reads the store section.
func (l *loader) readStore(n node) { l.readStoreInto(n, &l.cfg.Store) }

// readStoreInto reads the settings of a store, and reports whether there are any.
func (l *loader) readStoreInto(n node, st *Store) bool {
	st.dir = n.src.dir
	if !n.isMapping("write { location: …, passphrase_file: ./passphrase }") {
		return false
	}
	known := fields{
		"location": {func(n node) {
			if s, ok := n.text(); ok {
				l.readLocation(n, s, st)
			}
		}},
		"passphrase_file":    l.intoSecretFile(&st.PassphraseFile),
		"passphrase_env":     intoText(&st.PassphraseEnv),
		"passphrase_command": {func(n node) { st.PassphraseCommand = readCommand(n) }},
		"passphrase":         noSecret("write passphrase_file: FILE (mode 0600), passphrase_env: NAME or passphrase_command"),
		"plaintext":          intoBool(&st.Plaintext),
		"create":             intoBool(&st.Create),
	}
	known["limit"] = intoBytes(&st.Limit, smallestLimit)
	if st.Name == DefaultStore {
		known["limit"] = field{func(n node) { n.failHint("set limits.store", "is for the stores of the stores section") }}
		for _, key := range []string{"retention", "maintenance", "verify"} {
			known[key] = field{func(n node) {
				n.failHint("put it beside store, at the left", "is a section of its own, for the store that is served")
			}}
		}
	} else {
		l.upkeepFields(known, st)
	}
	for key, section := range map[string]string{"keep": "retention", "lock": "retention", "prune": "retention", "schedule": "maintenance", "grace": "maintenance"} {
		known[key] = field{func(n node) {
			n.failHint(fmt.Sprintf("write as %s: { %s: … }", section, key), "is not a setting of a store, but of its %s", section)
		}}
	}
	var s3 S3
	var sftp SFTPStore
	var timeout time.Duration
	ofS3, ofSFTP, ofRemote := l.s3Fields(known, &s3), l.sftpFields(known, &sftp), make(map[string]node)
	known["timeout"] = noting(ofRemote, "timeout", intoDuration(&timeout, remoteMinTimeout))
	n.fields(known)
	s3.Timeout, sftp.Timeout = timeout, timeout
	l.finishS3(n, st, s3, ofS3)
	l.finishSFTPStore(n, st, sftp, ofSFTP)
	if st.S3 == nil && st.SFTP == nil {
		n.refuse(ofRemote, "is for stores in S3 or on SFTP servers alone")
	}

	given := 0
	for _, set := range []bool{st.PassphraseFile != "", st.PassphraseEnv != "", st.PassphraseCommand != nil} {
		if set {
			given++
		}
	}
	switch {
	case given > 1:
		n.fail("passphrase_file, passphrase_env and passphrase_command exclude each other")
	case given == 1 && st.Plaintext:
		n.failHint("remove one of them", "plaintext: true and a passphrase exclude each other")
	case given == 0 && !st.Plaintext && n.clean():
		n.failHint("add passphrase_file: ./passphrase, or plaintext: true for a store that is not encrypted",
			"no passphrase")
	}
	return true
}

// noting is a field that notes in used that it was there.
func noting(used map[string]node, key string, f field) field {
	return field{func(n node) {
		used[key] = n
		f.read(n)
	}}
}

// refuse refuses the keys that were used below n, unless something else is wrong there.
func (n node) refuse(used map[string]node, why string) {
	if n.clean() {
		for _, key := range slices.Sorted(maps.Keys(used)) {
			used[key].fail("%s", why)
		}
	}
}

// clean reports whether nothing below n was refused so far, so that a value that is
// missing because it was refused is not called missing too.
func (n node) clean() bool {
	for _, e := range *n.src.errs {
		if e.File == n.src.name && strings.HasPrefix(e.Key, n.key+".") {
			return false
		}
	}
	return true
}

// readLocation reads a path, fs:// followed by one, s3://host/bucket/prefix or sftp://host/path.
func (l *loader) readLocation(n node, s string, st *Store) {
	scheme, rest, hasScheme := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme) // RFC 3986, 3.1
	switch {
	case strings.TrimSpace(s) == "":
		n.fail("must not be empty")
		return
	case !hasScheme:
		if hint, why := notStoreDirectory(s); why != "" {
			n.failHint(hint, "%s", why)
			return
		}
		rest = s
	case scheme == "s3", scheme == "sftp":
		s = scheme + "://" + rest
		if hint, err := checkServerStore(scheme, s); err != nil {
			n.failHint(hint, "%w", err)
			return
		}
		st.Location = strings.TrimSuffix(s, "/")
		return
	case scheme == "file" && strings.HasPrefix(rest, "/"):
		n.failHint("write fs://"+rest, "unknown kind of store %q", scheme)
		return
	case scheme != "fs":
		n.failHint("use a directory, fs:///path or ./path, s3://host[:port]/bucket[/prefix], or sftp://[user@]host[:port]/path", "unknown kind of store %q", scheme)
		return
	}
	if rest == "" {
		n.fail("has no path")
		return
	}
	st.Path = n.path(rest)
	st.Location = "fs://" + filepath.ToSlash(st.Path)
}

// notStoreDirectory says why a text without a scheme is hardly meant as a directory, "" when it may be, and what to
// write: uploads must not go to a new directory of a strange name while a server is meant.
func notStoreDirectory(s string) (hint, why string) {
	if pull.IsWindowsPath(s) {
		var le *pull.LocationError
		if _, err := pull.ParseLocation(s); errors.As(err, &le) {
			hint = le.Hint
		}
		return hint, "a path of Windows"
	}
	if asForSCP(s) == "" {
		return "", ""
	}
	return "write sftp://host/path or s3://host/bucket for a server, and ./ before the name of a directory that has a colon in it",
		"a colon before the first slash: on a server, or on this machine?"
}

// checkServerStore returns what is wrong with the location of a store on a server, and what to write.
func checkServerStore(scheme, s string) (hint string, err error) {
	authority, path, _ := strings.Cut(strings.TrimPrefix(s, scheme+"://"), "/")
	host := authority[strings.LastIndexByte(authority, '@')+1:]
	home := path == "~" || strings.HasPrefix(path, "~/")
	if scheme == "sftp" && (home || strings.HasPrefix(host, "~")) {
		return "write the host and the whole path: sftp://host/home/me/store", errors.New("~ has no meaning in the location of a store")
	}
	err = store.CheckLocation(s)
	if err != nil && strings.Count(host, ":") > 1 && (!strings.HasPrefix(host, "[") || !strings.Contains(host, "]")) {
		hint = "write an IPv6 address in brackets: " + scheme + "://[2001:db8::1]/path"
	}
	return hint, err
}

// readCommand reads a program with its arguments: a list, or text that is split at white
// space. No shell sees it.
func readCommand(n node) []string {
	var argv []string
	if n.isList() {
		intoTexts(&argv).read(n)
	} else if s, ok := n.text(); ok {
		if strings.ContainsAny(s, `"'\|&;<>()$`+"`") {
			n.failHint("write it as a list: [program, argument]; for a shell: [sh, -c, '…']",
				"no shell reads it, so quotes and shell characters have no meaning here")
			return nil
		}
		argv = strings.Fields(s)
	}
	if len(argv) == 0 {
		n.fail("names no program")
		return nil
	}
	return argv
}

// intoPath reads the name of a file or directory.
func intoPath(dst *string) field {
	return field{func(n node) {
		if s, ok := n.text(); ok {
			*dst = n.path(s)
		}
	}}
}

// intoSecretFile reads the name of a file with a secret.
func (l *loader) intoSecretFile(dst *string) field {
	return field{func(n node) {
		if s, ok := n.text(); ok {
			*dst = n.path(s)
			l.checkSecretMode(n, *dst)
		}
	}}
}

// checkSecretMode is as strict as sshd's StrictModes: a secret that others may write is
// refused, one that others may read is warned about.
func (l *loader) checkSecretMode(n node, name string) {
	info, err := os.Stat(name)
	if err != nil {
		return // whether it must exist is for those who read it
	}
	perm := info.Mode().Perm()
	switch {
	case info.IsDir():
		n.fail("%s is a directory", name)
	case perm&0o002 != 0:
		n.failHint("run: chmod 600 "+name, "anybody may write %s (mode %04o)", name, perm)
	case perm&0o077 != 0:
		l.warn("%s: %s can be read by others (mode %04o); run: chmod 600 %s", n.key, name, perm, name)
	}
}

// finishStore puts the store below data_dir when no place is given.
func (l *loader) finishStore(root node) {
	st := &l.cfg.Store
	if st.dir == "" && len(l.errs) == 0 {
		root.failHint(`add store: { location: "fs://./data/store", passphrase_file: ./passphrase }`, "store is missing")
	}
	if st.Location == "" && l.cfg.DataDir != "" {
		st.Path = filepath.Join(l.cfg.DataDir, "store")
		st.Location = "fs://" + filepath.ToSlash(st.Path)
	}
}
