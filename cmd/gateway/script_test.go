package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jlaffaye/ftp"
	"github.com/pkg/sftp"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/proctest"
	"github.com/snapgate/gateway/internal/retention"
)

var updateScripts = flag.Bool("update", false, "rewrite the expected texts in testdata/script")

// scriptPassword is the password of every user in the scripts; $HASH is its hash.
const scriptPassword = "secret"

// readyLimit is how long a gateway may take to open its ports. Others use the machine.
const readyLimit = 60 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"blocked": blockedCommand,
		"gateway": func() {
			p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, cheapKDF: true, clocks: scriptClocks()}
			os.Exit(p.run(context.Background(), os.Args[1:]))
		},
	})
}

// scriptClocks are the clocks of the machine, moved by what the file that $CLOCKS names says: by how
// much the wall clock, and by how much the one that nobody can set; nil without $CLOCKS.
func scriptClocks() func() retention.Reading {
	name := os.Getenv("CLOCKS")
	if name == "" {
		return nil
	}
	machine := machineClocks()
	return func() retention.Reading {
		r := machine()
		data, err := os.ReadFile(name)
		wall, up, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
		byWall, werr := time.ParseDuration(wall)
		byUp, uerr := time.ParseDuration(up)
		if err := errors.Join(err, werr, uerr); err != nil {
			panic(err)
		}
		r.Wall, r.Up = r.Wall.Add(byWall), r.Up+byUp
		return r
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *updateScripts,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			port, err := freePort()
			if err != nil {
				return err
			}
			env.Setenv("PORT", port)
			if port, err = freePort(); err != nil {
				return err
			}
			env.Setenv("FTPPORT", port)
			if port, err = freePort(); err != nil {
				return err
			}
			env.Setenv("FTPSPORT", port)
			if port, err = freePort(); err != nil {
				return err
			}
			env.Setenv("HTTPPORT", port)
			env.Setenv("HASH", cheapHash())
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("PASSPHRASE", "from the environment")
			env.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":      cmdAwait,
			"await-text": cmdAwaitText,
			"await-exec": cmdAwaitExec,
			"expand":     cmdExpand,
			"mode":       cmdMode,
			"signal":     cmdSignal,
			"sftp":       cmdSFTP,
			"await-sftp": cmdAwaitSFTP,
			"ftp":        cmdFTP,
			"http":       cmdHTTP,
			"await-http": cmdAwaitHTTP,
			"status":     cmdStatus,
			"listen":     cmdListen,
			"random":     cmdRandom,
			"splice":     cmdSplice,
			"check":      cmdCheck,

			"certificate": cmdCertificate,
		},
	})
}

func freePort() (string, error) {
	port, err := proctest.PickPort()
	return strconv.Itoa(port), err
}

// cheapHash is a password hash with the lowest parameters.
func cheapHash() string {
	salt := []byte("0123456789abcdef")
	sum := argon2.IDKey([]byte(scriptPassword), salt, 1, 8, 1, 32)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=19$m=8,t=1,p=1$%s$%s", b64(salt), b64(sum))
}

// cmdStatus runs a command that must end with a status: status N command arg…
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command arg…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("status %d, want %d", got, want)
	}
}

// cmdAwait waits until a gateway answers on the control socket in a data directory.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await DATA_DIR")
	}
	var err error
	_, werr := proctest.Wait(context.Background(), readyLimit, func() bool {
		_, err = control.Call(context.Background(), ts.MkAbs(args[0]), control.Request{Op: control.OpPing}, nil)
		return err == nil
	})
	if werr != nil {
		ts.Fatalf("no gateway after %v: %v", readyLimit, err)
	}
}

// cmdAwaitText waits until a file has a line that a regular expression matches.
func cmdAwaitText(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await-text FILE REGEXP")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	var data []byte
	_, err = proctest.Wait(context.Background(), readyLimit, func() bool {
		data, err = os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && re.Match(data)
	})
	if err != nil {
		ts.Fatalf("no %s in %s after %v: %v\n%s", args[1], args[0], readyLimit, err, data)
	}
}

// cmdAwaitExec repeats a command until it succeeds and its standard output has a line that a regular expression
// matches: await-exec REGEXP command arg…
func cmdAwaitExec(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await-exec REGEXP command arg…")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	_, werr := proctest.Wait(context.Background(), readyLimit, func() bool {
		err = ts.Exec(args[1], args[2:]...)
		return err == nil && re.MatchString(ts.ReadFile("stdout"))
	})
	if werr != nil {
		ts.Fatalf("no %s after %v: %v", args[0], readyLimit, err)
	}
}

