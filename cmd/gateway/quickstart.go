package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/cmd/gateway/internal/auth"
	"github.com/snapgate/gateway/cmd/gateway/internal/config"
)

// These are where the quickstart serves: this machine only.
const (
	quickstartListen     = "127.0.0.1:2022"
	quickstartFTPListen  = "127.0.0.1:2121"
	quickstartHTTPListen = "127.0.0.1:8022"
)

// The random secrets: 256 bits for the passphrase, which guards the store for ever, and
// 120 bits for a password, which somebody may have to type.
const (
	passphraseBytes = 32
	passwordBytes   = 15
)

func (p *program) quickstartCommand() *cobra.Command {
	var dir, listen, ftpListen, httpListen string
	c := &cobra.Command{
		Use:   "quickstart",
		Short: "Make a store and a demo user, and serve them",
		Long: `Makes an encrypted store, host keys, a user demo and a configuration in a directory, and
serves them in the foreground, for this machine only without --listen. What is there
already is used as it is: the second run just starts again, and config.yaml is yours to
change.`,
		Example: `  gateway quickstart
  gateway quickstart --dir /srv/gateway`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("config") {
				p.configFile = filepath.Join(dir, defaultConfigFile)
			}
			q := &quickstart{dir: dir, config: p.configFile, listen: listen, ftpListen: ftpListen, httpListen: httpListen}
			if err := q.prepare(); err != nil {
				return fmt.Errorf("quickstart: %w", err)
			}
			cfg, err := p.load()
			if err != nil {
				return err
			}
			return p.serve(c.Context(), cfg, func(s *serving) error { return q.welcome(p, s) })
		},
	}
	c.Flags().StringVar(&dir, "dir", ".", "`DIR` of config.yaml and data")
	c.Flags().StringVar(&listen, "listen", quickstartListen, "`HOST:PORT` of SFTP to write into a new config.yaml")
	c.Flags().StringVar(&ftpListen, "ftp-listen", quickstartFTPListen, "`HOST:PORT` of FTP to write into a new config.yaml")
	c.Flags().StringVar(&httpListen, "http-listen", quickstartHTTPListen, "`HOST:PORT` of the web viewer to write into a new config.yaml")
	return c
}

// quickstart makes what is missing.
type quickstart struct {
	dir    string
	config string // file
	listen string
	// ftpListen is where FTP is served, with a certificate made for it.
	ftpListen string
	// httpListen is where the web viewer is, on this machine alone: it has no certificate.
	httpListen string

	data           string
	passphraseFile string
	passwordFile   string
	// firstFile is there until the welcome has shown the password and said that the
	// passphrase must be copied: a first start may fail after it made them.
	firstFile string
}

