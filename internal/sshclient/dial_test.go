package sshclient

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

func TestDial(t *testing.T) {
	s := newServer(t, nil)
	c := dial(t, s.client())
	works(t, c)
	works(t, c)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	<-c.Done()
	if err := c.Err(); err != nil {
		t.Errorf("after Close: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// TestSessionsAtOnce opens sessions on one connection and connections of one Dialer at once.
func TestSessionsAtOnce(t *testing.T) {
	s := newServer(t, nil)
	d, err := New(s.client())
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			c, err := d.Dial(t.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			var sessions errgroup.Group
			for range 4 {
				sessions.Go(func() error {
					client, err := c.SFTP(t.Context())
					if err != nil {
						return err
					}
					f, err := client.Create("/f")
					if err != nil {
						return err
					}
					return errors.Join(f.Close(), client.Close())
				})
			}
			return sessions.Wait()
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestKeys(t *testing.T) {
	s := newServer(t, nil)
	ask := func(answers ...string) func(context.Context, string) ([]byte, error) {
		return func(context.Context, string) ([]byte, error) {
			if len(answers) == 0 {
				return nil, errors.New("asked again")
			}
			answer := answers[0]
			answers = answers[1:]
			return []byte(answer), nil
		}
	}
	locked := keyFile(t, userKey, "open sesame")
	phrase := writeFile(t, filepath.Join(t.TempDir(), "phrase"), "open sesame\n")
	for name, change := range map[string]func(c *Config){
		"as text": func(c *Config) { c.IdentityFiles, c.PrivateKeys = nil, []PEM{keyPEM(t, userKey, "")} },
		"as text, locked": func(c *Config) {
			c.IdentityFiles, c.PrivateKeys, c.Passphrase.File = nil, []PEM{keyPEM(t, userKey, "open sesame")}, phrase
		},
		"passphrase in memory": func(c *Config) { c.IdentityFiles, c.Passphrase.Bytes = []string{locked}, []byte("open sesame") },
		"passphrase in a file": func(c *Config) { c.IdentityFiles, c.Passphrase.File = []string{locked}, phrase },
		"passphrase in the environment": func(c *Config) {
			c.IdentityFiles, c.Passphrase.Env = []string{locked}, "PHRASE"
			c.local.getenv = func(string) string { return "open sesame" }
		},
		"passphrase asked for": func(c *Config) { c.IdentityFiles, c.Passphrase.Ask = []string{locked}, ask("open sesame") },
		"default file": func(c *Config) {
			c.IdentityFiles = nil
			writeFile(t, filepath.Join(c.local.home, ".ssh", "id_ed25519"), string(keyPEM(t, userKey, "")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.client()
			change(&cfg)
			works(t, dial(t, cfg))
		})
	}
	t.Run("one question for all connections", func(t *testing.T) {
		cfg := s.client()
		cfg.IdentityFiles, cfg.Passphrase.Ask = []string{locked}, ask("open sesame")
		d, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		for range 4 {
			g.Go(func() error {
				c, err := d.Dial(t.Context())
				if err != nil {
					return err
				}
				return c.Close()
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestKeyErrors(t *testing.T) {
	s := newServer(t, nil)
	locked := keyFile(t, userKey, "open sesame")
	open := keyFile(t, userKey, "")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(c *Config)
		kind   Kind
		parts  []string
	}{
		"no passphrase":    {func(c *Config) { c.IdentityFiles = []string{locked} }, KindEncryptedKey, []string{locked, "ssh-add"}},
		"wrong passphrase": {func(c *Config) { c.IdentityFiles, c.Passphrase.Bytes = []string{locked}, []byte("guess") }, KindKey, []string{"wrong passphrase", "ssh-keygen -y"}},
		"no passphrase file": {func(c *Config) { c.IdentityFiles, c.Passphrase.File = []string{locked}, "/nowhere/phrase" }, KindConfig,
			[]string{"/nowhere/phrase"}},
		"missing file": {func(c *Config) { c.IdentityFiles = []string{"/nowhere/key"} }, KindAuth, []string{"/nowhere/key", "no such file", "mend what was left out"}},
		"others read":  {func(c *Config) { c.IdentityFiles = []string{open} }, KindAuth, []string{"chmod 600"}},
		"PuTTY's": {func(c *Config) {
			c.IdentityFiles = []string{writeFile(t, filepath.Join(t.TempDir(), "k.ppk"), "PuTTY-User-Key-File-3: x\n")}
		}, KindAuth, []string{"puttygen"}},
		"no key at all": {func(c *Config) { c.IdentityFiles = nil }, KindAuth, []string{"nothing could be tried", "identity"}},
		"wrong key": {func(c *Config) { c.IdentityFiles = []string{keyFile(t, 12, "")} }, KindAuth,
			[]string{"user me", "tried publickey", ssh.FingerprintSHA256(testPublicKey(t, 12)), "the server takes publickey", "authorized_keys"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.client()
			test.change(&cfg)
			if test.kind == KindConfig {
				if _, err := Dial(t.Context(), cfg); !errors.Is(err, KindConfig) || !strings.Contains(err.Error(), test.parts[0]) {
					t.Fatalf("got %v", err)
				}
				return
			}
			e := failure(t, cfg, test.kind, test.parts...)
			if strings.Contains(e.Error()+e.Hint, "guess") {
				t.Errorf("the passphrase is in %q", e.Error())
			}
		})
	}
}

// TestFewKeys checks that a server is offered few keys, and those that were named first.
func TestFewKeys(t *testing.T) {
	s := newServer(t, func(s *server) { s.config.MaxAuthTries = 6 })
	cfg := s.client()
	cfg.IdentityFiles = nil
	for n := byte(21); n < 31; n++ {
		cfg.IdentityFiles = append(cfg.IdentityFiles, keyFile(t, n, ""))
	}
	e := failure(t, cfg, KindAuth, "5 more keys were not tried", "IdentitiesOnly")
	if got := len(s.offers()); got != maxKeyTries || len(e.Tried) != maxKeyTries {
		t.Errorf("%d keys were offered and %d reported, want %d", got, len(e.Tried), maxKeyTries)
	}
	if !slices.Equal(e.Offered, []string{"publickey"}) {
		t.Errorf("offered methods are %v", e.Offered)
	}
}

// TestTooManyTries checks what is said when a server allows less than we try.
func TestTooManyTries(t *testing.T) {
	s := newServer(t, func(s *server) { s.config.MaxAuthTries = 2 })
	cfg := s.client()
	cfg.IdentityFiles = []string{keyFile(t, 21, ""), keyFile(t, 22, ""), keyFile(t, 23, "")}
	failure(t, cfg, KindAuth, "after too many tries", "IdentitiesOnly")
}

func TestPassword(t *testing.T) {
	const secret = "correct horse"
	byPassword := func(s *server) {
		s.config.PasswordCallback = func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
			if string(p) == secret {
				return nil, nil
			}
			return nil, errors.New("wrong")
		}
	}
	byPrompt := func(questions []string, echos []bool) func(s *server) {
		return func(s *server) {
			s.config.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				answers, err := ask("", "", questions, echos)
				if err != nil || len(answers) != 1 || answers[0] != secret {
					return nil, errors.New("wrong")
				}
				return nil, nil
			}
		}
	}
	password := Secret{Bytes: []byte(secret)}
	for name, change := range map[string]func(s *server){
		"password": byPassword, "keyboard-interactive": byPrompt([]string{"Password: "}, []bool{false}),
		"key, then password": func(s *server) {
			byPassword(s)
			check := s.config.PasswordCallback
			s.config.PasswordCallback = nil
			key := s.config.PublicKeyCallback
			s.config.PublicKeyCallback = func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
				if _, err := key(c, k); err != nil {
					return nil, err
				}
				return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{PasswordCallback: check}}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, change)
			cfg := s.client()
			cfg.Password = password
			if name != "key, then password" {
				cfg.IdentityFiles = nil
			}
			works(t, dial(t, cfg))
		})
	}
	t.Run("wrong", func(t *testing.T) {
		s := newServer(t, byPassword)
		cfg := s.client()
		cfg.IdentityFiles, cfg.Password = nil, Secret{Bytes: []byte("wrong horse")}
		e := failure(t, cfg, KindAuth, "tried password", "the server takes password, publickey", "the current one")
		if strings.Contains(e.Error()+e.Hint, "wrong horse") {
			t.Error("the error has the password")
		}
	})
	t.Run("none to give", func(t *testing.T) {
		cfg := newServer(t, func(s *server) { byPassword(s); s.config.PublicKeyCallback = nil }).client()
		failure(t, cfg, KindAuth, "password_file")
	})
	// The password must never be the answer to something else.
	for name, change := range map[string]func(s *server){
		"one-time code":    byPrompt([]string{"Password: ", "Code: "}, []bool{false, false}),
		"shown on screens": byPrompt([]string{"Your favourite colour: "}, []bool{true}),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := newServer(t, change).client()
			cfg.IdentityFiles, cfg.Password = nil, password
			failure(t, cfg, KindAuth, "more than a password", "unattended")
		})
	}
}

func TestNetworkErrors(t *testing.T) {
	s := newServer(t, nil)
	closed := func() int {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().(*net.TCPAddr).Port
	}()
	silent := &server{tb: t}
	silent.addr = silent.listen(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	hangUp := &server{tb: t}
	hangUp.addr = hangUp.listen(func(net.Conn) {})
	// A server of names that does not answer would be another kind.
	offline := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("there is no server of names")
	}}
	for name, test := range map[string]struct {
		change func(c *Config)
		kind   Kind
		parts  []string
	}{
		"refused":    {func(c *Config) { c.Port = closed }, KindRefused, []string{"connection refused", "does the SSH server run"}},
		"no name":    {func(c *Config) { c.Host, c.local.names = "no-such-host.invalid", offline }, KindDNS, []string{"no-such-host.invalid", "alias", "whatever HOME says"}},
		"no answer":  {func(c *Config) { c.Port, c.LoginTimeout = silent.port(), 50*time.Millisecond }, KindTimeout, []string{"no login within 50ms"}},
		"not in all": {func(c *Config) { c.Port, c.Total = silent.port(), 50*time.Millisecond }, KindTimeout, []string{"no login within 50ms", "longer timeout"}},
		"hangs up":   {func(c *Config) { c.Port = hangUp.port() }, KindClosed, []string{"the server ended the connection"}},
		"in no time": {func(c *Config) { c.Timeout = time.Nanosecond }, KindTimeout, []string{"no connection within 1ns"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.client()
			test.change(&cfg)
			failure(t, cfg, test.kind, test.parts...)
		})
	}
}

// What the kind says is not said again by the system's error, whose address stays.
func TestSaidOnce(t *testing.T) {
	refused := os.NewSyscallError("connect", syscall.ECONNREFUSED)
	addr := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 22}
	for want, err := range map[string]error{
		"web: connection refused: dial tcp 192.0.2.1:22":                             &net.OpError{Op: "dial", Net: "tcp", Addr: addr, Err: refused},
		"web: connection refused":                                                    syscall.ECONNREFUSED,
		"web: network unreachable: dial tcp 192.0.2.1:22: connect: no route to host": &net.OpError{Op: "dial", Net: "tcp", Addr: addr, Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)},
	} {
		if got := networkError("web", err).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestNetworkErrorKinds(t *testing.T) {
	for errno, want := range map[syscall.Errno]Kind{
		syscall.EHOSTUNREACH: KindUnreachable, syscall.ENETUNREACH: KindUnreachable, syscall.ECONNREFUSED: KindRefused,
		syscall.ETIMEDOUT: KindTimeout, syscall.ECONNRESET: KindClosed, syscall.EPIPE: KindClosed, syscall.EMFILE: KindOther,
	} {
		err := networkError("web", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)})
		if got := KindOf(err); got != want || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

// TestOldRSA logs in to a server that knows only SHA-1 signatures of RSA keys.
func TestOldRSA(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, func(s *server) {
		s.config.PublicKeyAuthAlgorithms = []string{ssh.KeyAlgoRSA}
		s.config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }
	})
	cfg := s.client()
	cfg.IdentityFiles, cfg.PrivateKeys = nil, []PEM{pem.EncodeToMemory(block)}
	failure(t, cfg, KindAuth, "legacy: true")
	cfg.Legacy = true
	works(t, dial(t, cfg))
}

// TestRequiredRSASize checks that RSA keys below the limit count neither for a server, whatever the
// policy, nor for a user, with a certificate or without.
func TestRequiredRSASize(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	host := newServer(t, func(s *server) {
		s.config.ServerVersion = "SSH-2.0-ownkeys"
		s.config.AddHostKey(signer)
	})
	limit := func(bits string) []string {
		return []string{writeFile(t, filepath.Join(t.TempDir(), "config"), "RequiredRSASize "+bits+"\n")}
	}
	cfg := host.client()
	cfg.KnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "kh"), host.name()+" "+string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}
	cfg.Files = limit("2048")
	works(t, dial(t, cfg))
	cfg.Files = limit("2049")
	for _, policy := range []HostKeyPolicy{Strict, AcceptNew, Insecure} {
		cfg.HostKeys = policy
		failure(t, cfg, KindAlgorithm, "2048 bits", "RequiredRSASize", "2049")
	}

	user := newServer(t, func(s *server) {
		s.config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }
	})
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"me"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, testSigner(t, otherKey)); err != nil {
		t.Fatal(err)
	}
	cfg = user.client()
	cfg.IdentityFiles, cfg.PrivateKeys = nil, []PEM{pem.EncodeToMemory(block)}
	cfg.Certificates = []string{writeFile(t, filepath.Join(t.TempDir(), "cert.pub"), string(ssh.MarshalAuthorizedKey(cert)))}
	cfg.Files = limit("2049")
	e := failure(t, cfg, KindAuth, "nothing could be tried")
	if n := strings.Count(e.Error(), "RSA key of 2048 bits"); n != 2 {
		t.Errorf("%q names %d keys that are too small, want the key and its certificate", e.Error(), n)
	}
	cfg.Files = limit("2048")
	works(t, dial(t, cfg))
}

