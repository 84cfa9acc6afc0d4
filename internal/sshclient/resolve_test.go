package sshclient

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testMachine is a machine whose home is dir.
func testMachine(dir string) *machine {
	return &machine{
		home: dir, user: "me", uid: "1000", hostname: "box.example.org", system: filepath.Join(dir, "etc"),
		getenv: func(name string) string {
			return map[string]string{"SOCK": "/run/sock", "SSH_AUTH_SOCK": "/run/agent"}[name]
		},
	}
}

func writeFile(tb testing.TB, name, text string) string {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return name
}

// sshConfigs are configurations that our resolver and "ssh -G" must understand alike. DIR is
// the directory of the test's files.
func sshConfigs() []struct{ name, host, config string } {
	return []struct{ name, host, config string }{
		{"empty", "web", ""},
		{"first wins", "web", "Host web\n  User a\n  Port 2201\nHost *\n  User b\n  Port 2202\n  HostName %h.example.com\n"},
		{"before any host", "web", "Port 2200\nHost web\nPort 2201\n"},
		{"negation", "db1", "Host * !db*\n  User a\nHost db*\n  User b\n"},
		{"negation wins", "db1", "Host db1 !db*\n  User a\n"},
		{"question mark", "web", "Host we\n User a\nHost web?\n User b\nHost w?b\n User c\n"},
		{"star matches nothing", "web", "Host web*\n User a\n"},
		{"equals", "web", "Host=web\nUser = a\nPort= 2201\n\tHostName\t=\tx.example\n"},
		{"quotes", "web", "Host \"web\" 'db x'\n  User \"a b\"\n  IdentityFile \"~/key with space\"\n"},
		{"backslash", "web", "Host web\n  IdentityFile ~/key\\ x\n IdentityFile \"a\\\"b\"\n"},
		{"comment after value", "web", "Host web # the server\n  User a # me\n  IdentityFile ~/a#b\n"},
		{"no newline at the end", "web", "Host web\n  User last"},
		{"carriage returns", "web", "Host web\r\n  User a\r\n  Port 2201\r\n"},
		{"case of keywords", "web", "HOST web\n  uSeR a\n"},
		{"case of hosts", "Web", "Host web\n  User a\nHost Web\n User b\n"},
		{"identities add up", "web", "IdentityFile ~/a\nHost web\n  IdentityFile ~/b\n  IdentityFile ~/a\nHost *\n  IdentityFile %d/%h-%p-%r\n  CertificateFile ~/c\n CertificateFile ~/d\n"},
		{"identities only", "web", "Host web\n  IdentitiesOnly yes\n  IdentityAgent none\n"},
		{"agent", "web", "Host web\n  IdentityAgent \"~/a b/sock\"\n"},
		{"known hosts", "web", "UserKnownHostsFile ~/a ~/b\nGlobalKnownHostsFile /etc/x\nUserKnownHostsFile ~/c\nHostKeyAlias the-web\n"},
		{"known hosts none", "web", "UserKnownHostsFile none\nGlobalKnownHostsFile /dev/null\n"},
		{"strict yes", "web", "StrictHostKeyChecking yes\n"},
		{"strict accept-new", "web", "StrictHostKeyChecking accept-new\n"},
		{"strict ask", "web", "StrictHostKeyChecking ask\n"},
		{"strict off", "web", "StrictHostKeyChecking off\n"},
		{"times", "web", "ConnectTimeout 1m30\nServerAliveInterval 20\nServerAliveCountMax 5\n"},
		{"jump", "web", "ProxyJump a@b:2201,c\n"},
		{"jump none", "web", "Host web\n ProxyJump none\nHost *\n ProxyJump b\n"},
		{"jump before command", "web", "ProxyJump b\nProxyCommand nc %h %p\n"},
		{"command none before jump", "web", "ProxyCommand none\nProxyJump b\n"},
		{"hostname tokens", "web", "HostName %h%%x.example\n"},
		{"include", "web", "Include DIR/inc/*.conf\nHost web\n  User late\n"},
		{"include in host", "web", "Host db\n  Include DIR/inc/a.conf\nHost web\n  Include DIR/inc/b.conf\n  Port 2299\n"},
		{"include in other host", "web", "Host db\n  Include DIR/inc/a.conf DIR/inc/b.conf\n"},
		{"include keeps block", "web", "Host web\n  Include DIR/inc/hosts.conf\n  User after\n"},
		{"include missing", "web", "Include DIR/inc/none*.conf\nUser a\n"},
		{"match all", "web", "Match all\n  User a\n"},
		{"match host", "web", "Host web\n  HostName web.example.com\nMatch host *.example.com\n  User a\n"},
		{"match originalhost", "web", "Host web\n  HostName web.example.com\nMatch originalhost web,db\n  User a\n"},
		{"match not", "web", "Match host *,!web\n  User a\nMatch !host db user root\n  User b\n"},
		{"match user", "web", "User bob\nMatch user bob\n  Port 2201\n"},
		{"match canonical", "web", "Match canonical\n  User a\nMatch !canonical host web\n  User b\n"},
		{"match canonical all", "web", "Match canonical all\n  User a\n"},
		{"match final all", "web", "Match final all\n  User last\n  Port 2201\nHost web\n  User a\n"},
		{"match final by hostname", "web", "Host web\n  HostName %h.Example\nMatch final\n  User f\nHost web.example\n  Port 2201\nMatch host web.example\n  CertificateFile /c\n"},
		{"match final adds up", "web", "IdentityFile ~/a\nMatch final originalhost web\n  IdentityFile ~/b\nHost web\n  HostName %h.example\n  IdentityFile ~/c\nHost web.example\n  IdentityFile ~/d\n"},
		{"match final and host", "web", "Match final host web.example\n  User a\nHost web\n  HostName %h.example\n"},
		{"match final is too late for the name", "web", "Match final all\n  HostName late.example\n  User a\n"},
		{"match final in upper case", "WEB", "Host WEB\n  User a\nHost web\n  User b\n  Port 2201\nMatch FINAL\n  User c\n"},
		{"match final includes", "web", "Include DIR/inc/final.conf\nHost web\n  User late\n"},
		{"match not final", "web", "Match !final all\n  User a\n"},
		{"match final brings canonical", "web", "Match canonical all\n  User a\nMatch host db final\n  User b\n"},
		{"match host all", "web", "Match host web all\n  User a\nMatch host db all\n  Port 2201\n"},
		{"match final rules exec out", "web", "Match !canonical final exec \"exit 0\"\n  User a\n"},
		{"match exec ruled out", "web", "Match host db exec \"exit 0\"\n  User a\n"},
		{"match with comment", "web", "Match host web # us\n  User a\n"},
		{"methods", "web", "PreferredAuthentications publickey,password\nPubkeyAuthentication yes\nPasswordAuthentication no\n"},
		{"address family", "web", "AddressFamily inet6\nBindAddress ::1\nHashKnownHosts yes\n"},
	}
}