// cmdExpand replaces $NAME in files by environment variables.
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: expand file…")
	}
	for _, name := range args {
		text := ts.ReadFile(name)
		for _, v := range []string{"PORT", "FTPPORT", "FTPSPORT", "HTTPPORT", "HASH", "WORK"} {
			text = strings.ReplaceAll(text, "$"+v, ts.Getenv(v))
		}
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// cmdMode checks the permission bits of files: mode 0600 file…
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mode OCTAL file…")
	}
	want, err := strconv.ParseUint(args[0], 8, 12)
	ts.Check(err)
	for _, name := range args[1:] {
		info, err := os.Lstat(ts.MkAbs(name))
		ts.Check(err)
		if got := info.Mode().Perm(); got != fs.FileMode(want) {
			ts.Fatalf("%s has mode %04o, want %04o", name, got, want)
		}
	}
}

// cmdSignal sends a signal to the last background command: signal HUP
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]os.Signal{"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	if neg || len(args) != 1 || signals[args[0]] == nil {
		ts.Fatalf("usage: signal HUP|INT|TERM|KILL")
	}
	cmds := ts.BackgroundCmds()
	if len(cmds) == 0 {
		ts.Fatalf("no background command")
	}
	ts.Check(cmds[len(cmds)-1].Process.Signal(signals[args[0]]))
}

// cmdListen occupies 127.0.0.1:$PORT until the script ends.
func cmdListen(ts *testscript.TestScript, _ bool, _ []string) {
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", ts.Getenv("PORT")))
	ts.Check(err)
	ts.Defer(func() { _ = ln.Close() })
}

// cmdSFTP logs in at 127.0.0.1:$PORT and does one thing:
//
//	sftp USER put LOCAL REMOTE
//	sftp USER get REMOTE LOCAL
//	sftp USER patch LOCAL OFFSET|end REMOTE    writes into a stored file
//	sftp USER truncate SIZE REMOTE
//	sftp USER ls REMOTE          prints names to standard output
//	sftp USER hold REMOTE        leaves an upload open until the script ends
func cmdSFTP(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: sftp USER put|get|patch|truncate|ls|hold …")
	}
	err := scriptSFTP(ts, args[0], args[1], args[2:])
	if neg != (err != nil) {
		ts.Fatalf("sftp: %v", err)
	}
}

func scriptSFTP(ts *testscript.TestScript, user, op string, args []string) (err error) {
	password := scriptPassword
	if data, err := os.ReadFile(ts.MkAbs("data/demo-password")); err == nil {
		password = strings.TrimSpace(string(data))
	}
	conn, err := ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", ts.Getenv("PORT")), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.Password(password)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // our own process on this machine
		Timeout:         readyLimit,
	})
	if err != nil {
		return err
	}
	c, err := sftp.NewClient(conn)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	leave := func() {
		_ = c.Close() // the gateway may be gone
		_ = conn.Close()
	}
	if op == "hold" {
		ts.Defer(leave)
		f, err := c.Create(args[0])
		if err == nil {
			_, err = f.Write([]byte("half"))
		}
		return err
	}
	defer leave()
	switch op {
	case "put":
		f, err := c.Create(args[1])
		if err != nil {
			return err
		}
		_, err = f.ReadFrom(bytes.NewReader([]byte(ts.ReadFile(args[0]))))
		return errors.Join(err, f.Close())
	case "patch":
		return scriptPatch(c, []byte(ts.ReadFile(args[0])), args[1], args[2])
	case "truncate":
		size, err := strconv.ParseInt(args[0], 10, 64)
		return errors.Join(err, c.Truncate(args[1], size))
	case "get":
		f, err := c.Open(args[0])
		if err != nil {
			return err
		}
		var b bytes.Buffer
		_, err = f.WriteTo(&b)
		return errors.Join(err, f.Close(), os.WriteFile(ts.MkAbs(args[1]), b.Bytes(), 0o600))
	case "df":
		st, err := c.StatVFS(args[0])
		if err == nil {
			_, _ = fmt.Fprintf(ts.Stdout(), "%d KiB, %d free\n", st.Blocks*st.Bsize>>10, st.Bavail*st.Bsize>>10)
		}
		return err
	case "ls":
		list, err := c.ReadDir(args[0])
		for _, info := range list {
			_, _ = fmt.Fprintln(ts.Stdout(), info.Name())
		}
		return err
	}
	return fmt.Errorf("unknown operation %q", op)
}

