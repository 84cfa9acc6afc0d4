package sshclient

import (
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// algorithms are what is offered to a server, best first.
type algorithms struct {
	kex, ciphers, macs, hostKeys, publicKeys []string
}

// defaultAlgorithms are the choices of our own server (sshsrv) and what other servers of
// the last ten years need besides: NIST curves and chacha20-poly1305 behind the rest, since
// a client that insists only cannot connect. Left out: SHA-1, CBC, and MACs that are not
// encrypt-then-MAC. legacy adds what devices of about 2010 need.
func defaultAlgorithms(legacy bool) algorithms {
	a := algorithms{
		kex: []string{
			ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, "curve25519-sha256@libssh.org", ssh.KeyExchangeDH16SHA512,
			ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384, ssh.KeyExchangeECDHP521, ssh.KeyExchangeDH14SHA256,
		},
		ciphers: []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305, ssh.CipherAES256CTR, ssh.CipherAES128CTR},
		macs:    []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
		hostKeys: []string{
			ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
			ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
			ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
			ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
		},
		publicKeys: []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
			ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
			ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
		},
	}
	if legacy {
		a.kex = append(a.kex, ssh.InsecureKeyExchangeDH14SHA1, ssh.InsecureKeyExchangeDH1SHA1)
		a.ciphers = append(a.ciphers, ssh.CipherAES192CTR, ssh.InsecureCipherAES128CBC, ssh.InsecureCipherTripleDESCBC)
		a.macs = append(a.macs, ssh.HMACSHA256, ssh.HMACSHA512, ssh.HMACSHA1, ssh.InsecureHMACSHA196)
		a.hostKeys = append(a.hostKeys, ssh.KeyAlgoRSA)
		a.publicKeys = append(a.publicKeys, ssh.KeyAlgoRSA)
	}
	return a
}

// algorithms applies ssh_config's lists to the defaults.
func (v *values) algorithms(h *hop, legacy bool) {
	good, bad := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	h.algorithms = defaultAlgorithms(legacy)
	a := &h.algorithms
	for _, list := range []struct {
		key       string
		use       *[]string
		good, bad []string
	}{
		{"kexalgorithms", &a.kex, append(good.KeyExchanges, "curve25519-sha256@libssh.org"), bad.KeyExchanges},
		{"ciphers", &a.ciphers, good.Ciphers, bad.Ciphers},
		{"macs", &a.macs, good.MACs, bad.MACs},
		{"hostkeyalgorithms", &a.hostKeys, good.HostKeys, bad.HostKeys},
		{"pubkeyacceptedalgorithms", &a.publicKeys, good.PublicKeyAuths, bad.PublicKeyAuths},
		{"pubkeyacceptedkeytypes", &a.publicKeys, good.PublicKeyAuths, bad.PublicKeyAuths},
	} {
		spec := v.one(list.key, "")
		if spec == "" {
			continue
		}
		known := slices.Concat(list.good, list.bad)
		*list.use = assemble(*list.use, known, spec)
		if len(*list.use) == 0 && v.err == nil {
			v.err = unsupported(v.o.first[list.key], "none of "+spec)
		}
	}
}

// assemble applies a list of ssh_config to a default list: "+" appends, "-" removes
// patterns, "^" puts in front, anything else replaces it. What x/crypto does not know is
// left out.
func assemble(def, known []string, spec string) []string {
	if spec == "" {
		return def
	}
	op, list := spec[0], strings.Split(spec, ",")
	if strings.IndexByte("+-^", op) >= 0 {
		list = strings.Split(spec[1:], ",")
	} else {
		op, def = '+', nil
	}
	if op == '-' {
		return slices.DeleteFunc(slices.Clone(def), func(a string) bool {
			return slices.ContainsFunc(list, func(p string) bool { return matchPattern(p, a) })
		})
	}
	var named []string
	for _, a := range list {
		// The SHA-1 RSA algorithm is not in x/crypto's lists of host keys, but works.
		if slices.Contains(known, a) || a == ssh.KeyAlgoRSA {
			named = append(named, a)
		}
	}
	if op == '^' {
		return unique(slices.Concat(named, def))
	}
	return unique(slices.Concat(def, named))
}

// unique drops what comes again.
func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// knownKeyword reports whether ssh_config(5) of OpenSSH 10 has a keyword, in lower case.
func knownKeyword(key string) bool {
	const keywords = ` addkeystoagent addressfamily batchmode bindaddress bindinterface canonicaldomains
 canonicalizefallbacklocal canonicalizehostname canonicalizemaxdots canonicalizepermittedcnames casignaturealgorithms
 certificatefile challengeresponseauthentication channeltimeout checkhostip ciphers clearallforwardings compression
 connectionattempts connecttimeout controlmaster controlpath controlpersist dynamicforward enableescapecommandline
 enablesshkeysign escapechar exitonforwardfailure fingerprinthash forkafterauthentication forwardagent forwardx11
 forwardx11timeout forwardx11trusted gatewayports globalknownhostsfile gssapiauthentication gssapidelegatecredentials
 gssapikeyexchange gssapikexalgorithms gssapiclientidentity gssapiserveridentity gssapirenewalforcesrekey gssapitrustdns
 hashknownhosts hostbasedacceptedalgorithms hostbasedauthentication hostbasedkeytypes hostkeyalgorithms hostkeyalias
 hostname identitiesonly identityagent identityfile ignoreunknown ipqos kbdinteractiveauthentication kbdinteractivedevices
 kexalgorithms knownhostscommand localcommand localforward loglevel logverbose macs nohostauthenticationforlocalhost
 numberofpasswordprompts obscurekeystroketiming passwordauthentication permitlocalcommand permitremoteopen pkcs11provider
 port preferredauthentications protocol proxycommand proxyjump proxyusefdpass pubkeyacceptedalgorithms
 pubkeyacceptedkeytypes pubkeyauthentication refuseconnection rekeylimit remotecommand remoteforward requesttty
 requiredrsasize revokedhostkeys securitykeyprovider sendenv serveralivecountmax serveraliveinterval sessiontype setenv
 smartcarddevice stdinnull streamlocalbindmask streamlocalbindunlink stricthostkeychecking syslogfacility tag tcpkeepalive
 tunnel tunneldevice updatehostkeys usekeychain user userknownhostsfile useroaming verifyhostkeydns versionaddendum
 visualhostkey warnweakcrypto xauthlocation `
	for word := range strings.FieldsSeq(keywords) {
		if word == key {
			return true
		}
	}
	return false
}
