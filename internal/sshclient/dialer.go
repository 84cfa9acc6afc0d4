package sshclient

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// maxHops is how long a chain of jump hosts may be.
const maxHops = 8

// Dialer connects to one server. It is safe for concurrent use.
type Dialer struct {
	cfg   Config
	local *machine
	log   *slog.Logger
	route []*hop // jump hosts in order, the server last

	// secrets is a lock that a context can give up on: it is held while somebody is asked. It
	// guards opened and password.
	secrets  chan struct{}
	opened   map[string]ssh.Signer // by public key
	password []byte

	clock    clock
	appendMu sync.Mutex // serialises appending to known_hosts
	warned   sync.Map   // places of ssh_config that were warned about
}

// New checks cfg and reads ssh_config. Files of keys, passwords and known hosts are read
// when they are needed. The caller must not change what cfg refers to.
func New(cfg Config) (*Dialer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if strings.HasPrefix(cfg.Host, "[") { // an address as in a URL
		cfg.Host = strings.TrimSuffix(cfg.Host[1:], "]")
	}
	d := &Dialer{cfg: cfg, local: cfg.local, log: cfg.Log, secrets: make(chan struct{}, 1), opened: map[string]ssh.Signer{}}
	if d.local == nil {
		d.local = thisMachine()
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	for _, list := range []*[]string{&d.cfg.IdentityFiles, &d.cfg.Certificates, &d.cfg.KnownHosts} {
		*list = slices.Clone(*list)
		for i, file := range *list {
			(*list)[i] = d.local.tilde(file)
		}
	}
	d.cfg.Password.Ask, d.cfg.Passphrase.Ask = d.clock.asks(cfg.Password.Ask), d.clock.asks(cfg.Passphrase.Ask)
	d.cfg.Password.File, d.cfg.Passphrase.File = d.local.tilde(cfg.Password.File), d.local.tilde(cfg.Passphrase.File)
	if cfg.Transport == OpenSSH {
		return d, nil // ssh reads its configuration itself
	}
	var err error
	d.route, err = d.findRoute(cfg.Host, cfg.User, cfg.Port, nil)
	return d, err
}

// findRoute resolves a host and its jump hosts. As with ssh, the first jump host of a list
// has its own ProxyJump, the others are reached through the one before. through are the
// names whose ProxyJump led here.
func (d *Dialer) findRoute(name, user string, port int, through []string) ([]*hop, error) {
	h, err := d.newHop(name, user, port, len(through) == 0)
	if err != nil || len(h.jump) == 0 {
		return []*hop{h}, err
	}
	// The name alone decides which lines of ssh_config count, so it would go on for ever.
	if slices.Contains(through, name) || len(through) >= maxHops {
		return nil, configError("ProxyJump loop: %s", strings.Join(append(through, name), " → "))
	}
	route, err := d.findRoute(h.jump[0].host, h.jump[0].user, h.jump[0].port, append(through, name))
	if err != nil {
		return nil, err
	}
	for _, j := range h.jump[1:] {
		next, err := d.newHop(j.host, j.user, j.port, false)
		if err != nil {
			return nil, err
		}
		route = append(route, next)
	}
	if route = append(route, h); len(route) > maxHops {
		return nil, configError("more than %d jump hosts", maxHops-1)
	}
	return route, nil
}

// String is the server in messages.
func (d *Dialer) String() string {
	if len(d.route) == 0 {
		return d.cfg.Host
	}
	return d.route[len(d.route)-1].String()
}

// Dial connects, checks the host keys and logs in, on each hop. With the openssh transport
// it starts ssh and waits for the first session, which the first Client.SFTP returns. When
// ctx ends before that, everything is closed and the error is ctx's cause.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	d, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return d.Dial(ctx)
}

// Dial makes one connection; see the function of this name.
func (d *Dialer) Dial(ctx context.Context) (*Client, error) {
	ctx, cancel := d.clock.bound(ctx, d.cfg.Total)
	defer cancel()
	return d.dial(ctx)
}

