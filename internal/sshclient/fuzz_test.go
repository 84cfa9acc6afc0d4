package sshclient

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// FuzzResolve reads any text as ssh_config: it must end, never panic, and give a hop whose
// names are safe as arguments of a program, or an error that says where.
func FuzzResolve(f *testing.F) {
	for _, c := range sshConfigs() {
		f.Add(c.config, c.host)
	}
	f.Add("Include c\nInclude ../c\nHost =\"", "web")
	f.Add("ProxyJump ssh://a@[::1]:22,b\nIdentityFile ${A}%%%h", "web")
	home := f.TempDir()
	f.Fuzz(func(t *testing.T, text, host string) {
		if strings.Contains(strings.ToLower(text), "include") && strings.ContainsAny(text, "*?[/~") {
			return // would read files of this machine
		}
		file := filepath.Join(t.TempDir(), "c")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := New(Config{Host: host, Files: []string{file}, local: testMachine(home)})
		if err != nil {
			if KindOf(err) != KindConfig && KindOf(err) != KindUnsupported {
				t.Fatalf("%v has kind %v", err, KindOf(err))
			}
			return
		}
		for _, h := range d.route {
			if strings.HasPrefix(h.host, "-") || strings.HasPrefix(h.user, "-") || h.port < 1 || h.port > 65535 || h.host == "" {
				t.Fatalf("unsafe hop %q %q %d", h.host, h.user, h.port)
			}
			_ = h.knownName()
		}
	})
}

// FuzzKnownHosts reads any text as known_hosts: it must never trust a key that
// x/crypto's reader of the format does not, where that can read the text at all.
func FuzzKnownHosts(f *testing.F) {
	key := testPublicKey(f, 1)
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	other := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(testPublicKey(f, 2))))
	for _, s := range []string{
		"web " + line, "web,db " + other, "!web,* " + line, "[web]:22 " + line, "@revoked * " + line, "@cert-authority * " + line,
		knownhosts.HashHostname("web") + " " + line, "|1|x|y " + line, "# web " + line, "@foo web " + line, "web ssh-rsa AAAA\nweb " + line, "WEB\t" + line + " comment",
	} {
		f.Add(s)
	}
	h := &hop{name: "web", host: "web", port: 22}
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := parseKnownHosts("f", []byte(text))
		if err != nil {
			return
		}
		known := knownHosts(lines)
		_ = known.order(h, defaultAlgorithms(true).hostKeys)
		verdict := known.verify(h, key)
		file := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		callback, err := knownhosts.New(file)
		if err != nil {
			return
		}
		theirs := callback("web:22", testAddr{}, key)
		if verdict == nil && theirs != nil {
			// Names are compared in lower case by ssh and by us, as they are by the library.
			lower := strings.ToLower(text)
			if lower != text || strings.Contains(text, "[web]") {
				return
			}
			t.Fatalf("we trust the key, the library does not: %v", theirs)
		}
	})
}

// FuzzSSHError reads any text as what ssh says on standard error.
func FuzzSSHError(f *testing.F) {
	for _, s := range []string{
		"", "Offending ED25519 key in /k:3\nREMOTE HOST IDENTIFICATION HAS CHANGED", "me@web: Permission denied (publickey,password).",
		"Permission denied (", "Offending x key in :\nREMOTE HOST IDENTIFICATION HAS CHANGED\nSHA256:x.", "ssh: connect to host x port 22: Connection refused",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var stderr tail
		_, _ = stderr.Write([]byte(strings.ReplaceAll(text, "key in /", "key in ./none/"))) // no file of this machine
		e := sshError("web", stderr.text(), io.EOF)
		if strings.ContainsAny(e.Error(), "\x1b\x07") {
			t.Fatalf("control characters in %q", e.Error())
		}
	})
}
