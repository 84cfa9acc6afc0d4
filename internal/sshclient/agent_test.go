package sshclient

import (
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// newAgent serves an agent with keys, and returns its socket.
func newAgent(t *testing.T, keys ...agent.AddedKey) string {
	t.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "sg") // sockets need short paths
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer conn.Close()
				_ = agent.ServeAgent(ring, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		tasks.Wait()
		_ = os.RemoveAll(dir)
	})
	return socket
}

func added(t *testing.T, n byte) agent.AddedKey {
	t.Helper()
	key := testKey(t, n)
	return agent.AddedKey{PrivateKey: &key}
}

// userCertificate is a certificate that authority 41 signs for a user's key.
func userCertificate(t *testing.T, n byte) *ssh.Certificate {
	t.Helper()
	cert := &ssh.Certificate{Key: testPublicKey(t, n), CertType: ssh.UserCert, ValidPrincipals: []string{"me"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, testSigner(t, 41)); err != nil {
		t.Fatal(err)
	}
	return cert
}

// byCertificate lets certificates of authority 41 in, and no plain key.
func byCertificate(t *testing.T) func(s *server) {
	return func(s *server) {
		authority := testPublicKey(t, 41)
		checker := &ssh.CertChecker{IsUserAuthority: func(key ssh.PublicKey) bool { return sameKey(key, authority) }}
		s.config.PublicKeyCallback = checker.Authenticate
	}
}

func TestAgent(t *testing.T) {
	fingerprint := func(n byte) string { return ssh.FingerprintSHA256(testPublicKey(t, n)) }
	const first, second = 51, 52
	socket := newAgent(t, added(t, first), added(t, second), added(t, userKey))
	s := newServer(t, nil)
	for name, test := range map[string]struct {
		change func(c *Config)
		offers []string
		ok     bool
	}{
		"all":  {func(c *Config) { c.IdentityFiles = nil }, []string{fingerprint(first), fingerprint(second), fingerprint(userKey)}, true},
		"none": {func(c *Config) { c.IdentityFiles, c.Agent = nil, AgentNone }, nil, false},
		// The agent signs for an encrypted file that was named.
		"encrypted file": {func(c *Config) { c.IdentityFiles = []string{keyFile(t, userKey, "x")} }, []string{fingerprint(userKey)}, true},
		"public key file": {func(c *Config) {
			c.IdentityFiles = []string{writeFile(t, filepath.Join(t.TempDir(), "k.pub"), string(ssh.MarshalAuthorizedKey(testPublicKey(t, userKey))))}
		}, []string{fingerprint(userKey)}, true},
		"public key beside": {func(c *Config) {
			file := filepath.Join(t.TempDir(), "k")
			writeFile(t, file+".pub", string(ssh.MarshalAuthorizedKey(testPublicKey(t, userKey))))
			c.IdentityFiles = []string{file}
		}, []string{fingerprint(userKey)}, true},
		"identities only": {func(c *Config) {
			c.IdentityFiles = []string{keyFile(t, second, "")}
			c.Files = []string{writeFile(t, filepath.Join(t.TempDir(), "c"), "IdentitiesOnly yes\n")}
		}, []string{fingerprint(second)}, false},
		"named first": {func(c *Config) { c.IdentityFiles = []string{keyFile(t, second, "")} },
			[]string{fingerprint(second), fingerprint(first), fingerprint(userKey)}, true},
		"default files last": {func(c *Config) {
			c.IdentityFiles = nil
			writeFile(t, filepath.Join(c.local.home, ".ssh", "id_ed25519"), string(keyPEM(t, 53, "")))
		}, []string{fingerprint(first), fingerprint(second), fingerprint(userKey)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.offers())
			cfg := s.client()
			cfg.Agent = socket
			test.change(&cfg)
			if test.ok {
				works(t, dial(t, cfg))
			} else {
				failure(t, cfg, KindAuth)
			}
			// A key that is taken is offered twice: to ask, and signed.
			if got := slices.Compact(s.offers()[before:]); !slices.Equal(got, test.offers) {
				t.Errorf("offered %v, want %v", got, test.offers)
			}
		})
	}
	t.Run("socket missing", func(t *testing.T) {
		cfg := s.client()
		cfg.IdentityFiles, cfg.Agent = nil, filepath.Join(t.TempDir(), "none")
		failure(t, cfg, KindAuth, "left out: agent", "none")
	})
}

func TestUserCertificates(t *testing.T) {
	s := newServer(t, byCertificate(t))
	text := string(ssh.MarshalAuthorizedKey(userCertificate(t, userKey)))
	for name, change := range map[string]func(c *Config){
		"beside the key": func(c *Config) { writeFile(t, c.IdentityFiles[0]+"-cert.pub", text) },
		"beside an encrypted key": func(c *Config) {
			c.IdentityFiles, c.Passphrase.Bytes = []string{keyFile(t, userKey, "x")}, []byte("x")
			writeFile(t, c.IdentityFiles[0]+"-cert.pub", text)
		},
		"named": func(c *Config) { c.Certificates = []string{writeFile(t, filepath.Join(t.TempDir(), "c.pub"), text)} },
		"named, key in the agent": func(c *Config) {
			c.IdentityFiles, c.Agent = nil, newAgent(t, added(t, userKey))
			c.Certificates = []string{writeFile(t, filepath.Join(t.TempDir(), "c.pub"), text)}
		},
		"in the agent": func(c *Config) {
			key := added(t, userKey)
			key.Certificate = userCertificate(t, userKey)
			c.IdentityFiles, c.Agent = nil, newAgent(t, key)
		},
		"named by the ssh_config": func(c *Config) {
			cert := writeFile(t, filepath.Join(t.TempDir(), "c.pub"), text)
			c.Files = []string{writeFile(t, filepath.Join(t.TempDir(), "c"), "CertificateFile "+cert+"\nIdentitiesOnly yes\n")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.client()
			change(&cfg)
			works(t, dial(t, cfg))
		})
	}
	t.Run("none", func(t *testing.T) { failure(t, s.client(), KindAuth) })
	t.Run("unreadable", func(t *testing.T) {
		cfg := s.client()
		cfg.Certificates = []string{writeFile(t, filepath.Join(t.TempDir(), "c.pub"), "rubbish")}
		failure(t, cfg, KindAuth, "left out", "c.pub")
	})
}