// TestResolveAsOpenSSH compares what we make of configurations with what "ssh -G" prints.
func TestResolveAsOpenSSH(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "inc", "a.conf"), "User inc-a\n")
	writeFile(t, filepath.Join(dir, "inc", "b.conf"), "Port 2288\nUser inc-b\n")
	writeFile(t, filepath.Join(dir, "inc", "hosts.conf"), "Host db\n  User db\nHost w*\n  Port 2277\n")
	writeFile(t, filepath.Join(dir, "inc", "final.conf"), "Match final all\n  Include "+dir+"/inc/b.conf\n") // as Red Hat's crypto policy
	for _, c := range sshConfigs() {
		t.Run(c.name, func(t *testing.T) {
			file := writeFile(t, filepath.Join(t.TempDir(), "config"), strings.ReplaceAll(c.config, "DIR", dir))
			want, err := sshG(t, file, c.host)
			if err != nil {
				t.Fatal(err)
			}
			m := thisMachine() // ssh takes the account's real name and home
			o, err := m.resolve(c.host, m.files([]string{file}), nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, asSSHPrints(o, m, c.host)); diff != "" {
				t.Errorf("ssh -G (-) and we (+) differ:\n%s", diff)
			}
		})
	}
}

// compared are the keywords that the comparison is about, with ssh's defaults.
func compared() map[string]string {
	return map[string]string{
		"user": "", "hostname": "", "port": "22", "identitiesonly": "no", "identityagent": "", "proxyjump": "", "hostkeyalias": "",
		"stricthostkeychecking": "ask", "connecttimeout": "none", "serveraliveinterval": "0", "serveralivecountmax": "3",
		"userknownhostsfile": "", "globalknownhostsfile": "", "preferredauthentications": "", "passwordauthentication": "yes",
		"addressfamily": "any", "bindaddress": "", "hashknownhosts": "no", "identityfile": "", "certificatefile": "",
	}
}

