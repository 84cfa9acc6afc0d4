package sshsrv

import (
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"
)

// profile is a choice of algorithms.
type profile struct {
	kex, ciphers, macs, hostKeys, publicKeys []string
}

// algorithms returns the algorithms that are offered, best first. Left out on purpose:
// the NIST curves for key exchange, SHA-1, CBC, MACs that are not encrypt-then-MAC, and
// chacha20-poly1305 unless asked for. legacy adds what devices of about 2010 need.
func algorithms(legacy, chacha bool) profile {
	p := profile{
		kex:     []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, ssh.KeyExchangeDH16SHA512},
		ciphers: []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherAES256CTR, ssh.CipherAES128CTR},
		macs:    []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
		hostKeys: []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
			ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
		},
		publicKeys: []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
			ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
			ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
		},
	}
	if chacha {
		p.ciphers = append(p.ciphers, ssh.CipherChaCha20Poly1305)
	}
	if legacy {
		p.kex = append(p.kex, ssh.KeyExchangeECDHP256, ssh.KeyExchangeDH14SHA256, ssh.InsecureKeyExchangeDH14SHA1)
		p.macs = append(p.macs, ssh.HMACSHA256, ssh.HMACSHA512, ssh.HMACSHA1)
		p.hostKeys = append(p.hostKeys, ssh.KeyAlgoRSA)
		p.publicKeys = append(p.publicKeys, ssh.KeyAlgoRSA)
	}
	return p
}

// serverConfig makes the part of a connection's configuration that the profile decides.
func (p profile) serverConfig(keys []ssh.Signer) (*ssh.ServerConfig, error) {
	cfg := &ssh.ServerConfig{PublicKeyAuthAlgorithms: p.publicKeys}
	cfg.KeyExchanges, cfg.Ciphers, cfg.MACs = p.kex, p.ciphers, p.macs
	for _, key := range keys {
		signer, err := p.hostKey(key)
		if err != nil {
			return nil, err
		}
		cfg.AddHostKey(signer)
	}
	return cfg, nil
}

// hostKey restricts a key to the signature algorithms of the profile.
func (p profile) hostKey(key ssh.Signer) (ssh.Signer, error) {
	typ := key.PublicKey().Type()
	if typ != ssh.KeyAlgoRSA {
		if !slices.Contains(p.hostKeys, typ) {
			return nil, fmt.Errorf("host key type %s is not supported", typ)
		}
		return key, nil
	}
	multi, ok := key.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("host key of type %s cannot sign with SHA-2", typ)
	}
	var algos []string
	for _, a := range p.hostKeys {
		switch a {
		case ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA:
			algos = append(algos, a)
		}
	}
	signer, err := ssh.NewSignerWithAlgorithms(multi, algos)
	if err != nil {
		return nil, fmt.Errorf("host key of type %s: %w", typ, err)
	}
	return signer, nil
}