func (q *quickstart) prepare() error {
	q.data = filepath.Join(q.dir, "data")
	q.passphraseFile = filepath.Join(q.data, "passphrase")
	q.passwordFile = filepath.Join(q.data, "demo-password")
	q.firstFile = filepath.Join(q.data, "first-start")
	if _, err := os.Lstat(q.config); err == nil {
		return nil // made before, perhaps changed since: it counts
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(q.data, 0o700); err != nil {
		return err
	}
	if err := q.makePassphrase(); err != nil {
		return err
	}
	hash, err := q.makePassword()
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(q.ftpListen)
	if err != nil {
		return fmt.Errorf("--ftp-listen: %w", err)
	}
	if err := makeCertificate(filepath.Join(q.data, certificateFile), filepath.Join(q.data, certificateKeyFile), host); err != nil {
		return err
	}
	text, err := q.configText(hash)
	if err != nil {
		return err
	}
	// Last, so that a quickstart that was cut off goes on where it was.
	return writeNew(q.config, []byte(text), 0o600)
}

// makePassphrase makes the passphrase file. It never makes one for a store that is there:
// a new passphrase would not open it.
func (q *quickstart) makePassphrase() error {
	if _, err := os.Lstat(q.passphraseFile); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	store := filepath.Join(q.data, "store")
	if _, err := os.Lstat(store); err == nil {
		return &hintedError{
			err:  fmt.Errorf("%s is there, and its passphrase %s is not", store, q.passphraseFile),
			hint: "put the passphrase back, from the copy that was made of it; or start in another directory",
		}
	}
	if err := writeNew(q.firstFile, nil, 0o600); err != nil {
		return err
	}
	return writeNew(q.passphraseFile, []byte(secret(passphraseBytes)+"\n"), 0o600)
}

// makePassword makes the demo user's password, or takes the one that is there, and
// returns its hash.
func (q *quickstart) makePassword() (string, error) {
	data, err := os.ReadFile(q.passwordFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		data = []byte(secret(passwordBytes) + "\n")
		if err := writeNew(q.passwordFile, data, 0o600); err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	}
	return auth.HashPassword([]byte(strings.TrimSuffix(string(data), "\n")))
}

// secret is a random word of n bytes' worth, of letters, digits, - and _.
func secret(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the process instead (Go 1.24)
	// A word that starts with a hyphen looks like an option to the commands it is given to.
	return "k" + base64.RawURLEncoding.EncodeToString(b)
}

// The names of the FTP server's certificate and key in data_dir.
const (
	certificateFile    = "ftp.crt"
	certificateKeyFile = "ftp.key"
)

const quickstartConfig = `# Made by gateway quickstart; it will not be written again, so change what you like.
# Check it with: gateway config check -c {{.File}}
# All settings are explained in config.example.yaml.
version: 1

# Everything the gateway needs besides this file: spool, journal, host keys, control socket.
data_dir: "{{.Data}}"

# The snapshots, encrypted with the passphrase in this file. KEEP A COPY OF THE PASSPHRASE
# somewhere else: without it nobody can read the store.
store:
  location: "fs://{{.Data}}/store"
  passphrase_file: "{{.Data}}/passphrase"
  create: true

# This machine only; ":2022" serves the network.
sftp:
  listen: "{{.Listen}}"

# FTP with explicit TLS, which is required: without it passwords cross the network in plain
# text. For devices that cannot: tls: { required: false }. The certificate is self-signed.
ftp:
  listen: "{{.FTPListen}}"
  tls: { mode: explicit, certificate: "{{.Data}}/ftp.crt", key: "{{.Data}}/ftp.key" }

# The web viewer, for this machine only: it needs a certificate to serve the network.
http:
  listen: "{{.HTTPListen}}"

# close: every completed upload becomes a snapshot at once, which is nice to watch. For
# many small files batch is better: it waits until a client is done.
shares:
  demo:
    snapshot: { when: close, quiet: 1s }

# Another password: gateway user hash-password. Keys: authorized_keys: ["ssh-ed25519 AAAA…"]
users:
  demo:
    share: demo
    password_hash: "{{.Hash}}"
    permissions: full
`

func (q *quickstart) configText(hash string) (string, error) {
	// Relative to the file when it lies in the directory, so that both can be moved.
	data, err := filepath.Rel(filepath.Dir(q.config), q.data)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(data) {
		data = "./" + filepath.ToSlash(data)
	}
	// Between the quotes of YAML, which are those of JSON.
	quoted := strconv.Quote(data)
	data = quoted[1 : len(quoted)-1]
	t, err := template.New("config").Parse(quickstartConfig)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, map[string]string{
		"File": filepath.Base(q.config), "Data": data, "Listen": q.listen, "FTPListen": q.ftpListen, "HTTPListen": q.httpListen, "Hash": hash,
	})
	return b.String(), err
}