// sshG runs ssh -G and returns the lines of the keywords that are compared.
func sshG(t *testing.T, file, host string) (map[string]string, error) {
	t.Helper()
	out, err := exec.Command("ssh", "-G", "-F", file, host).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, err
	}
	got := map[string]string{}
	keep := compared()
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, ok := keep[key]; !ok {
			continue
		}
		if got[key] != "" {
			value = got[key] + "\n" + value
		}
		got[key] = value
	}
	return got, nil
}

// asSSHPrints prints options as ssh -G does.
func asSSHPrints(o *options, m *machine, host string) map[string]string {
	out := map[string]string{}
	for key, def := range compared() {
		if d := o.first[key]; d != nil {
			out[key] = strings.Join(d.args, " ")
		} else if def != "" {
			out[key] = def
		}
	}
	for _, key := range []string{"identityfile", "certificatefile"} {
		var lines []string
		for _, d := range o.all[key] {
			lines = append(lines, d.args...)
		}
		if len(lines) > 0 {
			out[key] = strings.Join(lines, "\n")
		}
	}
	name := pick(out["hostname"], host)
	out["hostname"], _ = expandHost(name, host)
	out["hostname"] = strings.ToLower(out["hostname"])
	out["identityagent"] = m.tilde(out["identityagent"])
	out["user"] = pick(out["user"], m.user)
	defaults := map[string]string{
		"identityfile":         "~/.ssh/id_rsa\n~/.ssh/id_ecdsa\n~/.ssh/id_ecdsa_sk\n~/.ssh/id_ed25519\n~/.ssh/id_ed25519_sk\n~/.ssh/id_xmss\n~/.ssh/id_dsa",
		"userknownhostsfile":   m.home + "/.ssh/known_hosts " + m.home + "/.ssh/known_hosts2",
		"globalknownhostsfile": "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",
	}
	for key, def := range defaults {
		out[key] = pick(out[key], def)
	}
	// ssh prints known_hosts files expanded, and some values in its own words.
	for _, key := range []string{"userknownhostsfile", "globalknownhostsfile"} {
		out[key] = strings.ReplaceAll(" "+out[key], " ~/", " "+m.home+"/")[1:]
	}
	words := map[string]map[string]string{
		"stricthostkeychecking": {"yes": "true", "off": "false", "no": "false"},
		"proxyjump":             {"none": ""},
	}
	for key, table := range words {
		if v, ok := table[out[key]]; ok {
			out[key] = v
		}
	}
	if d, err := parseTime(out["connecttimeout"]); err == nil {
		out["connecttimeout"] = fmt.Sprint(int(d.Seconds()))
	}
	for key, v := range out {
		if v == "" {
			delete(out, key)
		}
	}
	return out
}

