package config

import (
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/snapgate/gateway/cmd/gateway/internal/auth"
	"github.com/snapgate/gateway/vfs"
)

// maxUserName is the longest user name; longer ones are no accident.
const maxUserName = 64

// userSection is a user as the file has it.
type userSection struct {
	User
	at     node
	share  string
	mounts map[string]string // share to mount
	order  []string          // of mounts
	root   string
	perms  vfs.Perm
	seen   map[string]node // the keys that were given
}

// readUsers reads the users section.
func (l *loader) readUsers(n node) {
	n.entries(func(name string, keyNode, value node) {
		if err := checkUserName(name); err != nil {
			keyNode.fail("%w", err)
			return
		}
		if first, ok := l.userAt[name]; ok {
			keyNode.fail("user given twice, first in %s:%d", first.src.name, first.tok.Position.Line)
			return
		}
		l.userAt[name] = keyNode
		l.readUser(name, value)
	})
}

// checkUserName refuses what would be ambiguous in logs, tags and command lines.
func checkUserName(s string) error {
	ok := s != "" && len(s) <= maxUserName && utf8.ValidString(s) && !strings.HasPrefix(s, "-")
	for _, r := range s {
		ok = ok && unicode.IsGraphic(r) && !unicode.IsSpace(r) && !strings.ContainsRune(`/:=,"'`, r)
	}
	if !ok {
		return errors.New(`a user's name has 1 to 64 bytes, without spaces and / : = , " ' and does not start with a hyphen`)
	}
	return nil
}

// readUser reads one user.
func (l *loader) readUser(name string, n node) {
	u := &userSection{at: n, mounts: map[string]string{}, perms: vfs.PermFull, seen: map[string]node{}}
	u.Name, u.Permissions = name, "full"
	see := func(key string, f field) field {
		return field{func(n node) { u.seen[key] = n; f.read(n) }}
	}
	n.fields(fields{
		"share":           see("share", intoText(&u.share)),
		"shares":          see("shares", field{u.readMounts}),
		"root":            see("root", intoText(&u.root)),
		"password_hash":   {u.readHash},
		"authorized_keys": {u.readKeys},
		"permissions":     {u.readPermissions},
		"allow_from":      {u.readAllowFrom},
		"disabled":        intoBool(&u.Disabled),
		"expires":         {u.readExpires},
	}.later("quota", "legacy", "certificates", "public_key_ca", "second_factor", "bandwidth", "hooks", "expect"))
	l.users = append(l.users, u)
}

// readMounts reads the shares of a user: share to mount.
func (u *userSection) readMounts(n node) {
	n.entries(func(name string, _, value node) {
		s, ok := value.text()
		if !ok {
			return
		}
		elem, absolute := strings.CutPrefix(s, "/")
		if !absolute || elem == "" || strings.Contains(elem, "/") || elem == "." || elem == ".." || elem == ".snapshots" {
			value.failHint("want as /"+name, "%q is not a directory below the root", s)
			return
		}
		for other, at := range u.mounts {
			if at == s {
				value.fail("%q is the place of share %s already", s, other)
			}
		}
		u.mounts[name] = s
		u.order = append(u.order, name)
		u.seen["shares."+name] = value
	})
}

func (u *userSection) readHash(n node) {
	s, ok := n.text()
	if !ok {
		return
	}
	h, err := auth.ParseHash(s)
	if err != nil {
		n.failHint("make one with: gateway user hash-password", "%w", err)
		return
	}
	u.Hash = h
}

// readKeys reads lines of authorized_keys.
func (u *userSection) readKeys(n node) {
	n.list(func(e node) {
		s, ok := e.text()
		if !ok {
			return
		}
		k, err := auth.ParseKey(s, time.Local)
		if err != nil {
			e.fail("%w", err)
			return
		}
		u.Keys = append(u.Keys, k)
	})
}

func (u *userSection) readAllowFrom(n node) {
	u.AllowFrom = readPrefixes(n)
	if len(u.AllowFrom) == 0 && n.isList() && n.cleanHere() {
		n.failHint("remove allow_from, or use disabled: true", "an empty list would let nobody in")
	}
}

// cleanHere reports whether n and the elements below it were not refused.
func (n node) cleanHere() bool {
	return !slices.ContainsFunc(*n.src.errs, func(e *Error) bool {
		return e.File == n.src.name && strings.HasPrefix(e.Key, n.key)
	})
}

// readExpires reads a date, which means its first moment in UTC, or a time as RFC 3339
// has it.
func (u *userSection) readExpires(n node) {
	s, ok := n.text()
	if !ok {
		return
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			u.Expires = t
			return
		}
	}
	n.fail("%q is not a date; want as 2027-01-31 (from the start of that day, UTC) or 2027-01-31T18:00:00Z", s)
}