// cmdAwaitSFTP waits until a file has the bytes of a local one: await-sftp USER REMOTE LOCAL
func cmdAwaitSFTP(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: await-sftp USER REMOTE LOCAL")
	}
	want, got := ts.ReadFile(args[2]), ts.MkAbs("await-sftp.got")
	var err error
	_, werr := proctest.Wait(context.Background(), readyLimit, func() bool {
		if err = scriptSFTP(ts, args[0], "get", []string{args[1], got}); err != nil {
			return false
		}
		return ts.ReadFile(got) == want
	})
	if werr != nil {
		ts.Fatalf("%s is not %s after %v: %v", args[1], args[2], readyLimit, err)
	}
}

// cmdCertificate makes a self-signed certificate and its key: certificate CERT KEY
func cmdCertificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: certificate CERT KEY")
	}
	for _, name := range args {
		_ = os.Remove(ts.MkAbs(name)) // makeCertificate keeps what is there
	}
	ts.Check(makeCertificate(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
}

// cmdFTP logs in at 127.0.0.1:$FTPPORT, with explicit TLS that trusts one certificate, or in
// plain text, and stores or fetches a file:
//
//	ftp USER CERT|- put LOCAL REMOTE
//	ftp USER CERT|- append LOCAL REMOTE
//	ftp USER CERT|- get REMOTE LOCAL
func cmdFTP(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 5 {
		ts.Fatalf("usage: ftp USER CERT|- put|append|get FROM TO")
	}
	err := scriptFTP(ts, args[0], args[1], args[2], args[3], args[4])
	if neg != (err != nil) {
		ts.Fatalf("ftp: %v", err)
	}
}

func scriptFTP(ts *testscript.TestScript, user, cert, op, from, to string) (err error) {
	options := []ftp.DialOption{ftp.DialWithTimeout(readyLimit)}
	if cert != "-" {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(ts.ReadFile(cert)))
		options = append(options, ftp.DialWithExplicitTLS(&tls.Config{
			RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(1),
		}))
	}
	c, err := ftp.Dial(net.JoinHostPort("127.0.0.1", ts.Getenv("FTPPORT")), options...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Quit()) }()
	if err := c.Login(user, scriptPassword); err != nil {
		return err
	}
	switch op {
	case "put":
		return c.Stor(to, strings.NewReader(ts.ReadFile(from)))
	case "append":
		return c.Append(to, strings.NewReader(ts.ReadFile(from)))
	}
	r, err := c.Retr(from)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	return errors.Join(err, r.Close(), os.WriteFile(ts.MkAbs(to), data, 0o600))
}

// cmdHTTP asks the web server at 127.0.0.1:$HTTPPORT, with TLS that trusts one certificate, or in
// plain text, and puts the answer into a file: http STATUS CERT|- PATH FILE
func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 4 {
		ts.Fatalf("usage: http STATUS CERT|- PATH FILE")
	}
	status, body, err := scriptHTTP(ts, args[1], args[2])
	if neg != (err != nil) {
		ts.Fatalf("http: %v", err)
	}
	if err != nil {
		return
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), body, 0o600))
	if status != args[0] {
		ts.Fatalf("http: status %s, want %s: %s", status, args[0], body)
	}
}

// cmdAwaitHTTP is cmdHTTP, again and again until the status is right.
func cmdAwaitHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: await-http STATUS CERT|- PATH FILE")
	}
	var status string
	var body []byte
	var err error
	_, werr := proctest.Wait(context.Background(), readyLimit, func() bool {
		status, body, err = scriptHTTP(ts, args[1], args[2])
		return err == nil && status == args[0]
	})
	if werr != nil {
		ts.Fatalf("status %s, want %s, after %v: %v: %s", status, args[0], readyLimit, err, body)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), body, 0o600))
}

func scriptHTTP(ts *testscript.TestScript, cert, path string) (status string, body []byte, err error) {
	scheme, transport := "http", &http.Transport{DisableKeepAlives: true}
	if cert != "-" {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(ts.ReadFile(cert)))
		scheme, transport.TLSClientConfig = "https", &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	c := &http.Client{Transport: transport, Timeout: readyLimit}
	resp, err := c.Get(scheme + "://" + net.JoinHostPort("127.0.0.1", ts.Getenv("HTTPPORT")) + path)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(resp.Body)
	return strconv.Itoa(resp.StatusCode), body, err
}

// The scripts cover every command: one that is added needs a script that shows its help.
func TestEveryCommandHasAnExample(t *testing.T) {
	p := &program{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	scripts, err := filepath.Glob("testdata/script/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range scripts {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	root := p.root()
	commands := root.Commands()
	for len(commands) > 0 {
		c := commands[0]
		commands = append(commands[1:], c.Commands()...)
		if c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if !c.HasSubCommands() && !strings.Contains(all.String(), c.CommandPath()+" ") && !strings.Contains(all.String(), c.CommandPath()+"\n") {
			t.Errorf("no script runs %s", c.CommandPath())
		}
	}
}
