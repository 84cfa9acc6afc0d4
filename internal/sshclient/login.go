package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Authentication methods (RFC 4252, RFC 4256).
const (
	methodKey      = "publickey"
	methodPrompt   = "keyboard-interactive"
	methodPassword = "password"
)

// maxBanner is how much text a server may send before the login, in bytes.
const maxBanner = 64 << 10

var (
	errNoMethod = errors.New("no method is left")
	errBanner   = errors.New("the server sends text without end before the login")
	errQuestion = errors.New("the server asks for more than a password (a one-time code?)")
)

// login chooses the authentication methods of one handshake and remembers how they went.
type login struct {
	h        *hop
	keys     []candidate
	skipped  []string
	password func() (string, error) // nil: none

	broken  func() error // why the connection is broken, nil while it is not
	next    int          // of keys
	used    map[string]bool
	tried   []string
	offered []string
	asked   int   // questions of keyboard-interactive that were answered
	failure error // of a key that the server accepted, or of the password's source
	banner  int   // bytes so far
}

// method is ssh.ClientConfig.AuthCallback: one key or password at a time.
func (l *login) method(ctx *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	// x/crypto goes on after a lost connection, and each method would seem to be refused.
	if err := l.broken(); err != nil {
		return nil, err
	}
	if l.banner > maxBanner {
		return nil, errBanner
	}
	l.offered = ctx.AllowedMethods
	for _, m := range l.h.methods {
		if !slices.Contains(l.offered, m) {
			continue
		}
		switch {
		case m == methodKey && l.next < min(len(l.keys), l.most()):
			key := l.keys[l.next]
			l.next++
			l.tried = append(l.tried, m+" "+key.name)
			return ssh.PublicKeys(&recordingSigner{MultiAlgorithmSigner: key.signer.(ssh.MultiAlgorithmSigner), failure: &l.failure}), nil
		case m == methodKey, l.password == nil, l.used[m]:
			continue
		case m == methodPrompt:
			l.used[m], l.tried = true, append(l.tried, m)
			return ssh.KeyboardInteractive(l.answer), nil
		case m == methodPassword:
			l.used[m], l.tried = true, append(l.tried, m)
			return ssh.PasswordCallback(l.readPassword), nil
		}
	}
	return nil, errNoMethod
}

// most is how many keys may be offered: one less when a password can be tried in two ways.
func (l *login) most() int {
	if l.password != nil {
		return maxKeyTries - 1
	}
	return maxKeyTries
}

// answer gives the password to the one hidden question that asks for it. Anything else, such
// as a second factor, needs a person: the password must not become the answer to it.
func (l *login) answer(_, _ string, questions []string, echos []bool) ([]string, error) {
	if len(questions) == 0 {
		return nil, nil
	}
	if len(questions) > 1 || echos[0] || l.asked > 0 {
		l.failure = errQuestion
		return nil, errQuestion
	}
	l.asked++
	password, err := l.readPassword()
	if err != nil {
		return nil, err
	}
	return []string{password}, nil
}

func (l *login) readPassword() (string, error) {
	password, err := l.password()
	if err != nil {
		l.failure = err
	}
	return password, err
}

// text is ssh.ClientConfig.BannerCallback.
func (l *login) text(message string) error {
	if l.banner += len(message); l.banner > maxBanner {
		return errBanner
	}
	return nil
}

// recordingSigner keeps why a key that the server accepted could not sign.
type recordingSigner struct {
	ssh.MultiAlgorithmSigner
	failure *error
}

func (s *recordingSigner) SignWithAlgorithm(rand io.Reader, data []byte, algo string) (*ssh.Signature, error) {
	sig, err := s.MultiAlgorithmSigner.SignWithAlgorithm(rand, data, algo)
	if err != nil {
		*s.failure = err
	}
	return sig, err
}

