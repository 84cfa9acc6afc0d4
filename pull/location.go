package pull

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Scheme is how a location is reached.
type Scheme string

// The schemes of locations.
const (
	SchemeFS   Scheme = "fs"   // a local directory
	SchemeSFTP Scheme = "sftp" // SFTP over SSH
	SchemeFTP  Scheme = "ftp"  // FTP; TLS by AUTH TLS where that is asked for (RFC 4217)
	SchemeFTPS Scheme = "ftps" // FTP in TLS from the first byte ("implicit")
)

// Ports of the schemes, where the location names none.
const (
	portSFTP = 22
	portFTP  = 21
	portFTPS = 990
)

// Location says where a tree is. It never holds a secret.
type Location struct {
	Scheme Scheme
	User   string // "" when the location names none
	Host   string // without brackets; an alias of ssh_config when Alias is set
	Port   int    // 0 when the location names none
	Alias  bool   // "sftp://alias:/path": Host is looked up in ssh_config only
	// Path is absolute on the server, without empty and "." elements, or, when Home is set,
	// relative to where a login arrives ("" for that directory itself). Bytes, not text.
	Path string
	Home bool
}

// ErrLocation is in the chain of every error of ParseLocation.
var ErrLocation = errors.New("invalid location")

// ErrLocationSecret means that a location holds a password. The error does not repeat it.
var ErrLocationSecret = fmt.Errorf("%w: a password does not belong in a location", ErrLocation)

// LocationError is what ParseLocation returns: Hint says what to write instead and may be
// empty.
type LocationError struct {
	Location string // without a password
	Err      error
	Hint     string
}

func (e *LocationError) Error() string {
	return fmt.Sprintf("location %s: %v", quotePath(e.Location), e.Err)
}

// Unwrap returns the cause.
func (e *LocationError) Unwrap() error { return e.Err }

// ParseLocation reads "sftp://[user@]host[:port]/path", "sftp://alias:/path", "ftp://…",
// "ftps://…" and "fs:///path". The scheme may be in capitals (RFC 3986, 3.1). Except after fs://,
// "%xx" stands for a byte. A path is absolute on the server; one that begins "/~/" starts where a
// login arrives ("%7E" is an ordinary tilde). Errors are *LocationError with ErrLocation in their
// chain.
func ParseLocation(s string) (Location, error) {
	if IsWindowsPath(s) {
		return Location{}, badLocation(s, windowsHint(s), "a path of Windows")
	}
	head, rest, ok := strings.Cut(s, "://")
	if !ok || strings.Contains(head, "/") {
		return Location{}, badLocation(s, "write sftp://host/path, ftp://host/path, ftps://host/path or fs:///path", "no scheme")
	}
	l := Location{Scheme: Scheme(strings.ToLower(head))}
	switch l.Scheme {
	case SchemeFS:
		if strings.IndexByte(rest, 0) >= 0 {
			return Location{}, badLocation(s, "", "NUL in the path")
		}
		if !strings.HasPrefix(rest, "/") {
			return Location{}, badLocation(s, "write fs:///path", "the path is not absolute")
		}
		path, err := cleanPath(rest)
		if err != nil {
			return Location{}, badLocation(s, "", "%w", err)
		}
		l.Path = path
		return l, nil
	case SchemeSFTP, SchemeFTP, SchemeFTPS:
	default:
		return Location{}, badLocation(s, schemeHint(string(l.Scheme), rest), "scheme %q is not known", head)
	}
	authority, path, slash := strings.Cut(rest, "/")
	if err := l.authority(s, authority); err != nil {
		return Location{}, err
	}
	if !slash {
		return Location{}, badLocation(s, "end it with / for the whole server, or with /~/ for where a login arrives", "no path")
	}
	l.Home = path == "~" || strings.HasPrefix(path, "~/")
	if l.Home {
		path = strings.TrimPrefix(path[1:], "/")
	}
	raw, err := unescape("/" + path)
	if err == nil && strings.IndexByte(raw, 0) >= 0 {
		err = errors.New("NUL in the path")
	}
	if err == nil && (l.Scheme != SchemeSFTP) && strings.ContainsAny(raw, "\r\n") {
		err = errors.New("FTP cannot carry a line break in a path")
	}
	if err != nil {
		return Location{}, badLocation(s, "", "%w", err)
	}
	if raw, err = cleanPath(raw); err != nil {
		return Location{}, badLocation(s, "", "%w", err)
	}
	if l.Path = raw; l.Home {
		l.Path = raw[1:]
	}
	return l, nil
}

