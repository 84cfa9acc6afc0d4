package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/internal/hooks"
)

// Hook is somebody to be told of events.
type Hook struct {
	Name       string
	On         []string // events
	Shares     []string // and sources; none: all
	Command    []string // program and arguments
	Dir        string   // the command's working directory: that of the configuration file
	URL        string
	SecretFile string
	SecretEnv  string
	CAFile     string
	Timeout    time.Duration // 0: the default
	GiveUp     time.Duration // 0: the default
}

// ErrHookSecret means that the secret of a hook could not be had, or is empty.
var ErrHookSecret = errors.New("no secret")

// HookNamed returns the hook of a name.
func (c *Config) HookNamed(name string) (Hook, bool) {
	for _, h := range c.Hooks {
		if h.Name == name {
			return h, true
		}
	}
	return Hook{}, false
}

// Secret gets the secret from where the configuration says, nil when nothing is signed.
func (h *Hook) Secret() ([]byte, error) {
	var secret []byte
	source := h.SecretFile
	switch {
	case h.SecretFile != "":
		data, err := readSecret(h.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrHookSecret, err)
		}
		secret = bytes.TrimSuffix(data, []byte("\n"))
	case h.SecretEnv != "":
		secret, source = []byte(os.Getenv(h.SecretEnv)), "environment variable "+h.SecretEnv
	default:
		return nil, nil
	}
	if len(secret) == 0 {
		return nil, fmt.Errorf("%w: %s is empty", ErrHookSecret, source)
	}
	return secret, nil
}

// readHooks reads the hooks section.
func (l *loader) readHooks(n node) {
	l.named(n, "hook", l.hookAt, func(name string, value node) {
		h := Hook{Name: name}
		l.readHook(value, &h)
		l.cfg.Hooks = append(l.cfg.Hooks, h)
	})
}

// readHook reads one hook.
func (l *loader) readHook(n node, h *Hook) {
	ofURL := make(map[string]node)
	known := fields{
		"on": {func(n node) {
			n.list(func(e node) {
				var event string
				if intoChoice(&event, hooks.Events(), hooks.Events()).read(e); event != "" {
					h.On = append(h.On, event)
				}
			})
			if len(h.On) == 0 && n.clean() {
				n.failHint("want some of "+strings.Join(hooks.Events(), ", "), "must not be empty")
			}
		}},
		"shares":  {func(n node) { intoTexts(&h.Shares).read(n) }},
		"command": {func(n node) { h.Command = readCommand(n) }},
		"url": {func(n node) {
			if s, ok := n.text(); ok {
				l.readHookURL(n, s, h)
			}
		}},
		"timeout": intoDuration(&h.Timeout, time.Second),
		"give_up": intoDuration(&h.GiveUp, time.Minute),
		"secret":  noSecret("put it into a file of mode 0600 and write secret_file: FILE, or secret_env: NAME"),
	}
	for key, f := range map[string]field{
		"secret_file": l.intoSecretFile(&h.SecretFile), "secret_env": intoText(&h.SecretEnv), "ca_file": intoPath(&h.CAFile),
	} {
		known[key] = noting(ofURL, key, f)
	}
	n.fields(known)
	h.Dir = n.src.dir
	if !n.clean() {
		return
	}
	switch {
	case h.On == nil:
		n.failHint("add on: [alarm, alarm-cleared]; there are "+strings.Join(hooks.Events(), ", "), "on is missing")
	case h.Command != nil && h.URL != "":
		n.fail("command and url exclude each other: make two hooks")
	case h.Command == nil && h.URL == "":
		n.failHint("add command: [program, argument], or url: https://host/path", "neither command nor url")
	case h.Command != nil:
		n.refuse(ofURL, "is for hooks with a url alone")
	case h.SecretFile != "" && h.SecretEnv != "":
		n.fail("secret_file and secret_env exclude each other")
	case h.CAFile != "" && !strings.HasPrefix(h.URL, "https:"):
		n.refuse(map[string]node{"ca_file": ofURL["ca_file"]}, "has no effect without https")
	}
}

// readHookURL reads where events are posted to.
func (l *loader) readHookURL(n node, s string, h *Hook) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		n.failHint("want as https://host[:port]/path", "not a URL of http or https")
		return
	case u.User != nil:
		n.failHint("take it out; requests are signed with secret_file", "a secret does not belong into the configuration")
		return
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	if u.Scheme == "http" && !localOnly(u.Hostname()+":"+port) {
		l.warn("%s: http: whoever is between here and %s can read what is told", n.key, u.Hostname())
	}
	h.URL = s
}

// finishHooks checks the shares of hooks.
func (l *loader) finishHooks() {
	for i := range l.cfg.Hooks {
		h := &l.cfg.Hooks[i]
		for _, name := range h.Shares {
			_, share := l.shareAt[name]
			if _, source := l.sourceAt[name]; !share && !source {
				l.hookAt[h.Name].failHint("correct it, or leave shares out for all", "shares: there is no share or source %q", name)
			}
		}
	}
	slices.SortFunc(l.cfg.Hooks, func(a, b Hook) int { return strings.Compare(a.Name, b.Name) })
}