// error makes the error of a login that failed with err.
func (l *login) error(err error) error {
	text := strings.ToLower(err.Error())
	tooMany := strings.Contains(text, "too many authentication failures")
	if !errors.Is(err, errNoMethod) && !tooMany {
		return err
	}
	e := &Error{Kind: KindAuth, Host: l.h.String(), Tried: l.tried, Offered: l.offered}
	var known *Error
	if errors.As(l.failure, &known) {
		e.Kind, e.Detail, e.Hint, e.Err = known.Kind, known.Detail, known.Hint, known.Err
		return e
	}
	e.Detail = l.detail(tooMany)
	e.Hint, e.Err = l.hint(), l.failure
	return e
}

func (l *login) detail(tooMany bool) string {
	tried := "nothing could be tried"
	if len(l.tried) > 0 {
		tried = "tried " + strings.Join(l.tried, ", ")
	}
	detail := fmt.Sprintf("user %s: %s; the server takes %s", l.h.user, tried, strings.Join(l.offered, ", "))
	if tooMany {
		detail += "; it ended the connection after too many tries"
	}
	if n := len(l.keys) - l.next; n > 0 && slices.Contains(l.offered, methodKey) {
		detail += fmt.Sprintf("; %d more keys were not tried", n)
	}
	if len(l.skipped) > 0 {
		detail += "; left out: " + strings.Join(l.skipped, "; ")
	}
	return detail
}

func (l *login) hint() string {
	takes := func(m string) bool { return slices.Contains(l.offered, m) }
	switch {
	case errors.Is(l.failure, errQuestion):
		return "a login that needs a person cannot run unattended: have a key accepted for this account without a second factor"
	case l.used[methodPassword] || l.used[methodPrompt]:
		return "is the user name right, and the password the current one?"
	case takes(methodKey) && len(l.keys) > min(len(l.keys), l.next):
		return "name the right key with identity, or IdentityFile and IdentitiesOnly yes in ssh_config"
	case takes(methodKey) && l.next > 0:
		hint := fmt.Sprintf("is the user name right, and is the public key in %s's authorized_keys on the server? its log says why it refuses a key", l.h.user)
		// x/crypto does not even offer a key when there is no signature in common.
		rsa := func(c candidate) bool { return c.signer.PublicKey().Type() == ssh.KeyAlgoRSA }
		if slices.ContainsFunc(l.keys, rsa) && !slices.Contains(l.h.algorithms.publicKeys, ssh.KeyAlgoRSA) {
			hint += "; a server of before 2017 takes RSA keys with SHA-1 only: legacy: true"
		}
		return hint
	case takes(methodKey) && len(l.keys) == 0 && len(l.skipped) > 0:
		return "no key could be offered: mend what was left out, for the reason that the message gives, or name another key with identity"
	case l.password == nil && (takes(methodPassword) || takes(methodPrompt)):
		return "the server wants a password: give it by password_file or password_env, or set a key up"
	case takes(methodKey):
		return "name a private key with identity, or load one into an agent (ssh-add) and set SSH_AUTH_SOCK"
	}
	return "the server takes none of publickey, password and keyboard-interactive: with another method, set transport: openssh"
}

// login prepares the authentication on a hop. done must be called when it is over.
func (d *Dialer) login(ctx context.Context, h *hop, target bool, broken func() error) (l *login, done func()) {
	l = &login{h: h, broken: broken, used: map[string]bool{}}
	conn, why := dialAgent(ctx, h)
	done = func() {}
	if conn != nil {
		// A hardware key may wait for a finger for ever.
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		done = func() {
			stop()
			_ = conn.Close()
		}
	}
	ring := d.keyring(ctx, h, target, conn)
	l.keys, l.skipped = ring.list, ring.skipped
	if why != "" {
		l.skipped = append(l.skipped, why)
	}
	if target && !d.cfg.Password.IsZero() {
		l.password = func() (string, error) { return d.readPassword(ctx, h) }
	}
	return l, done
}

// readPassword reads the password once for all connections.
func (d *Dialer) readPassword(ctx context.Context, h *hop) (string, error) {
	if err := d.lock(ctx); err != nil {
		return "", err
	}
	defer d.unlock()
	if d.password == nil {
		password, err := d.cfg.Password.read(ctx, d.local.getenv, fmt.Sprintf("password of %s on %s", h.user, h))
		if err != nil {
			return "", err
		}
		d.password = password
	}
	return string(d.password), nil
}
