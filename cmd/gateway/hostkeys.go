package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
)

// hostKeyDir is where host keys are made in data_dir.
const hostKeyDir = "hostkeys"

// rsaBits is the size of RSA host keys: good until 2030 and beyond (NIST SP 800-57).
const rsaBits = 3072

// hostKeys loads the host keys that the configuration names, or else those in data_dir,
// where missing ones are made: Ed25519, ECDSA P-256 and RSA.
func hostKeys(cfg *config.Config) ([]ssh.Signer, error) {
	if cfg.SFTP != nil && len(cfg.SFTP.HostKeys) > 0 {
		return loadHostKeys(cfg.SFTP.HostKeys)
	}
	dir := filepath.Join(cfg.DataDir, hostKeyDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("host keys: %w", err)
	}
	var names []string
	for _, k := range []struct {
		name string
		make func() (crypto.PrivateKey, error)
	}{
		{"ssh_host_ed25519_key", func() (crypto.PrivateKey, error) {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			return key, err
		}},
		{"ssh_host_ecdsa_key", func() (crypto.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }},
		{"ssh_host_rsa_key", func() (crypto.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, rsaBits) }},
	} {
		name := filepath.Join(dir, k.name)
		names = append(names, name)
		if _, err := os.Lstat(name); err == nil || !errors.Is(err, fs.ErrNotExist) {
			continue // there, or loading it will say what is wrong
		}
		if err := makeHostKey(name, k.make); err != nil {
			return nil, fmt.Errorf("make host key %s: %w", name, err)
		}
	}
	return loadHostKeys(names)
}

// makeHostKey makes a key in OpenSSH's format, with its public half beside it.
func makeHostKey(name string, generate func() (crypto.PrivateKey, error)) error {
	key, err := generate()
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "gateway")
	if err != nil {
		return err
	}
	if err := writeNew(name+".pub", ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o644); err != nil {
		return err
	}
	return writeNew(name, pem.EncodeToMemory(block), 0o600)
}

// writeNew writes a file durably and at once: after a crash it is there as a whole or not
// at all. A file that is there is replaced.
func writeNew(name string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// loadHostKeys reads private keys. Like sshd it refuses those that others may read.
func loadHostKeys(names []string) ([]ssh.Signer, error) {
	keys := make([]ssh.Signer, 0, len(names))
	for _, name := range names {
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &hintedError{
				err: fmt.Errorf("host key %s: no such file", name),
				hint: fmt.Sprintf("make it: ssh-keygen -t ed25519 -N '' -f %s; or leave sftp.host_keys out to have keys made",
					shellQuote(name)),
			}
		}
		if err != nil {
			return nil, fmt.Errorf("host key: %w", err)
		}
		if perm := info.Mode().Perm(); perm&0o077 != 0 {
			return nil, &hintedError{
				err:  fmt.Errorf("host key %s: others can read it (mode %04o)", name, perm),
				hint: "run: chmod 600 " + name,
			}
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("host key: %w", err)
		}
		key, err := ssh.ParsePrivateKey(data)
		var protected *ssh.PassphraseMissingError
		switch {
		case errors.As(err, &protected):
			return nil, &hintedError{
				err:  fmt.Errorf("host key %s: it is protected by a passphrase", name),
				hint: fmt.Sprintf("remove the passphrase: ssh-keygen -p -N '' -f %s", shellQuote(name)),
			}
		case err != nil:
			return nil, &hintedError{
				err:  fmt.Errorf("host key %s: %w", name, err),
				hint: "name the private key, not the .pub file; to have a new one made, leave sftp.host_keys out",
			}
		}
		keys = append(keys, key)
	}
	return keys, nil
}