func TestHop(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		cfg    Config
		config string
		check  func(h *hop) (got, want any)
	}{
		"tokens of files": {Config{Host: "web"}, "HostName web.example.com\nUser bob\nPort 2201\nHostKeyAlias al\nIdentityFile %d/%h-%p-%r-%u-%n-%k-%L-%l-%i-%%\n",
			func(h *hop) (any, any) {
				return h.identities[0].path, dir + "/web.example.com-2201-bob-me-web-al-box-box.example.org-1000-%"
			}},
		"variables": {Config{Host: "web"}, "IdentityFile ${SOCK}/%h\n", func(h *hop) (any, any) { return h.identities[0].path, "/run/sock/web" }},
		"home":      {Config{Host: "web"}, "IdentityFile ~/k\n", func(h *hop) (any, any) { return h.identities[0].path, dir + "/k" }},
		"settings win": {Config{Host: "web", User: "u", Port: 7, IdentityFiles: []string{"/k%1"}}, "User x\nPort 9\nIdentityFile /l\n", func(h *hop) (any, any) {
			return fmt.Sprint(h.user, h.port, h.identities), fmt.Sprint("u", 7, []identity{{"/k%1", true}, {"/l", true}})
		}},
		"default keys":                         {Config{Host: "web"}, "", func(h *hop) (any, any) { return h.identities[0], identity{path: dir + "/.ssh/id_ed25519"} }},
		"no default keys beside a key as text": {Config{Host: "web", PrivateKeys: []PEM{PEM("x")}}, "", func(h *hop) (any, any) { return len(h.identities), 0 }},
		"agent of the environment":             {Config{Host: "web"}, "", func(h *hop) (any, any) { return h.agent, "/run/agent" }},
		"agent none":                           {Config{Host: "web"}, "IdentityAgent none\n", func(h *hop) (any, any) { return h.agent, "" }},
		"agent by name":                        {Config{Host: "web"}, "IdentityAgent SSH_AUTH_SOCK\n", func(h *hop) (any, any) { return h.agent, "/run/agent" }},
		"agent variable":                       {Config{Host: "web"}, "IdentityAgent $SOCK\n", func(h *hop) (any, any) { return h.agent, "/run/sock" }},
		"agent file":                           {Config{Host: "web"}, "IdentityAgent ~/%r.sock\nUser bob\n", func(h *hop) (any, any) { return h.agent, dir + "/bob.sock" }},
		"agent none by settings":               {Config{Host: "web", Agent: AgentNone}, "", func(h *hop) (any, any) { return h.agent, "" }},
		"strict when unattended":               {Config{Host: "web"}, "StrictHostKeyChecking ask\n", func(h *hop) (any, any) { return h.policy, Strict }},
		"no is never insecure":                 {Config{Host: "web"}, "StrictHostKeyChecking no\n", func(h *hop) (any, any) { return h.policy, AcceptNew }},
		"known_hosts of the settings":          {Config{Host: "web", KnownHosts: []string{"~/kh"}}, "GlobalKnownHostsFile /x\n", func(h *hop) (any, any) { return append(h.knownHosts, h.knownHostsFixed...), []string{dir + "/kh"} }},
		"removed algorithm":                    {Config{Host: "web"}, "HostKeyAlgorithms -*cert*,ecdsa*,rsa*\n", func(h *hop) (any, any) { return h.algorithms.hostKeys, []string{"ssh-ed25519"} }},
		"algorithm in front":                   {Config{Host: "web"}, "Ciphers ^aes256-ctr\n", func(h *hop) (any, any) { return h.algorithms.ciphers[0], "aes256-ctr" }},
		"algorithm added":                      {Config{Host: "web"}, "HostKeyAlgorithms +ssh-rsa\n", func(h *hop) (any, any) { return h.algorithms.hostKeys[12], "ssh-rsa" }},
		"algorithms replaced":                  {Config{Host: "web"}, "KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256\n", func(h *hop) (any, any) { return h.algorithms.kex, []string{"curve25519-sha256"} }},
		"methods":                              {Config{Host: "web"}, "PreferredAuthentications password,gssapi-with-mic,publickey\n", func(h *hop) (any, any) { return h.methods, []string{"password", "publickey"} }},
		"RSA keys":                             {Config{Host: "web"}, "RequiredRSASize 3072\n", func(h *hop) (any, any) { return h.rsaBits, 3072 }},
		"RSA keys by Red Hat":                  {Config{Host: "web"}, "RSAMinSize 2048\nRequiredRSASize 4096\n", func(h *hop) (any, any) { return h.rsaBits, 2048 }},
		"RSA keys, not lower":                  {Config{Host: "web"}, "RequiredRSASize 512\n", func(h *hop) (any, any) { return h.rsaBits, 1024 }},
		"method switched off":                  {Config{Host: "web"}, "PasswordAuthentication no\n", func(h *hop) (any, any) { return h.methods, []string{"publickey", "keyboard-interactive"} }},
	} {
		t.Run(name, func(t *testing.T) {
			test.cfg.local = testMachine(dir)
			test.cfg.Files = []string{writeFile(t, filepath.Join(t.TempDir(), "config"), test.config)}
			d, err := New(test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			got, want := test.check(d.route[0])
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(identity{})); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

func TestConfigErrors(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		config string
		kind   Kind
		text   string // part of the message; FILE is the file
	}{
		"match exec":         {"Host x\nMatch exec true\n", KindUnsupported, "FILE:2: Match exec"},
		"match final exec":   {"Match final exec true\n", KindUnsupported, "FILE:1: Match exec"},
		"proxy command":      {"\nHost web\n  ProxyCommand nc %h %p\n", KindUnsupported, "FILE:3: proxycommand"},
		"pkcs11":             {"PKCS11Provider /usr/lib/x.so\n", KindUnsupported, "FILE:1: pkcs11provider"},
		"sk provider":        {"SecurityKeyProvider /usr/lib/x.so\n", KindUnsupported, "FILE:1: securitykeyprovider"},
		"gssapi only":        {"PreferredAuthentications gssapi-with-mic\n", KindUnsupported, "FILE:1: no authentication method"},
		"revoked keys":       {"RevokedHostKeys /etc/ssh/krl\n", KindUnsupported, "FILE:1: revokedhostkeys"},
		"canonical names":    {"CanonicalizeHostname yes\n", KindUnsupported, "FILE:1: canonicalizehostname"},
		"unknown algorithms": {"Ciphers rot13\n", KindUnsupported, "FILE:1: none of rot13"},
		"open quotes":        {"Host web\nUser \"a\n", KindConfig, "FILE:2: User: quotes"},
		"no value":           {"Host\n", KindConfig, "FILE:1: Host: no value"},
		"bad port":           {"Port 99999\n", KindConfig, "FILE:1: port"},
		"bad time":           {"ConnectTimeout 5x\n", KindConfig, "FILE:1: connecttimeout"},
		"bad RSA size":       {"RequiredRSASize none\n", KindConfig, "FILE:1: requiredrsasize"},
		"bad yes":            {"IdentitiesOnly perhaps\n", KindConfig, "FILE:1: identitiesonly"},
		"bad token":          {"IdentityFile %z\n", KindConfig, "FILE:1: identityfile"},
		"unset variable":     {"IdentityFile ${NOTHING}/x\n", KindConfig, "NOTHING is not set"},
		"include loop":       {"Include FILE\n", KindConfig, "nested too deep"},
		"jump loop":          {"Host *\n ProxyJump bastion\n", KindConfig, "ProxyJump loop: web → bastion → bastion"},
		"endless jumps":      {"Host *\n ProxyJump a%h\n", KindConfig, "ProxyJump loop: web → aweb → aaweb"},
		"bad jump":           {"ProxyJump -oProxyCommand=x\n", KindConfig, "not a host name"},
		"option as host":     {"HostName -oProxyCommand=x\n", KindConfig, "not a host name"},
		"option as user":     {"User -x\n", KindConfig, "not a user name"},
		"match all and more": {"Match all host x\n", KindConfig, "must stand alone"},
		"match all, third":   {"Match final host x all\n", KindConfig, "must stand alone"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config")
			writeFile(t, file, strings.ReplaceAll(test.config, "FILE", file))
			_, err := New(Config{Host: "web", Files: []string{file}, local: testMachine(dir)})
			want := strings.ReplaceAll(test.text, "FILE", file)
			if KindOf(err) != test.kind || err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("got %v (%v), want %v with %q", err, KindOf(err), test.kind, want)
			}
			if test.kind == KindUnsupported && !strings.Contains(HintOf(err), "transport: openssh") {
				t.Errorf("hint %q does not name the other transport", HintOf(err))
			}
		})
	}
}

