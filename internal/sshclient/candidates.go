package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// maxKeyTries is how many keys a server is offered: OpenSSH's server ends the connection at
// the sixth failure (MaxAuthTries), so a password still fits behind five keys.
const maxKeyTries = 5

// agentKey is a key that the agent holds.
type agentKey struct {
	pub    ssh.PublicKey
	signer ssh.Signer
	name   string
}

// keyring collects what can be offered to one hop.
type keyring struct {
	d       *Dialer
	h       *hop
	agent   []agentKey
	certs   []*ssh.Certificate
	offered map[string]bool // by wire format
	list    []candidate
	skipped []string // reasons, for the error when all else fails
}

// keyring reads the keys for a hop, in the order in which to offer them: those that the
// settings and ssh_config name (certificates first, the agent's copy instead of a file that
// needs a passphrase), then the agent's others, then the default files. conn is the agent's
// connection, which signs; nil without one.
func (d *Dialer) keyring(ctx context.Context, h *hop, target bool, conn net.Conn) *keyring {
	k := &keyring{d: d, h: h, offered: map[string]bool{}}
	if conn != nil {
		k.readAgent(conn)
	}
	for _, file := range h.certificates {
		k.addCertificate(file, true)
	}
	keys, defaults := k.readFiles(target)
	for _, key := range keys {
		k.offer(ctx, key)
	}
	for _, a := range k.agent {
		for _, cert := range k.certs {
			if sameKey(cert.Key, a.pub) {
				k.add(a.name, cert, func() (ssh.Signer, error) { return a.signer, nil })
			}
		}
	}
	if !h.identitiesOnly {
		for _, a := range k.agent {
			k.add(a.name, a.pub, func() (ssh.Signer, error) { return a.signer, nil })
		}
	}
	for _, key := range defaults {
		k.offer(ctx, key)
	}
	return k
}

// readFiles reads the key files, and the certificates beside them.
func (k *keyring) readFiles(target bool) (named, defaults []*privateKey) {
	if target {
		for i, pem := range k.d.cfg.PrivateKeys {
			key, err := parseKey(fmt.Sprintf("private key %d", i+1), pem, func() (ssh.PublicKey, error) { return nil, fs.ErrNotExist })
			if err != nil {
				k.skipped = append(k.skipped, err.Error())
				continue
			}
			named = append(named, key)
		}
	}
	for _, id := range k.h.identities {
		key, err := loadKey(id.path)
		if err != nil {
			if id.explicit || !errors.Is(err, fs.ErrNotExist) {
				k.skipped = append(k.skipped, err.Error())
			}
			continue
		}
		k.addCertificate(id.path+"-cert.pub", false)
		if id.explicit {
			named = append(named, key)
		} else {
			defaults = append(defaults, key)
		}
	}
	return named, defaults
}

func (k *keyring) addCertificate(file string, must bool) {
	cert, err := loadCertificate(file)
	switch {
	case err == nil:
		k.certs = append(k.certs, cert)
	case must || !errors.Is(err, fs.ErrNotExist):
		k.skipped = append(k.skipped, err.Error())
	}
}

// offer adds a key with its certificates, by the agent when that holds it.
func (k *keyring) offer(ctx context.Context, key *privateKey) {
	name, open := key.name, func() (ssh.Signer, error) { return k.d.open(ctx, key) }
	held := false
	for _, a := range k.agent {
		if sameKey(a.pub, key.pub) {
			held, open = true, func() (ssh.Signer, error) { return a.signer, nil }
		}
	}
	if !held && key.pem == nil {
		k.skipped = append(k.skipped, key.name+": the private key is neither in a file nor in the agent")
		return
	}
	for _, cert := range k.certs {
		if sameKey(cert.Key, key.pub) {
			k.add(name, cert, open)
		}
	}
	k.add(name, key.pub, open)
}

// add appends a candidate that is not there yet and that can sign as the server may want.
func (k *keyring) add(name string, pub ssh.PublicKey, open func() (ssh.Signer, error)) {
	id := string(pub.Marshal())
	if k.offered[id] {
		return
	}
	k.offered[id] = true
	name = nameKey(name, pub)
	if err := k.h.checkRSASize(pub); err != nil {
		k.skipped = append(k.skipped, fmt.Sprintf("%s: %v", name, err))
		return
	}
	algos := signatureAlgorithms(pub, k.h.algorithms.publicKeys)
	if len(algos) == 0 {
		k.skipped = append(k.skipped, name+": keys of this type are not allowed")
		return
	}
	k.list = append(k.list, candidate{name: name, signer: &keySigner{pub: pub, algos: algos, open: open}})
}

// readAgent lists the agent's keys and certificates.
func (k *keyring) readAgent(conn net.Conn) {
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		k.skipped = append(k.skipped, fmt.Sprintf("agent %s: %v", k.h.agent, err))
		return
	}
	for _, s := range signers {
		pub, err := ssh.ParsePublicKey(s.PublicKey().Marshal())
		if err != nil {
			continue // of a type that x/crypto does not know
		}
		k.agent = append(k.agent, agentKey{pub: pub, signer: s, name: "agent"})
	}
}

// dialAgent connects to the hop's agent. The connection ends with ctx. Nil, with a reason or
// without, when there is none.
func dialAgent(ctx context.Context, h *hop) (conn net.Conn, why string) {
	if h.agent == "" {
		return nil, ""
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", h.agent)
	if err != nil {
		return nil, fmt.Sprintf("agent: %v", err)
	}
	return conn, ""
}