// authority takes "[user@]host[:port]".
func (l *Location) authority(s, authority string) error {
	user, host, ok := lastCut(authority, "@")
	if !ok {
		user, host = "", authority
	} else if strings.Contains(user, ":") {
		return &LocationError{
			Location: redact(s), Err: ErrLocationSecret,
			Hint: "leave it out and set password_file or password_env",
		}
	}
	var err error
	switch l.User, err = unescape(user); {
	case err != nil:
		return badLocation(s, "", "the user name is not valid: %w", err)
	case ok && user == "":
		return badLocation(s, "write sftp://user@host/path, or leave the @ out", "the user name is empty")
	case strings.ContainsAny(l.User, "\x00\r\n"):
		return badLocation(s, "", "the user name is not valid")
	}
	const inBrackets = "write an IPv6 address in brackets: sftp://[2001:db8::1]/path"
	var port string
	var hasPort bool
	if v6, found := strings.CutPrefix(host, "["); found {
		var after string
		if host, after, found = strings.Cut(v6, "]"); !found {
			return badLocation(s, inBrackets, "a [ without its ]")
		}
		host = strings.ReplaceAll(host, "%25", "%") // the zone (RFC 6874)
		addr, _, _ := strings.Cut(host, "%")
		if net.ParseIP(addr) == nil || !strings.Contains(addr, ":") {
			return badLocation(s, "brackets are for IPv6 addresses alone", "no IPv6 address between the brackets")
		}
		if port, hasPort = strings.CutPrefix(after, ":"); !hasPort && after != "" {
			return badLocation(s, "only a colon and the port can follow there: sftp://[::1]:22/path", "%q after the address", after)
		}
	} else {
		whole := host
		host, port, hasPort = strings.Cut(host, ":")
		if strings.Contains(port, ":") {
			hint := inBrackets
			if net.ParseIP(whole) == nil {
				hint = "write sftp://host:port/path, and " + hint
			}
			return badLocation(s, hint, "more than one colon in the host")
		}
	}
	// A leading "-" would be an option for programs that are given the host, and no host is called "~".
	if l.Host = host; host == "" || strings.ContainsAny(host[:1], "-~") || !validHost(host) {
		return badLocation(s, hostHint(host), "no valid host")
	}
	switch {
	case !hasPort:
	case port == "" && l.Scheme == SchemeSFTP && !strings.Contains(host, ":"):
		l.Alias = true
	default:
		n, err := strconv.ParseUint(port, 10, 16)
		switch {
		case port != "" && strings.Trim(port, "0123456789") != "": // perhaps the beginning of a password
			hint := "only a port can follow the colon; a path begins with a slash: sftp://host/path, or sftp://host/~/path from where a login arrives"
			if strings.Contains(s[strings.Index(s, port)+len(port):], "@") {
				hint = "in a user name, write %2F for a slash; a password goes into password_file or password_env"
			}
			return &LocationError{Location: redact(s), Err: fmt.Errorf("%w: the port is not a number from 1 to 65535", ErrLocation), Hint: hint}
		case port == "":
			return badLocation(s, "leave the colon out, or write the port behind it", "no port behind the colon")
		case err != nil || n == 0:
			return badLocation(s, "", "port %q is not a number from 1 to 65535", port)
		}
		l.Port = int(n)
	}
	return nil
}

// IsWindowsPath reports whether s begins as absolute paths do on Windows: with a drive or a server.
func IsWindowsPath(s string) bool {
	if strings.HasPrefix(s, `\\`) {
		return true
	}
	drive := len(s) >= 2 && s[1] == ':' && ('a' <= s[0]|0x20 && s[0]|0x20 <= 'z')
	return drive && (len(s) == 2 || s[2] == '\\' || s[2] == '/')
}