// TestRoute checks chains of jump hosts: the first one of a list has its own jump hosts.
func TestRoute(t *testing.T) {
	t.Run("tokens", func(t *testing.T) {
		file := writeFile(t, filepath.Join(t.TempDir(), "c"), "Host web\n  HostName web.example\n  ProxyJump %r@gate-%h:22%p\n  Port 22\n")
		d, err := New(Config{Host: "web", User: "u", Files: []string{file}, local: testMachine(t.TempDir())})
		if err != nil {
			t.Fatal(err)
		}
		if h := d.route[0]; h.user != "u" || h.addr() != "gate-web.example:2222" {
			t.Errorf("jump host %s@%s", h.user, h.addr())
		}
	})

	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "c"), `Host web
  ProxyJump b1,bob@b2:2201
Host b1
  HostName b1.example
  ProxyJump outer
  Port 2210
Host b2
  ProxyJump none-of-this
  User carol
`)
	d, err := New(Config{Host: "web", User: "u", Password: Secret{Bytes: []byte("p")}, Files: []string{file}, local: testMachine(dir)})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range d.route {
		got = append(got, h.user+"@"+h.addr())
	}
	want := []string{"me@outer:22", "me@b1.example:2210", "bob@b2:2201", "u@web:22"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestFilesOfOthers checks that a default file which others may write is refused.
func TestFilesOfOthers(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, ".ssh", "config"), "User a\n")
	if err := os.Chmod(file, 0o622); err != nil {
		t.Fatal(err)
	}
	_, err := New(Config{Host: "web", local: testMachine(dir)})
	if KindOf(err) != KindConfig || err == nil {
		t.Fatalf("got %v, want a refusal", err)
	}
}