// TestServersTextIsHarmless checks that what a server says cannot play with a terminal.
func TestServersTextIsHarmless(t *testing.T) {
	err := networkError("web", &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "\x1b]0;x\x07\r\n\x9b31m no"})
	if strings.ContainsAny(err.Error(), "\x1b\x07\r\n\u009b") {
		t.Errorf("%q", err.Error())
	}
}

func TestAlgorithms(t *testing.T) {
	old := func(s *server) {
		s.config.KeyExchanges = []string{ssh.InsecureKeyExchangeDH14SHA1}
		s.config.MACs = []string{ssh.HMACSHA1}
		s.config.Ciphers = []string{ssh.CipherAES128CTR}
	}
	s := newServer(t, old)
	cfg := s.client()
	failure(t, cfg, KindAlgorithm, "diffie-hellman-group14-sha1", "legacy")
	cfg.Legacy = true
	works(t, dial(t, cfg))
}

// TestHostileServers checks that a server which sends without end, or not at all, is left
// after a bounded time and amount.
func TestHostileServers(t *testing.T) {
	flood := func(s *server) {
		s.config.BannerCallback = func(ssh.ConnMetadata) string { return strings.Repeat("x", 100<<10) }
	}
	banner := newServer(t, flood)
	t.Run("banner", func(t *testing.T) { // of more than 64 KiB
		cfg := banner.client()
		failure(t, cfg, KindProtocol, "text without end")
	})
	raw := func(handle func(c net.Conn)) Config {
		s := &server{tb: t}
		s.addr = s.listen(func(c net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, c) }()
			handle(c)
		})
		return s.client()
	}
	forEver := func(text string) func(c net.Conn) {
		return func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, text); err != nil {
					return
				}
			}
		}
	}
	for name, handle := range map[string]func(c net.Conn){
		"lines before the version": forEver("hello\r\n"),
		"one line without end":     forEver(strings.Repeat("x", 1000)),
		"version, then rubbish": func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-x\r\n")
			forEver("\x00\x00\x00\x0c\x0a\x02\x00")(c)
		},
		"version, then nothing": func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-x\r\n"); _, _ = io.Copy(io.Discard, c) },
		// Packets of SSH_MSG_IGNORE before the key exchange, as many as can be.
		"ignored packets": func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-x\r\n")
			packet := append([]byte{0, 0, 0, 12, 6, 2, 0, 0, 0, 0}, bytes.Repeat([]byte{0}, 6)...)
			forEver(string(packet))(c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, kind := raw(handle), KindProtocol
			if name == "version, then nothing" {
				cfg.LoginTimeout, kind = 50*time.Millisecond, KindTimeout
			}
			failure(t, cfg, kind) // within patience
		})
	}
}

