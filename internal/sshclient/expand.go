package sshclient

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// tilde expands "~" and "~/…". Homes of other accounts are left as they are, and are then
// not found.
func (m *machine) tilde(path string) string {
	if path == "~" {
		return m.home
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(m.home, rest)
	}
	return path
}

// expandHost expands %h (the host as given) and %% in a HostName (TOKENS of ssh_config(5)).
func expandHost(s, host string) (string, error) {
	return expandTokens(s, map[byte]string{'h': host})
}

// expandTokens replaces %x by what tokens has for x. A token that is not there is an error,
// as with ssh.
func expandTokens(s string, tokens map[byte]string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", fmt.Errorf("%q ends in %%", s)
		}
		if s[i] == '%' {
			b.WriteByte('%')
			continue
		}
		v, ok := tokens[s[i]]
		if !ok {
			return "", fmt.Errorf("%q: no value for %%%c", s, s[i])
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// expandPath expands what file names may have: "~", ${VARIABLES} and tokens, in that order
// of reading; what a variable or token brings in is not expanded again.
func (m *machine) expandPath(s string, tokens map[byte]string) (string, error) {
	var b strings.Builder
	s = m.tilde(s)
	for {
		before, rest, found := strings.Cut(s, "${")
		part, err := expandTokens(before, tokens)
		if err != nil {
			return "", err
		}
		b.WriteString(part)
		if !found {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || name == "" {
			return "", fmt.Errorf("%q: ${ without a name and }", s)
		}
		v := m.getenv(name)
		if v == "" {
			return "", fmt.Errorf("%q: environment variable %s is not set", s, name)
		}
		b.WriteString(v)
		s = after
	}
}

// tokens are the values of ssh_config's tokens for a hop. %C is left out: its hash differs
// between versions of OpenSSH.
func (m *machine) tokens(h *hop) map[byte]string {
	key := h.hostKeyAlias
	if key == "" {
		key = h.name
	}
	short, _, _ := strings.Cut(m.hostname, ".")
	return map[byte]string{
		'd': m.home, 'h': h.host, 'i': m.uid, 'k': key, 'L': short, 'l': m.hostname, 'n': h.name,
		'p': strconv.Itoa(h.port), 'r': h.user, 'u': m.user,
	}
}