// TestDefaultFiles checks that the user's file comes before the system's.
func TestDefaultFiles(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, ".ssh", "config"), "User a\nInclude more\n")
	writeFile(t, filepath.Join(dir, ".ssh", "more"), "Port 2201\n")
	writeFile(t, filepath.Join(dir, "etc", "ssh_config"), "User b\nPort 2202\nInclude sys.d/*\n")
	writeFile(t, filepath.Join(dir, "etc", "sys.d", "x"), "HostName sys.example\n")
	d, err := New(Config{Host: "web", local: testMachine(dir)})
	if err != nil {
		t.Fatal(err)
	}
	if h := d.route[0]; h.user != "a" || h.port != 2201 || h.host != "sys.example" {
		t.Errorf("got %s@%s", h.user, h.addr())
	}
}

// TestBracketedAddress takes an address as it is in a URL.
func TestBracketedAddress(t *testing.T) {
	d, err := New(Config{Host: "[2001:db8::1]", Port: 2222, Files: []string{}, local: testMachine(t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := d.String(), "[2001:db8::1]:2222"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMatchPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"?", "", false}, {"?", "a", true}, {"a*b*c", "aXbYc", true},
		{"a*b*c", "aXbY", false}, {"*a", "ba", true}, {"a?c", "abc", true}, {"**", "x", true}, {"*.example.com", "example.com", false},
		{strings.Repeat("*a", 50) + "b", strings.Repeat("a", 5000), false}, // takes for ever when done by backtracking
	} {
		if got := matchPattern(c.pattern, c.s); got != c.want {
			t.Errorf("matchPattern(%.20q, %.20q) = %v", c.pattern, c.s, got)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no host":            {},
		"option":             {Host: "-oProxyCommand=x"},
		"space":              {Host: "a b"},
		"user":               {Host: "a", User: "-l"},
		"jump":               {Host: "a", Transport: OpenSSH, Jump: "-oProxyCommand=x"},
		"port":               {Host: "a", Port: 70000},
		"password, openssh":  {Host: "a", Transport: OpenSSH, Password: Secret{Env: "X"}},
		"two files, openssh": {Host: "a", Transport: OpenSSH, Files: []string{"a", "b"}},
	} {
		if _, err := New(cfg); KindOf(err) != KindConfig || err == nil {
			t.Errorf("%s: got %v, want a configuration error", name, err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	cfg := Config{Password: Secret{Bytes: []byte("hunter2")}, PrivateKeys: []PEM{PEM("hunter2")}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if s := fmt.Sprintf(verb, cfg); strings.Contains(s, "hunter2") || strings.Contains(s, "68756e74657232") || strings.Contains(s, "[104 117") {
			t.Errorf("%s prints the secret: %s", verb, s)
		}
	}
}