// dial is Dial without a bound of its own.
func (d *Dialer) dial(ctx context.Context) (*Client, error) {
	if d.cfg.Transport == OpenSSH {
		return d.dialOpenSSH(ctx)
	}
	c, err := d.dialRoute(ctx)
	if err != nil && KindOf(err) == KindAuth && d.lock(ctx) == nil {
		d.password = nil // a person who mistyped is asked again
		d.unlock()
	}
	return c, err
}

// lock takes the lock of the secrets, or returns why ctx ended.
func (d *Dialer) lock(ctx context.Context) error {
	select {
	case d.secrets <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *Dialer) unlock() { <-d.secrets }

// dialRoute connects hop by hop.
func (d *Dialer) dialRoute(ctx context.Context) (*Client, error) {
	c := &Client{d: d, target: d.route[len(d.route)-1], ended: make(chan struct{})}
	for i, h := range d.route {
		conn, err := c.connect(ctx, h)
		if err != nil {
			c.closeAll()
			return nil, err
		}
		g := newGuardedConn(conn)
		c.guards = append(c.guards, g)
		client, err := d.handshake(ctx, h, g, c.root, i == len(d.route)-1)
		if err != nil {
			c.closeAll()
			return nil, err
		}
		c.hops = append(c.hops, client)
	}
	c.start()
	return c, nil
}

// connect makes the connection to a hop: TCP to the first one, a channel of the one before
// to the others.
func (c *Client) connect(ctx context.Context, h *hop) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, &stageTimeout{stage: "connection", limit: h.timeout})
	defer cancel()
	if len(c.hops) > 0 {
		conn, err := c.hops[len(c.hops)-1].DialContext(ctx, "tcp", h.addr())
		if err != nil {
			return nil, connectError(ctx, h.String(), err)
		}
		return conn, nil
	}
	dialer := net.Dialer{Resolver: c.d.local.names}
	if h.bind != "" {
		addr, err := net.ResolveTCPAddr(h.network, net.JoinHostPort(h.bind, "0"))
		if err != nil {
			return nil, configError("BindAddress %s: %w", h.bind, err)
		}
		dialer.LocalAddr = addr
	}
	conn, err := dialer.DialContext(ctx, h.network, h.addr())
	if err != nil {
		return nil, connectError(ctx, h.String(), err)
	}
	c.root = conn
	return conn, nil
}

// handshake exchanges keys, checks the host key and logs in. root is closed when the time is
// over: deadlines do not work on a channel of a jump host.
func (d *Dialer) handshake(ctx context.Context, h *hop, conn *guardedConn, root net.Conn, target bool) (*ssh.Client, error) {
	limit := pick(d.cfg.LoginTimeout, DefaultLoginTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &stageTimeout{stage: "login", limit: limit})
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = root.Close() })
	defer stop()
	hostKeys := h.algorithms.hostKeys
	if h.policy != Insecure {
		known, err := h.readKnownHosts()
		if err != nil {
			return nil, err
		}
		hostKeys = known.order(h, hostKeys)
	}
	l, done := d.login(ctx, h, target, func() error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return conn.broken()
	})
	defer done()
	conn.limit(maxHandshake)
	sc, chans, reqs, err := ssh.NewClientConn(conn, h.addr(), &ssh.ClientConfig{
		Config:            ssh.Config{KeyExchanges: h.algorithms.kex, Ciphers: h.algorithms.ciphers, MACs: h.algorithms.macs},
		User:              h.user,
		AuthCallback:      l.method,
		HostKeyCallback:   d.hostKeyCallback(h),
		BannerCallback:    l.text,
		HostKeyAlgorithms: hostKeys,
		ClientVersion:     "SSH-2.0-snapgate",
	})
	if err != nil {
		err = connectError(ctx, h.String(), l.error(err))
		var e *Error
		if errors.As(err, &e) && e.Kind == KindOther && ctx.Err() == nil {
			e.Kind, e.Hint = KindProtocol, "is it the right port, and an SSH server that listens there?"
		}
		return nil, err
	}
	conn.unlimit()
	client := ssh.NewClient(sc, chans, reqs)
	if !stop() {
		_ = client.Close()
		return nil, connectError(ctx, h.String(), net.ErrClosed)
	}
	return client, nil
}