// readPermissions reads a name of a set, or a list of permissions.
func (u *userSection) readPermissions(n node) {
	if !n.isList() {
		names := []string{"full", "read-only", "append-only", "upload-only"}
		sets := []vfs.Perm{vfs.PermFull, vfs.PermReadOnly, vfs.PermAppendOnly, vfs.PermUploadOnly}
		if s, ok := n.text(); ok {
			intoChoice(&u.perms, names, sets).read(n)
			u.Permissions = s
		}
		return
	}
	names, perms := permissionNames()
	var words []string
	u.perms = 0
	n.list(func(e node) {
		var p vfs.Perm
		intoChoice(&p, names, perms).read(e)
		u.perms |= p
		if i := slices.Index(perms, p); i >= 0 {
			words = append(words, names[i])
		}
	})
	if len(words) == 0 && n.cleanHere() {
		n.failHint("use disabled: true to keep somebody out", "an empty list permits nothing")
	}
	u.Permissions = strings.Join(words, ",")
}

// permissionNames are the words of permissions lists and what they mean.
func permissionNames() ([]string, []vfs.Perm) {
	return []string{
			"list", "read", "create", "overwrite", "rename", "delete", "mkdir", "setattr", "link", "history", "snapshot",
		}, []vfs.Perm{
			vfs.PermList, vfs.PermRead, vfs.PermCreate, vfs.PermOverwrite, vfs.PermRename, vfs.PermDelete,
			vfs.PermMkdir, vfs.PermSetattr, vfs.PermLink, vfs.PermHistory, vfs.PermSnapshot,
		}
}

// finishUser checks a user against the shares and makes its principal.
func (l *loader) finishUser(u *userSection) {
	if u.Hash.IsZero() && len(u.Keys) == 0 && !u.Disabled && u.at.clean() {
		u.at.failHint("add one, or disabled: true", "neither password_hash nor authorized_keys: nobody could log in")
	}
	p := &vfs.Principal{User: u.Name, Perms: u.perms}
	shareNode, one := u.seen["share"]
	rootNode, hasRoot := u.seen["root"]
	_, several := u.seen["shares"]
	switch {
	case one && several:
		shareNode.fail("share and shares exclude each other")
	case several && hasRoot:
		rootNode.failHint("use share for one share", "root has no effect with shares")
	case several:
		for _, name := range u.order {
			at := u.seen["shares."+name]
			l.checkShare(at, name, u.perms)
			p.Mounts = append(p.Mounts, vfs.Mount{At: parseName(at, u.mounts[name]), Share: name, Root: vfs.Root()})
		}
		if len(u.order) == 0 && u.at.clean() {
			u.at.fail("shares names no share")
		}
	case !one:
		if u.at.clean() {
			u.at.failHint("add share: NAME", "no share")
		}
	default:
		l.checkShare(shareNode, u.share, u.perms)
		root := vfs.Root()
		if hasRoot {
			if !strings.HasPrefix(u.root, "/") {
				rootNode.fail("%q must start with /; it is a directory of the share", u.root)
			}
			root = parseName(rootNode, u.root)
			if slices.Contains(root.Elems(), ".snapshots") {
				rootNode.fail("%q is inside .snapshots, where nothing can be stored", u.root)
			}
		}
		p.Mounts = []vfs.Mount{{At: vfs.Root(), Share: u.share, Root: root}}
	}
	u.Principal = p
	l.cfg.Users = append(l.cfg.Users, u.User)
}

// checkShare refuses a share that does not exist. One that is a source's can only be read.
func (l *loader) checkShare(n node, name string, perms vfs.Perm) {
	if _, ok := l.shareAt[name]; ok || name == "" {
		return
	}
	if _, ok := l.sourceAt[name]; ok {
		if !perms.Has(vfs.PermRead) {
			l.warn("%s: %s is a source, which can only be read, and the user may not read", n.label(), name)
		}
		return
	}
	known := fields{}
	for s := range l.shareAt {
		known[s] = field{}
	}
	for s := range l.sourceAt {
		known[s] = field{}
	}
	hint := "add it to shares"
	if near := nearest(name, known); near != "" {
		hint = `did you mean "` + near + `"?`
	}
	n.failHint(hint, "no share %q", name)
}

// parseName parses a path of the configuration with the rules for clients' paths.
func parseName(n node, s string) vfs.Name {
	name, err := vfs.ParseName(s, vfs.Limits{})
	if err != nil {
		n.fail("%q is not a path", s)
		return vfs.Root()
	}
	return name
}
