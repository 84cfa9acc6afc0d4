package sshclient

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// maxKeySize is the size of a file with a key or certificate, in bytes: RSA keys of 16,384
// bits have 13 KiB.
const maxKeySize = 256 << 10

// privateKey is a key that may be used, from a file or as text. An encrypted one is opened
// when a server has accepted it.
type privateKey struct {
	name string // the file, or "private key 1"
	pub  ssh.PublicKey
	pem  []byte // nil when there is only a public key, for the agent
}

// loadKey reads a key file. The public key of an encrypted one comes from the file itself
// (OpenSSH format) or from FILE.pub. A file that holds a public key, or a FILE.pub alone,
// names a key of the agent.
func loadKey(file string) (*privateKey, error) {
	data, err := readLimited(file, maxKeySize)
	if errors.Is(err, fs.ErrNotExist) {
		if pub, perr := loadPublic(file + ".pub"); perr == nil {
			return &privateKey{name: file, pub: pub}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if pub, _, _, _, perr := ssh.ParseAuthorizedKey(data); perr == nil {
		return &privateKey{name: file, pub: pub}, nil
	}
	if err := checkKeyMode(file); err != nil {
		return nil, err
	}
	return parseKey(file, data, func() (ssh.PublicKey, error) { return loadPublic(file + ".pub") })
}

// parseKey takes the public key out of a private one; public is asked for that of an
// encrypted key which does not tell.
func parseKey(name string, data []byte, public func() (ssh.PublicKey, error)) (*privateKey, error) {
	key := &privateKey{name: name, pem: data}
	signer, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		key.pub = signer.PublicKey()
	case errors.As(err, &locked) && locked.PublicKey != nil:
		key.pub = locked.PublicKey
	case errors.As(err, &locked):
		if key.pub, err = public(); err != nil {
			return nil, fmt.Errorf("%s: encrypted, and there is no %s.pub that tells its public key", name, name)
		}
	case bytes.HasPrefix(data, []byte("PuTTY-User-Key-File")):
		return nil, fmt.Errorf("%s: a key of PuTTY: convert it with puttygen -O private-openssh", name)
	default:
		// The parser's errors have no bytes of the key.
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

func loadPublic(file string) (ssh.PublicKey, error) {
	data, err := readLimited(file, maxKeySize)
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return pub, nil
}

// loadCertificate reads a user certificate.
func loadCertificate(file string) (*ssh.Certificate, error) {
	pub, err := loadPublic(file)
	if err != nil {
		return nil, err
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok || cert.CertType != ssh.UserCert {
		return nil, fmt.Errorf("%s: not a user certificate", file)
	}
	return cert, nil
}

// checkKeyMode refuses a key of this account that others may read, as ssh does.
func checkKeyMode(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(st.Uid) == os.Getuid() && info.Mode()&0o077 != 0 {
		return fmt.Errorf("%s: others may read it (mode %04o): chmod 600", file, info.Mode().Perm())
	}
	return nil
}

// open returns the signer of a key; what was opened once stays open, so that several
// connections ask for one passphrase.
func (d *Dialer) open(ctx context.Context, key *privateKey) (ssh.Signer, error) {
	if err := d.lock(ctx); err != nil {
		return nil, err
	}
	defer d.unlock()
	id := string(key.pub.Marshal())
	if s := d.opened[id]; s != nil {
		return s, nil
	}
	signer, err := ssh.ParsePrivateKey(key.pem)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		signer, err = d.decrypt(ctx, key)
	}
	if err != nil {
		return nil, err
	}
	d.opened[id] = signer
	return signer, nil
}

func (d *Dialer) decrypt(ctx context.Context, key *privateKey) (ssh.Signer, error) {
	if d.cfg.Passphrase.IsZero() {
		return nil, &Error{
			Kind: KindEncryptedKey, Detail: key.name + " is encrypted, and the server would take it",
			Hint: "give the passphrase by a file or environment variable, or load the key into an agent that runs (ssh-add) and set SSH_AUTH_SOCK",
		}
	}
	phrase, err := d.cfg.Passphrase.read(ctx, d.local.getenv, "passphrase of "+key.name)
	if err != nil {
		return nil, fmt.Errorf("passphrase of %s: %w", key.name, err)
	}
	signer, err := ssh.ParsePrivateKeyWithPassphrase(key.pem, phrase)
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, &Error{Kind: KindKey, Detail: key.name + ": wrong passphrase", Hint: "try it with: ssh-keygen -y -f " + quoteArg(key.name)}
	}
	if err != nil {
		return nil, &Error{Kind: KindKey, Detail: key.name, Err: err}
	}
	return signer, nil
}

// candidate is a key, or a certificate for it, to offer to a server.
type candidate struct {
	name   string // for messages
	signer ssh.Signer
}

// keySigner offers a public key, and signs with what open returns.
type keySigner struct {
	pub   ssh.PublicKey
	algos []string // of signatures, best first
	open  func() (ssh.Signer, error)
}

func (s *keySigner) PublicKey() ssh.PublicKey { return s.pub }
func (s *keySigner) Algorithms() []string     { return s.algos }

func (s *keySigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, s.algos[0])
}

func (s *keySigner) SignWithAlgorithm(rand io.Reader, data []byte, algo string) (*ssh.Signature, error) {
	signer, err := s.open()
	if err != nil {
		return nil, err
	}
	if as, ok := signer.(ssh.AlgorithmSigner); ok {
		return as.SignWithAlgorithm(rand, data, algo)
	}
	return signer.Sign(rand, data)
}

// signatureAlgorithms are those of allowed that a key can sign with, in allowed's order.
func signatureAlgorithms(pub ssh.PublicKey, allowed []string) []string {
	if cert, ok := pub.(*ssh.Certificate); ok {
		pub = cert.Key
	}
	var out []string
	for _, algo := range allowed {
		if keyTypeOf(algo) == pub.Type() && !slices.Contains(out, algo) {
			out = append(out, algo)
		}
	}
	return out
}

// checkRSASize says why a key, or the key of a certificate, is too small for the hop; nil for one
// that is not.
func (h *hop) checkRSASize(pub ssh.PublicKey) error {
	if cert, ok := pub.(*ssh.Certificate); ok {
		pub = cert.Key
	}
	key, ok := pub.(ssh.CryptoPublicKey)
	if !ok {
		return nil
	}
	if k, ok := key.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() < h.rsaBits {
		return fmt.Errorf("RSA key of %d bits, and RequiredRSASize of ssh_config is %d", k.N.BitLen(), h.rsaBits)
	}
	return nil
}

// nameKey is a key in messages.
func nameKey(source string, pub ssh.PublicKey) string {
	what := ""
	if cert, ok := pub.(*ssh.Certificate); ok {
		what, pub = "certificate for ", cert.Key
	}
	return fmt.Sprintf("%s (%s%s %s)", source, what, strings.ToUpper(shortName(pub.Type())), ssh.FingerprintSHA256(pub))
}

// shortName is a key's type as ssh-keygen shows it.
func shortName(typ string) string {
	switch typ {
	case ssh.KeyAlgoSKED25519:
		return "ed25519-sk"
	case ssh.KeyAlgoSKECDSA256:
		return "ecdsa-sk"
	}
	return shortType(typ)
}
