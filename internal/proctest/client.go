package proctest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/ssh"
)

// Client is what programs need to log in to a test gateway.
type Client struct {
	Port       int
	KeyFile    string // private key in OpenSSH's form, accepted for every user
	KnownHosts string // the gateway's host keys
	SSHConfig  string // for ssh -F: any host name leads to the gateway
	Password   string // of every user

	signer       ssh.Signer
	publicKey    string // a line of authorized_keys
	passwordHash string
	hostKeys     []ssh.PublicKey
}

func newClient(tb testing.TB, dir string, port int) *Client {
	tb.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "test")
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	c := &Client{
		Port: port, KeyFile: filepath.Join(dir, "id_ed25519"), KnownHosts: filepath.Join(dir, "known_hosts"),
		SSHConfig: filepath.Join(dir, "ssh_config"), Password: "pass word 1", signer: signer,
		publicKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))),
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(c.Password), bcrypt.MinCost+2)
	if err != nil {
		tb.Fatal(err)
	}
	c.passwordHash = string(hash)
	write(tb, c.KeyFile, string(pem.EncodeToMemory(block)))
	write(tb, c.SSHConfig, fmt.Sprintf(`Host *
  HostName 127.0.0.1
  HostKeyAlias gateway
  Port %d
  IdentityFile %s
  IdentitiesOnly yes
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
  ServerAliveInterval 15
`, port, c.KeyFile, c.KnownHosts))
	return c
}

// Addr is the gateway's address, host:port.
func (c *Client) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)) }

// Fingerprints are the SHA-256 fingerprints of the gateway's host keys, as OpenSSH and
// PuTTY write them.
func (c *Client) Fingerprints() []string {
	var out []string
	for _, key := range c.hostKeys {
		out = append(out, ssh.FingerprintSHA256(key))
	}
	return out
}

var errGotKey = errors.New("host key received")

// learnHostKeys asks the gateway for each kind of host key and writes KnownHosts.
func (c *Client) learnHostKeys(ctx context.Context) error {
	c.hostKeys = nil
	var lines strings.Builder
	for _, algorithm := range hostKeyAlgorithms() {
		var key ssh.PublicKey
		config := &ssh.ClientConfig{User: "nobody", HostKeyAlgorithms: []string{algorithm}, Timeout: 10 * time.Second,
			HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
				key = k
				return errGotKey
			}}
		_, err := c.dial(ctx, config)
		if key == nil {
			return fmt.Errorf("asking for the host key %s: %w", algorithm, err)
		}
		c.hostKeys = append(c.hostKeys, key)
		fmt.Fprintf(&lines, "gateway,[127.0.0.1]:%d %s", c.Port, ssh.MarshalAuthorizedKey(key))
	}
	if err := os.WriteFile(c.KnownHosts, []byte(lines.String()), 0o600); err != nil {
		return fmt.Errorf("writing known hosts: %w", err)
	}
	return nil
}

func (c *Client) dial(ctx context.Context, config *ssh.ClientConfig) (*ssh.Client, error) {
	dialer := net.Dialer{Timeout: config.Timeout}
	conn, err := dialer.DialContext(ctx, "tcp", c.Addr())
	if err != nil {
		return nil, err
	}
	sc, channels, requests, err := ssh.NewClientConn(conn, c.Addr(), config)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return ssh.NewClient(sc, channels, requests), nil
}

// SFTP is a session of a user, for what tests look up themselves. Close ends it with its
// connection.
type SFTP struct {
	*sftp.Client
	conn *ssh.Client
}

// Login opens a session of a user.
func (c *Client) Login(ctx context.Context, user string) (*SFTP, error) {
	config := &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(c.signer)},
		HostKeyCallback: ssh.FixedHostKey(c.hostKeys[0]), HostKeyAlgorithms: hostKeyAlgorithms()[:1], Timeout: 10 * time.Second}
	conn, err := c.dial(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("logging in: %w", err)
	}
	client, err := sftp.NewClient(conn)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("starting sftp: %w", err)
	}
	return &SFTP{Client: client, conn: conn}, nil
}

// Close ends the session and its connection.
func (s *SFTP) Close() error { return errors.Join(s.Client.Close(), s.conn.Close()) }