// welcome says how to connect.
func (q *quickstart) welcome(p *program, s *serving) error {
	var b strings.Builder
	b.WriteString("\nThe gateway is running. Ctrl-C ends it.\n\n")
	user := ""
	if len(s.cfg.Users) > 0 {
		user = s.cfg.Users[0].Name
	}
	for _, u := range s.cfg.Users {
		if u.Name == "demo" {
			user = u.Name
		}
	}
	if s.listener != nil {
		host, port := clientAddr(s.listener.Addr().String())
		fmt.Fprintf(&b, "  sftp -P %s %s@%s\n", port, user, host)
		fmt.Fprintf(&b, "  lftp sftp://%s@%s:%s\n", user, bracket(host), port)
	}
	ftpLines(&b, s, user)
	if h := s.http; h != nil && s.cfg.HTTP.Viewer {
		scheme := "http"
		if h.tls != nil {
			scheme = "https"
		}
		host, port := clientAddr(h.listener.Addr().String())
		fmt.Fprintf(&b, "  %s://%s\n", scheme, net.JoinHostPort(host, port))
	}
	fmt.Fprintf(&b, "  %s\n\n", plakarLine(s.cfg))
	first := fileExists(q.firstFile)
	switch password, err := os.ReadFile(q.passwordFile); {
	case err != nil: // removed, or not ours
	case first:
		fmt.Fprintf(&b, "password of demo   %s  (kept in %s)\n", bytes.TrimSuffix(password, []byte("\n")), q.passwordFile)
	default:
		fmt.Fprintf(&b, "password of demo   in %s\n", q.passwordFile)
	}
	for _, k := range s.keys {
		fmt.Fprintf(&b, "host key           %s %s\n", ssh.FingerprintSHA256(k.PublicKey()), k.PublicKey().Type())
	}
	fmt.Fprintf(&b, "configuration      %s\n", s.cfg.File)
	fmt.Fprintf(&b, "data               %s\n", s.cfg.DataDir)
	fmt.Fprintf(&b, "store              %s\n", strings.TrimPrefix(s.cfg.Store.Location, "fs://"))
	if first {
		fmt.Fprintf(&b, "\nIMPORTANT: copy the passphrase, the file %s,\n"+
			"to a safe place on another machine. Without it the store is lost:\n"+
			"nobody can read the snapshots, not even you.\n", s.cfg.Store.PassphraseFile)
	}
	b.WriteString("\n")
	if _, err := fmt.Fprint(p.stdout, b.String()); err != nil {
		return err
	}
	if first {
		_ = os.Remove(q.firstFile) // what stays makes the next start say it again
	}
	return nil
}

// ftpLines are commands that connect with FTP.
func ftpLines(b *strings.Builder, s *serving, user string) {
	if s.ftp == nil {
		return
	}
	host, port := clientAddr(s.ftp.listener.Addr().String())
	at := net.JoinHostPort(host, port)
	switch t := s.cfg.FTP.TLS; {
	case !t.Usable():
		fmt.Fprintf(b, "  lftp ftp://%s@%s\n", user, at)
		fmt.Fprintf(b, "  curl --user %s --upload-file FILE ftp://%s/\n", user, at)
	case t.Mode == config.TLSImplicit:
		fmt.Fprintf(b, "  lftp -e %s ftps://%s@%s\n", shellQuote(lftpTrust(t.Certificate)), user, at)
		fmt.Fprintf(b, "  curl --cacert %s --user %s --upload-file FILE ftps://%s/\n", shellQuote(t.Certificate), user, at)
	default:
		fmt.Fprintf(b, "  lftp -e %s ftp://%s@%s\n", shellQuote(lftpTrust(t.Certificate)), user, at)
		fmt.Fprintf(b, "  curl --ssl-reqd --cacert %s --user %s --upload-file FILE ftp://%s/\n", shellQuote(t.Certificate), user, at)
	}
}

// lftpTrust is the command that makes lftp trust a certificate.
func lftpTrust(file string) string { return `set ssl:ca-file "` + file + `"` }

// plakarLine is a command that lists the snapshots. plakar reads the passphrase from the
// file as the gateway does, without one newline at its end.
func plakarLine(cfg *config.Config) string {
	words := []string{"plakar"}
	if f := cfg.Store.PassphraseFile; f != "" {
		words = append(words, "-keyfile", shellQuote(f))
	}
	return strings.Join(append(words, "at", shellQuote(cfg.Store.Location), "ls"), " ")
}

func fileExists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