// TestCancel checks that the context ends each stage, at once and without leaving anything.
func TestCancel(t *testing.T) {
	stuck := func() (Config, chan struct{}) {
		reached := make(chan struct{}, 1)
		s := &server{tb: t}
		s.addr = s.listen(func(c net.Conn) {
			reached <- struct{}{}
			_, _ = io.Copy(io.Discard, c)
		})
		return s.client(), reached
	}
	t.Run("login", func(t *testing.T) {
		cfg, reached := stuck()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-reached
			cancel()
		}()
		if _, err := Dial(ctx, cfg); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("login behind a jump host", func(t *testing.T) {
		cfg, reached := stuck()
		jump := newServer(t, func(s *server) { s.forward = true })
		cfg.Jump = "me@127.0.0.1:" + jump.name()[len("[127.0.0.1]:"):]
		cfg.KnownHosts = []string{jump.known(hostKey)}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-reached
			cancel()
		}()
		if _, err := Dial(ctx, cfg); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("session", func(t *testing.T) {
		started := make(chan struct{}, 1)
		s := newServer(t, func(s *server) {
			s.session = func(ch ssh.Channel) {
				started <- struct{}{}
				_, _ = io.Copy(io.Discard, ch)
			}
		})
		c := dial(t, s.client())
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-started
			cancel()
		}()
		if _, err := c.SFTP(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("while another is asked", func(t *testing.T) {
		asked := make(chan struct{})
		cfg := newServer(t, nil).client()
		cfg.IdentityFiles = []string{keyFile(t, userKey, "x")}
		cfg.Passphrase.Ask = func(ctx context.Context, _ string) ([]byte, error) {
			close(asked)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		d, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		first, stop := context.WithCancel(t.Context())
		var g errgroup.Group
		g.Go(func() error {
			_, err := d.Dial(first)
			return err
		})
		<-asked
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := d.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) || KindOf(err) != KindTimeout {
			t.Errorf("the second one: %v", err)
		}
		stop()
		if err := g.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("the first one: %v", err)
		}
	})
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		cfg, _ := stuck()
		if _, err := Dial(ctx, cfg); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
}

// TestLost checks what is said about a connection that the server closes.
func TestLost(t *testing.T) {
	s := newServer(t, nil)
	c := dial(t, s.client())
	client, err := c.SFTP(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.cut()
	<-c.Done()
	checkError(t, c.Err(), KindClosed)
	if _, err := client.Stat("/"); err == nil {
		t.Error("a lost connection answers")
	}
	if _, err := c.SFTP(t.Context()); err == nil {
		t.Error("a session on a lost connection")
	}
}

// greet is a session of a shell whose start files print something, and of the SFTP that it starts then.
func greet(ch ssh.Channel) {
	_, _ = io.WriteString(ch, "Welcome to \x1b[31mdb1!\n\x00\x00\x00\x05\x02\x00\x00\x00\x03")
	_, _ = io.Copy(io.Discard, ch)
}

func TestSessions(t *testing.T) {
	exit := func(ch ssh.Channel, status byte) {
		_, _ = ch.SendRequest("exit-status", false, []byte{0, 0, 0, status})
	}
	for name, test := range map[string]struct {
		change func(s *server)
		kind   Kind
		parts  []string
	}{
		"no subsystem": {func(s *server) { s.noSubsystem = true }, KindSubsystem, []string{"refuses the subsystem", "Subsystem sftp"}},
		"text":         {func(s *server) { s.session = greet }, KindSubsystem, []string{`text instead of SFTP: "Welcome to ?[31mdb1!"`, "start files"}},
		"program missing": {func(s *server) {
			s.session = func(ch ssh.Channel) {
				_, _ = io.WriteString(ch.Stderr(), "bash: sftp-server: not found\n")
				exit(ch, 127)
			}
		}, KindSubsystem, []string{"exit status 127", "sftp-server: not found"}},
		"chroot": {func(s *server) {
			s.session = func(ch ssh.Channel) {
				_, _ = io.WriteString(ch.Stderr(), "/srv/jail: no such chroot directory\n")
				exit(ch, 255)
			}
		}, KindChroot, []string{"/srv/jail", "ChrootDirectory"}},
		"thrown out": {func(s *server) { s.session = func(ssh.Channel) { s.cut() } }, KindChroot, []string{"closed the connection", "ChrootDirectory"}},
	} {
		t.Run(name, func(t *testing.T) {
			failure(t, newServer(t, test.change).client(), test.kind, test.parts...)
			streamFailure(t, newServer(t, test.change).client(), test.kind, test.parts...)
		})
	}
}
