package pull

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseLocation(t *testing.T) {
	tests := map[string]Location{
		"sftp://host/srv/data":          {Scheme: SchemeSFTP, Host: "host", Path: "/srv/data"},
		"sftp://me@host:2222/srv/data/": {Scheme: SchemeSFTP, User: "me", Host: "host", Port: 2222, Path: "/srv/data"},
		"sftp://web1:/srv":              {Scheme: SchemeSFTP, Host: "web1", Alias: true, Path: "/srv"},
		"sftp://host/":                  {Scheme: SchemeSFTP, Host: "host", Path: "/"},
		"sftp://host/~":                 {Scheme: SchemeSFTP, Host: "host", Home: true},
		"sftp://host/~/a//./b":          {Scheme: SchemeSFTP, Host: "host", Home: true, Path: "a/b"},
		"sftp://host/%7E/a":             {Scheme: SchemeSFTP, Host: "host", Path: "/~/a"},
		"sftp://[::1]:22/a":             {Scheme: SchemeSFTP, Host: "::1", Port: 22, Path: "/a"},
		"sftp://[fe80::1%25eth0]/a":     {Scheme: SchemeSFTP, Host: "fe80::1%eth0", Path: "/a"},
		"sftp://host/a%20b%FF?x#y":      {Scheme: SchemeSFTP, Host: "host", Path: "/a b\xff?x#y"},
		"sftp://host/a@b:c":             {Scheme: SchemeSFTP, Host: "host", Path: "/a@b:c"},
		"ftp://dom%5Cme@host/x":         {Scheme: SchemeFTP, User: `dom\me`, Host: "host", Path: "/x"},
		"ftp://me@corp@host/x":          {Scheme: SchemeFTP, User: "me@corp", Host: "host", Path: "/x"},
		"ftps://host:9900/x":            {Scheme: SchemeFTPS, Host: "host", Port: 9900, Path: "/x"},
		"fs:///srv/100%":                {Scheme: SchemeFS, Path: "/srv/100%"},
		"SFTP://Host/X":                 {Scheme: SchemeSFTP, Host: "Host", Path: "/X"},
		"Fs:///srv":                     {Scheme: SchemeFS, Path: "/srv"},
		"sftp://host/x:2222":            {Scheme: SchemeSFTP, Host: "host", Path: "/x:2222"},
		"sftp://host/C:/data":           {Scheme: SchemeSFTP, Host: "host", Path: "/C:/data"},
	}
	for in, want := range tests {
		t.Run(in, func(t *testing.T) {
			got, err := ParseLocation(in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseLocationRefuses(t *testing.T) {
	tests := map[string]string{ // to a part of the text
		"":                       "no scheme",
		"/srv/data":              "no scheme",
		"host:/srv":              "no scheme",
		"http://host/x":          `scheme "http" is not known`,
		"sftp://host":            "no path",
		"sftp:///x":              "no valid host",
		"sftp://@host/x":         "user name",
		"sftp://host:0/x":        "port",
		"sftp://host:65536/x":    "port",
		"sftp://host:+1/x":       "port",
		"ftp://host:/x":          "port",
		"sftp://::1/x":           "more than one colon",
		"sftp://[host]/x":        "IPv6",
		"sftp://[::1/x":          "without its ]",
		"sftp://[::1]x/x":        "after the address",
		"sftp://-oProxy=x/x":     "no valid host",
		"sftp://ho st/x":         "no valid host",
		"sftp://host/a/../b":     "..",
		"sftp://host/%2e%2e/b":   "..",
		"sftp://host/%":          "%25",
		"sftp://host/%zz":        "%25",
		"sftp://host/a%00":       "NUL",
		"ftp://host/a%0d%0aDELE": "line break",
		"fs://srv":               "not absolute",
	}
	for in, want := range tests {
		t.Run(in, func(t *testing.T) {
			l, err := ParseLocation(in)
			if !errors.Is(err, ErrLocation) || !strings.Contains(err.Error(), want) {
				t.Errorf("ParseLocation(%q) = %+v, %v; want %q", in, l, err, want)
			}
		})
	}
}

// Who mistakes one thing for another is told what to write.
func TestParseLocationHints(t *testing.T) {
	tests := map[string]string{ // to a part of the hint
		`C:\data`:              "sftp://host/C:/data",
		"c:/data dir":          "sftp://host/c:/data%20dir",
		"C:":                   "sftp://host/C:/",
		`\\server\share`:       "mount a share of Windows",
		"file:///srv/x":        "write fs:///srv/x",
		"FILE://x":             "write fs:///path",
		"s3://host/bucket":     "for stores alone",
		"scp://host/x":         "write sftp://",
		"sftps://host/x":       "ftps:// for FTP with TLS",
		"smb://host/x":         "mount it",
		"http://host/x":        "use sftp, ftp, ftps or fs",
		" sftp://host/x":       "remove what is before sftp://",
		`"ftp://host/x"`:       "remove what is before ftp://",
		"sftp://host":          "end it with /",
		"sftp:///x":            "sftp://host/path",
		"sftp://~/x":           "sftp://host/~/path",
		"sftp://me@~/x":        "sftp://host/~/path",
		"sftp://~me/x":         "sftp://host/~/path",
		`sftp://host\x`:        `write / in place of \`,
		"sftp://ho st/x":       `' '`,
		"sftp://ho%20st/x":     "no meaning in a host",
		"sftp://@host/x":       "leave the @ out",
		"sftp://[::1/x":        "[2001:db8::1]",
		"sftp://[host]/x":      "for IPv6 addresses alone",
		"sftp://[::1]22/x":     "[::1]:22",
		"sftp://::1/x":         "in brackets",
		"sftp://host:22:/x":    "sftp://host:port/path",
		"sftp://host:srv/x":    "a path begins with a slash",
		"ftp://host:/x":        "leave the colon out",
		"sftp://dom:a/me@host": "%2F",
	}
	for in, want := range tests {
		t.Run(in, func(t *testing.T) {
			l, err := ParseLocation(in)
			var le *LocationError
			if !errors.As(err, &le) || !strings.Contains(le.Hint, want) {
				t.Fatalf("ParseLocation(%q) = %+v, %v, %+v; want the hint %q", in, l, err, le, want)
			}
		})
	}
	if _, err := ParseLocation("sftp://me%zz@host/x"); err == nil || !strings.Contains(err.Error(), "user name is not valid") || !strings.Contains(err.Error(), "%25") {
		t.Errorf("a %% in a user name: %v", err)
	}
}

// A password in a location is refused, with what to do instead, and never repeated.
func TestParseLocationSecret(t *testing.T) {
	for _, in := range []string{"sftp://me:hunter2@host/x", "ftp://me:hun@ter2@host/x", "ftps://:hunter2@host/x", "http://me:hunter2@host/x", "sftp://me:hun/ter2@host/x"} {
		_, err := ParseLocation(in)
		var le *LocationError
		if !errors.As(err, &le) || le.Hint == "" {
			t.Fatalf("%s: %v", in, err)
		}
		if !strings.HasPrefix(in, "http") && !strings.Contains(in, "hun/") && (!errors.Is(err, ErrLocationSecret) || !strings.Contains(le.Hint, "password_file")) {
			t.Errorf("%s: %v, hint %q", in, err, le.Hint)
		}
		if text := err.Error() + le.Hint; strings.Contains(text, "hun") || strings.Contains(text, "ter2") {
			t.Errorf("%s: the secret is repeated: %s", in, text)
		}
	}
}

func TestLocationAddr(t *testing.T) {
	for in, want := range map[string]string{
		"sftp://h/": "h:22", "ftp://h/": "h:21", "ftps://h/": "h:990", "ftp://[::1]:2121/": "[::1]:2121",
	} {
		l, err := ParseLocation(in)
		if err != nil || l.Addr() != want {
			t.Errorf("%s: %q, %v; want %q", in, l.Addr(), err, want)
		}
	}
}

func TestLocationBelow(t *testing.T) {
	for _, tt := range []struct{ at, path, want string }{
		{"sftp://h/a", "b/c", "sftp://h/a/b/c"},
		{"sftp://h/a", "/b//./c/", "sftp://h/a/b/c"},
		{"sftp://h/", "b", "sftp://h/b"},
		{"sftp://h/a", "/", "sftp://h/a"},
		{"sftp://h/~/", "b/c", "sftp://h/~/b/c"},
		{"sftp://h/~/a", "b", "sftp://h/~/a/b"},
		{"sftp://h/a", "b/../..", ""},
		{"ftp://h/a", "b\nc", ""},
		{"sftp://h/a", "b\x00c", ""},
	} {
		l, err := ParseLocation(tt.at)
		if err != nil {
			t.Fatal(err)
		}
		below, err := l.Below(tt.path)
		if tt.want == "" {
			if !errors.Is(err, ErrLocation) {
				t.Errorf("%s below %s: %v, %v; want an error", tt.path, tt.at, below, err)
			}
			continue
		}
		if err != nil || below.String() != tt.want {
			t.Errorf("%s below %s: %s, %v; want %s", tt.path, tt.at, below, err, tt.want)
		}
	}
}

func FuzzParseLocation(f *testing.F) {
	for _, s := range []string{
		"sftp://me@host:22/a%20b", "sftp://alias:/~/x", "sftp://[fe80::1%25e]:1/", "ftps://a@b@c/%7E/", "fs:///x/./y", "sftp://u:p@h/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLocation(s)
		if err != nil {
			if !errors.Is(err, ErrLocation) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if again, err := ParseLocation(l.String()); err != nil || again != l {
			t.Fatalf("%q is %+v, written %q, read %+v, %v", s, l, l.String(), again, err)
		}
		if strings.Contains(l.Path, "//") || strings.IndexByte(l.Path, 0) >= 0 {
			t.Fatalf("%q: path %q", s, l.Path)
		}
	})
}
