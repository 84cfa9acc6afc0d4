package remote

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
)

// settings reads a remote as a command line gives it.
func settings(t *testing.T, s map[string]any) *config.Remote {
	t.Helper()
	src, _, err := config.AdHoc(t.TempDir(), s)
	if err != nil {
		t.Fatal(err)
	}
	return &src.Remote
}

func TestOpenFS(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), settings(t, map[string]any{"location": "fs://" + dir}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if e, err := r.Lstat(t.Context(), "/f"); err != nil || e.Size != 4 {
		t.Errorf("%+v, %v", e, err)
	}
	at := settings(t, map[string]any{"location": "fs://" + dir + "/none"})
	if _, err := Open(t.Context(), at, Options{}); pull.KindOf(err) != pull.KindNotFound || Hint(at, err) == "" {
		t.Errorf("a missing directory: %v, hint %q", err, Hint(at, err))
	}
}

func TestFTPConfig(t *testing.T) {
	t.Setenv("GATEWAY_TEST_PASSWORD", "sesame")
	cfg, err := FTPConfig(t.Context(), settings(t, map[string]any{
		"location": "ftp://h/~/a", "username": "u", "password_env": "GATEWAY_TEST_PASSWORD", "connections": 3,
	}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Addr != "h:21" || cfg.User != "u" || cfg.Password != "sesame" || cfg.Root != "a" || !cfg.Home || cfg.Connections != 3 ||
		cfg.TLS == nil || cfg.TLS.InsecureSkipVerify || cfg.Implicit {
		t.Errorf("%+v", cfg)
	}
	if cfg, err = FTPConfig(t.Context(), settings(t, map[string]any{"location": "ftps://h/"}), Options{}); err != nil || !cfg.Implicit || cfg.Addr != "h:990" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if cfg, err = FTPConfig(t.Context(), settings(t, map[string]any{"location": "ftp://h/", "tls": "off"}), Options{}); err != nil || cfg.TLS != nil {
		t.Errorf("%+v, %v", cfg, err)
	}
	at := settings(t, map[string]any{"location": "ftp://u@h/"})
	if _, err := FTPConfig(t.Context(), at, Options{}); !errors.Is(err, ErrNoPassword) || Hint(at, err) == "" {
		t.Errorf("no password, and nobody there: %v", err)
	}
	ask := func(_ context.Context, question string) ([]byte, error) {
		if question != "password of u at h:21" {
			t.Errorf("asked for %q", question)
		}
		return []byte("typed"), nil
	}
	if cfg, err = FTPConfig(t.Context(), at, Options{Ask: ask}); err != nil || cfg.Password != "typed" {
		t.Errorf("asked: %+v, %v", cfg, err)
	}
	file := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(file, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at = settings(t, map[string]any{"location": "ftp://h/", "ca_file": file})
	if _, err := FTPConfig(t.Context(), at, Options{}); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("got %v", err)
	}
}

func TestDialer(t *testing.T) {
	t.Setenv("GATEWAY_TEST_KEY", "")
	if _, err := Dialer(settings(t, map[string]any{"location": "sftp://h/", "ssh_private_key_env": "GATEWAY_TEST_KEY"}), Options{}); err == nil {
		t.Error("an empty key is taken")
	}
	if _, err := Dialer(settings(t, map[string]any{"location": "sftp://h/", "jump": "-x"}), Options{}); sshclient.KindOf(err) != sshclient.KindConfig {
		t.Errorf("got %v", err)
	}
}

// What nobody listens on may come back, so it is a lost connection, and the SSH client's hint
// is ours.
func TestRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []map[string]any{
		{"location": "sftp://" + ln.Addr().String() + "/", "ssh_config": empty, "known_hosts": empty},
		{"location": "ftp://" + ln.Addr().String() + "/"},
	} {
		at := settings(t, s)
		r, err := Open(t.Context(), at, Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Capabilities(t.Context())
		if pull.KindOf(err) != pull.KindConnection || Hint(at, err) == "" {
			t.Errorf("%s: %v, hint %q", at.Location, err, Hint(at, err))
		}
		_ = r.Close()
	}
}

func TestHint(t *testing.T) {
	local := map[string]any{"location": "fs:///x"}
	for _, tt := range []struct {
		at   map[string]any
		op   string
		err  error
		want string
	}{
		{map[string]any{"location": "ftps://h/"}, "connect", tls.RecordHeaderError{Msg: "no TLS"}, "does not begin with TLS"},
		{map[string]any{"location": "ftp://h/", "tls": "off"}, "log in", errors.New("the server says 550 SSL/TLS required"), "leave tls at explicit"},
		{map[string]any{"location": "ftp://h/", "tls": "off"}, "log in", errors.New("the server says 530 Login incorrect"), "are username and password right"},
		{map[string]any{"location": "ftp://h/"}, "connect", fmt.Errorf("reply: %w for 3s", pull.ErrSilent), "stands still"},
		{local, "write", syscall.ENOSPC, "the disk of the location is full"},
		{local, "write", syscall.EROFS, "the file system of the location is read-only"},
	} {
		err := &pull.Error{Op: tt.op, Err: tt.err}
		if got := Hint(settings(t, tt.at), err); !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q, want %q", err, got, tt.want)
		}
	}
}

// What may not be made is not to be read. FTP servers may refuse it without a word of why.
func TestWriteHint(t *testing.T) {
	const write, read = "may the account write there?", "may the account read the directory of the location?"
	for _, tt := range []struct {
		location, op string
		kind         pull.Kind
		want         string
	}{
		{"sftp://h/x", "make", pull.KindPermission, write},
		{"ftp://h/x", "make", pull.KindPermission, write},
		{"ftp://h/x", "make", pull.KindOther, write},
		{"fs:///x", "make", pull.KindPermission, write},
		{"fs:///x", "make", pull.KindOther, ""},
		{"sftp://h/x", "list", pull.KindPermission, read},
	} {
		at := settings(t, map[string]any{"location": tt.location})
		if got := Hint(at, &pull.Error{Op: tt.op, Path: "/x", Kind: tt.kind}); got != tt.want {
			t.Errorf("%s of %s, %v: hint %q, want %q", tt.op, tt.location, tt.kind, got, tt.want)
		}
	}
}

// A path that is not there may hold what belongs elsewhere in the location; one that is there may not be doubted.
func TestPathHint(t *testing.T) {
	missing := &pull.Error{Op: "stat", Kind: pull.KindNotFound}
	refused := &pull.Error{Op: "connect", Kind: pull.KindConnection, Err: syscall.ECONNREFUSED}
	const port, none = "if 2222 is meant as the port, write it behind the host: ", ""
	for _, tt := range []struct {
		location string
		err      error
		want     string // the last line of the hint; none for no more than one line
	}{
		{"sftp://me@h/x:2222", missing, port + "sftp://me@h:2222/x"},
		{"sftp://h:/x:2222", missing, port + "sftp://h:2222/x"},
		{"ftp://h/~/x:2222", missing, port + "ftp://h:2222/~/x"},
		{"ftp://h/x:2222", refused, port + "ftp://h:2222/x"},
		{"sftp://h:22/x:2222", missing, none},
		{"sftp://h/x:y", missing, none},
		{"sftp://h/x:99999", missing, none},
		{"fs:///x:2222", missing, none},
		{"sftp://h/x:2222", &pull.Error{Op: "list", Kind: pull.KindPermission}, none},
		{"sftp://h/~bob/x", missing, "~ has no meaning there: /~/path begins where the login arrives; of other users write the whole path"},
		{"sftp://h/~/x", missing, none},
		{"sftp://h/x%20", missing, "the path begins or ends with a space"},
		{`sftp://h/a\b`, missing, `names are separated by /: is a \ in the path meant so?`},
		{"sftp://h/$HOME/x", missing, "variables have no meaning in a location"},
	} {
		got := Hint(settings(t, map[string]any{"location": tt.location}), tt.err)
		_, last, _ := strings.Cut(got, "\n")
		if last != tt.want {
			t.Errorf("%s: %v: hint %q; want its last line %q", tt.location, tt.err, got, tt.want)
		}
	}
}

// What to try with an FTP server depends on why it cannot be connected to.
func TestFTPHints(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for location, want := range map[string]string{
		"ftp://" + closed.Addr().String() + "/": "does the FTP server run",
		"ftp://no-such-host.invalid/":           "is the name spelled right",
	} {
		at := settings(t, map[string]any{"location": location})
		r, err := Open(t.Context(), at, Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Capabilities(t.Context())
		if err == nil || !strings.Contains(Hint(at, err), want) {
			t.Errorf("%s: %v, hint %q", location, err, Hint(at, err))
		}
		_ = r.Close()
	}
}

// A data connection that is refused says nothing of the server's own port, which has answered.
func TestFTPHintsPassive(t *testing.T) {
	at := settings(t, map[string]any{"location": "ftp://" + serveWithoutData(t) + "/", "tls": "off"})
	r, err := Open(t.Context(), at, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Capabilities(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = r.ReadDir(t.Context(), "/", func(pull.Entry) error { return nil })
	if want := "does a firewall let the server's passive ports through"; !errors.Is(err, syscall.ECONNREFUSED) || !strings.HasPrefix(Hint(at, err), want) {
		t.Errorf("%v: hint %q, want %q", err, Hint(at, err), want)
	}
}

// serveWithoutData is an FTP server whose passive port is closed; it returns its address.
func serveWithoutData(t *testing.T) string {
	t.Helper()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	replies := map[string]string{
		"USER": "230 in", "TYPE": "200 ok", "PWD": `257 "/"`, "CWD": "250 ok",
		"EPSV": fmt.Sprintf("229 ok (|||%d|)", closed.Addr().(*net.TCPAddr).Port), "LIST": "425 nobody has connected",
	}
	return serveFTP(t, func(cmd, _ string) string { return replies[cmd] })
}

// serveFTP is the control connection of an FTP server, which does not have what reply answers "" to; it returns its address.
func serveFTP(t *testing.T, reply func(cmd, arg string) string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer conn.Close()
				fmt.Fprint(conn, "220 ready\r\n")
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					cmd, arg, _ := strings.Cut(lines.Text(), " ")
					fmt.Fprint(conn, cmp.Or(reply(cmd, arg), "502 not here"), "\r\n")
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		served.Wait()
	})
	return ln.Addr().String()
}

// A path that is not there may be meant from where the login arrives, or without its beginning.
func TestElsewhere(t *testing.T) {
	for name, tt := range map[string]struct {
		path string
		dirs []string
		want string
	}{
		"from the login":           {"/public_html", []string{"/", "/home/u", "/home/u/public_html"}, "/~/public_html"},
		"from the login, deeper":   {"/a/b", []string{"/", "/b", "/home/u/a/b"}, "/~/a/b"},
		"without its beginning":    {"/srv/jail/data", []string{"/", "/data"}, "/data"},
		"without all but its end":  {"/srv/jail/data", []string{"/", "/jail", "/jail/data", "/data"}, "/jail/data"},
		"nowhere":                  {"/srv/data", []string{"/", "/home/u"}, ""},
		"the login's own is meant": {"/~/data", []string{"/", "/data"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			addr := serveFTP(t, func(cmd, arg string) string {
				there := slices.Contains(tt.dirs, arg)
				switch {
				case cmd == "USER":
					return "230 in"
				case cmd == "TYPE":
					return "200 ok"
				case cmd == "PWD":
					return `257 "/home/u"`
				case cmd == "FEAT":
					return "211-\r\n MLST type*;\r\n211 end"
				case cmd == "CWD" && there:
					return "250 ok"
				case cmd == "CWD":
					return "550 Failed to change directory."
				case cmd == "MLST" && there:
					return "250-\r\n type=dir; " + arg + "\r\n250 end"
				case cmd == "MLST":
					return "550 no such"
				}
				return ""
			})
			at := "ftp://" + addr
			got, ok := Elsewhere(t.Context(), settings(t, map[string]any{"location": at + tt.path, "tls": "off"}))
			if ok != (tt.want != "") || ok && got.String() != at+tt.want {
				t.Errorf("%v, %v, want %q", got, ok, tt.want)
			}
		})
	}
}
