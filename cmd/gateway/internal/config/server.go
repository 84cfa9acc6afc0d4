package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/auth"
)

// readSFTP reads the sftp section.
func (l *loader) readSFTP(n node) {
	s := &SFTP{}
	n.fields(fields{
		"listen": {func(n node) { readListen(n, &s.Listen, "127.0.0.1:2022", ":22") }},
		"host_keys": {func(n node) {
			n.list(func(e node) {
				if f, ok := e.text(); ok {
					s.HostKeys = append(s.HostKeys, e.path(f))
					l.checkHostKey(e, e.path(f))
				}
			})
		}},
		"idle_timeout": intoDuration(&s.IdleTimeout, 0),
		"keepalive":    intoDuration(&s.Keepalive, time.Second),
		"banner":       intoText(&s.Banner),
		"legacy":       {func(n node) { s.readLegacy(n) }},
		"chacha20":     intoBool(&s.ChaCha20),
	}.later("trusted_user_ca_keys", "host_certificates", "proxy_protocol"))
	if s.Listen == "" && n.clean() {
		n.failHint(`add listen: "127.0.0.1:2022"`, "listen is missing")
	}
	l.cfg.SFTP = s
}

// readLegacy reads true, which means everywhere, or a list of networks.
func (s *SFTP) readLegacy(n node) {
	if n.isList() {
		s.LegacyFrom = readPrefixes(n)
		return
	}
	var everywhere bool
	intoBool(&everywhere).read(n)
	if everywhere {
		s.LegacyFrom = []netip.Prefix{
			netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0),
		}
	}
}

func (l *loader) checkHostKey(n node, name string) {
	l.checkSecretMode(n, name)
}

// readPrefixes reads a list of networks and addresses.
func readPrefixes(n node) []netip.Prefix {
	var out []netip.Prefix
	n.list(func(e node) {
		s, ok := e.text()
		if !ok {
			return
		}
		p, err := auth.ParsePrefix(s)
		if err != nil {
			e.fail("%w", err)
			return
		}
		out = append(out, p)
	})
	return out
}

func checkListen(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no port number from 0 to 65535", s)
	}
	return nil
}

// readLimits reads the limits section.
func (l *loader) readLimits(n node) {
	const (
		million  = 1_000_000
		smallest = 1 << 20
	)
	m := &l.cfg.Limits
	n.fields(fields{
		"spool":                   intoBytes(&m.Spool, 16*smallest),
		"store":                   intoBytes(&m.Store, smallest),
		"reserve":                 intoBytes(&m.Reserve, smallest),
		"changes":                 intoInt(&m.Changes, 10*million),
		"inline":                  intoBytes(&m.Inline, 0),
		"open_handles":            intoInt(&m.OpenHandles, million),
		"session_handles":         intoInt(&m.SessionHandles, million),
		"connections":             intoInt(&m.Connections, million),
		"connections_per_address": intoInt(&m.ConnectionsPerAddr, million),
		"connections_per_user":    intoInt(&m.ConnectionsPerUser, million),
		"handshakes":              intoInt(&m.Handshakes, million),
		"handshakes_per_address":  intoInt(&m.HandshakesPerAddr, million),
		"channels_per_connection": intoInt(&m.ChannelsPerConn, 1000),
		"channels_per_user":       intoInt(&m.ChannelsPerUser, million),
		"transfer_memory":         intoBytes(&m.TransferMemory, smallest),
		"user_transfer_memory":    intoBytes(&m.UserTransferMemory, smallest),
		"login_tries":             intoInt(&m.LoginTries, 100),
		"handshake_timeout":       intoDuration(&m.HandshakeTimeout, time.Second),
		"password_checks":         intoInt(&m.PasswordChecks, 64),
		"jobs":                    intoInt(&m.Jobs, 64),
		"drain":                   intoDuration(&m.Drain, 0),
	}.later("bandwidth", "quota", "memory"))
	if m.Inline > smallest {
		n.fail("inline may be at most 1MiB")
	}
	if m.Changes != 0 && m.Changes < 1000 {
		n.fail("changes must be at least 1000")
	}
}

// readLog reads the log section.
func (l *loader) readLog(n node) {
	n.fields(fields{
		"level": intoChoice(&l.cfg.Log.Level, []string{"debug", "info", "warn", "error"},
			[]slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}),
		"format": intoChoice(&l.cfg.Log.JSON, []string{"text", "json"}, []bool{false, true}),
	}.later("file", "syslog"))
}

// readAudit reads the audit section.
func (l *loader) readAudit(n node) {
	n.fields(fields{"file": {func(n node) { readPath(n, &l.cfg.Audit.File) }}})
	if l.cfg.Audit.File == "" && n.clean() {
		n.failHint("add file: ./data/audit.log", "file is missing")
	}
}

// warn notes what is allowed but unwise.
func (l *loader) warn(format string, args ...any) {
	l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf(format, args...))
}