// windowsHint says what to write in place of a path of Windows.
func windowsHint(s string) string {
	const local = "a directory of this machine is written /srv/data or ./data"
	s = strings.ReplaceAll(s, `\`, "/")
	if strings.HasPrefix(s, "//") {
		return local + "; mount a share of Windows and write where it is mounted"
	}
	if len(s) == 2 {
		s += "/"
	}
	return local + "; one of a Windows machine that runs OpenSSH sftp://host/" + escape(s, "")
}

// schemeHint says what to write in place of a scheme that is not known; rest is what follows "://".
func schemeHint(scheme, rest string) string {
	const known = "use sftp, ftp, ftps or fs"
	for _, s := range []Scheme{SchemeFTPS, SchemeSFTP, SchemeFTP, SchemeFS} { // "sftp" ends in "ftp"
		if before, ok := strings.CutSuffix(scheme, string(s)); ok && before != "" && strings.Trim(before, " \t\r\n\"'<([") == "" {
			return "remove what is before " + string(s) + "://"
		}
	}
	switch scheme {
	case "file":
		if strings.HasPrefix(rest, "/") {
			return "write fs://" + rest
		}
		return "write fs:///path"
	case "s3", "s3s":
		return "s3:// is for stores alone; " + known + " here"
	case "ssh", "scp", "sshfs", "rsync":
		return "write sftp:// for a server that is reached by SSH"
	case "sftps":
		return "write sftp:// for SFTP, which is encrypted by SSH, or ftps:// for FTP with TLS"
	case "ftpes":
		return "write ftp://, which is with TLS by AUTH TLS unless tls says otherwise"
	case "smb", "cifs", "nfs", "afp":
		return "mount it, and write the directory where it is mounted"
	}
	return known
}

// hostHint says what is wrong with a host that is not valid.
func hostHint(host string) string {
	switch {
	case host == "":
		return "write the host behind //: sftp://host/path; a directory of this machine is fs:///path"
	case strings.HasPrefix(host, "~"):
		return "write the host first; /~/ begins where a login arrives: sftp://host/~/path"
	case strings.Contains(host, `\`):
		return `write / in place of \; in a user name, %5C`
	case strings.Contains(host, "%"):
		return "%xx has no meaning in a host"
	case strings.HasPrefix(host, "-"):
		return "a host cannot begin with a hyphen"
	}
	if i := slices.IndexFunc([]byte(host), func(c byte) bool { return !validHost(string(rune(c))) }); i >= 0 {
		return fmt.Sprintf("a host cannot have %q in it", host[i])
	}
	return ""
}

func validHost(host string) bool {
	for _, c := range []byte(host) {
		if c <= ' ' || c == 0x7f || strings.IndexByte(`"\/?#<>|^{}[]`+"`", c) >= 0 {
			return false
		}
	}
	return !strings.Contains(host, "%") || strings.Contains(host, ":") // a zone
}

// Addr is the "host:port" to dial, with the scheme's port when the location has none.
func (l Location) Addr() string {
	port := l.Port
	if port == 0 {
		switch l.Scheme {
		case SchemeFTP:
			port = portFTP
		case SchemeFTPS:
			port = portFTPS
		default:
			port = portSFTP
		}
	}
	return net.JoinHostPort(l.Host, strconv.Itoa(port))
}

// Below is the location of a directory below this one. A slash at the beginning of the path
// means nothing.
func (l Location) Below(path string) (Location, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return l, fmt.Errorf("%w: NUL in the path", ErrLocation)
	}
	if (l.Scheme == SchemeFTP || l.Scheme == SchemeFTPS) && strings.ContainsAny(path, "\r\n") {
		return l, fmt.Errorf("%w: FTP cannot carry a line break in a path", ErrLocation)
	}
	below, err := cleanPath("/" + path)
	switch {
	case err != nil:
		return l, fmt.Errorf("%w: %w", ErrLocation, err)
	case below == "/":
	case l.Path == "/":
		l.Path = below
	case l.Path == "":
		l.Path = below[1:]
	default:
		l.Path += below
	}
	return l, nil
}

// String is the location as ParseLocation reads it.
func (l Location) String() string {
	s := string(l.Scheme) + "://"
	if l.Scheme == SchemeFS {
		return s + l.Path
	}
	if l.User != "" {
		s += escape(l.User, ":@/") + "@"
	}
	if strings.Contains(l.Host, ":") {
		s += "[" + strings.ReplaceAll(l.Host, "%", "%25") + "]"
	} else {
		s += l.Host
	}
	switch {
	case l.Port != 0:
		s += ":" + strconv.Itoa(l.Port)
	case l.Alias:
		s += ":"
	}
	switch {
	case l.Home:
		return s + "/~/" + escape(l.Path, "")
	case l.Path == "/~" || strings.HasPrefix(l.Path, "/~/"):
		return s + "/%7E" + escape(l.Path[2:], "")
	}
	return s + escape(l.Path, "")
}

// cleanPath drops empty and "." elements of an absolute path. ".." is refused: with symbolic
// links, only the server knows what it means.
func cleanPath(p string) (string, error) {
	var b strings.Builder
	for elem := range strings.SplitSeq(p, "/") {
		switch elem {
		case "", ".":
		case "..":
			return "", errors.New("the path has a .. in it")
		default:
			b.WriteByte('/')
			b.WriteString(elem)
		}
	}
	if b.Len() == 0 {
		return "/", nil
	}
	return b.String(), nil
}

const hexDigits = "0123456789ABCDEF"

// unescape replaces each "%xx" by its byte.
func unescape(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errors.New("a % without two hexadecimal digits after it; write %25 for the character")
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", errors.New("a % without two hexadecimal digits after it; write %25 for the character")
		}
		b.WriteByte(byte(n))
		i += 2
	}
	return b.String(), nil
}

// escape writes "%", what is not printable ASCII, and the bytes of also as "%xx".
func escape(s, also string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c > ' ' && c < 0x7f && c != '%' && strings.IndexByte(also, c) < 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
	}
	return b.String()
}

// lastCut cuts at the last sep.
func lastCut(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// redact hides what may be a password: what is between the first ":" after the scheme and the
// last "@".
func redact(s string) string {
	head, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	user, after, ok := lastCut(rest, "@")
	if !ok {
		return s
	}
	if name, _, secret := strings.Cut(user, ":"); secret {
		return head + "://" + name + ":***@" + after
	}
	return s
}

func badLocation(s, hint, format string, args ...any) error {
	return &LocationError{Location: redact(s), Err: fmt.Errorf("%w: "+format, append([]any{ErrLocation}, args...)...), Hint: hint}
}
