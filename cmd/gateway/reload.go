package main

import (
	"context"
	"errors"
	"reflect"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
)

// reload reads the configuration again and takes over what can be taken over while
// sessions are open: shares, sources, users, certificates, log.level and limits.drain. Everything else that
// changed is logged as waiting for a restart. When anything is wrong nothing changes.
func (s *serving) reload(ctx context.Context) {
	s.events.happened("reload", "", "", "", s.takeOver(ctx))
}

// takeOver is reload. Its error has been logged.
func (s *serving) takeOver(ctx context.Context) error {
	cfg, err := config.Load(s.cfg.File)
	if err != nil {
		var list config.Errors
		if !errors.As(err, &list) {
			s.log.Error("configuration not taken over", "err", err)
			return err
		}
		for _, e := range list {
			s.log.Error("configuration not taken over", "err", e)
		}
		return err
	}
	for _, w := range cfg.Warnings {
		s.log.Warn("configuration", "warning", w)
	}
	for _, key := range needRestart(s.cfg, cfg) {
		s.log.Warn("this change needs a restart", "key", key)
	}
	// Shares first: a user of a new share must find it.
	if err := s.system.Reload(ctx, cfg.AllShares()); err != nil {
		s.log.Error("configuration not taken over", "err", err)
		return err
	}
	if err := s.users.Reload(cfg.AuthUsers()); err != nil {
		s.log.Error("users not taken over", "err", err)
		return err
	}
	s.reloadCertificates(cfg)
	s.level.Set(cfg.Log.Level)
	for _, name := range missingShares(s.cfg, cfg) {
		s.log.Warn("this share is not configured any more; it stays until a restart", "share", name)
	}
	// The rest of the old configuration stays in force.
	now := *s.cfg
	now.Shares, now.Users, now.Warnings, now.Files = cfg.Shares, cfg.Users, cfg.Warnings, cfg.Files
	now.Sources, now.Destinations = cfg.Sources, cfg.Destinations
	now.Stores, now.Syncs, now.Maintenance, now.Verify = cfg.Stores, cfg.Syncs, cfg.Maintenance, cfg.Verify
	now.Retention, now.Expect = cfg.Retention, cfg.Expect
	now.Audit = s.reloadAudit(cfg)
	now.Log.Level, now.Limits.Drain, now.Limits.Store = cfg.Log.Level, cfg.Limits.Drain, cfg.Limits.Store
	if now.FTP != nil && cfg.FTP != nil {
		ftp := *now.FTP
		ftp.TLS.Certificate, ftp.TLS.Key, ftp.TLS.ClientCA = cfg.FTP.TLS.Certificate, cfg.FTP.TLS.Key, cfg.FTP.TLS.ClientCA
		now.FTP = &ftp
	}
	if now.HTTP != nil && cfg.HTTP != nil {
		http := *now.HTTP
		http.TLS, http.Operators, http.TrustedProxies = cfg.HTTP.TLS, cfg.HTTP.Operators, cfg.HTTP.TrustedProxies
		now.HTTP = &http
		if s.http != nil {
			s.http.operators.Store(&http.Operators)
			s.http.proxies.Store(&http.TrustedProxies)
		}
	}
	s.cfg = &now
	s.inForce.Store(s.cfg)
	s.keeper.policies.Store(&now.Retention)
	s.expect.Store(&now.Expect)
	s.fullness.limitTo(cfg.Limits.Store)
	if err := s.jobs.Set(s.jobsOf(s.cfg)); err != nil {
		s.log.Error("jobs not taken over", "err", err)
	}
	s.log.Info("configuration taken over", "shares", len(cfg.Shares), "users", len(cfg.Users))
	return nil
}

// reloadAudit opens the audit log anew, which may have been moved away or have another name.
func (s *serving) reloadAudit(cfg *config.Config) config.Audit {
	if s.events.audit == nil || cfg.Audit.File == "" {
		return s.cfg.Audit
	}
	if err := s.events.audit.Reopen(cfg.Audit.File); err != nil {
		s.log.Error("audit log not opened anew; the old file stays in use", "err", err)
		return s.cfg.Audit
	}
	return cfg.Audit
}

// needRestart lists the keys that differ and that a running gateway cannot take over.
func needRestart(old, cfg *config.Config) []string {
	was, is := *old, *cfg
	was.Limits.Drain, is.Limits.Drain = 0, 0
	was.Limits.Store, is.Limits.Store = 0, 0
	was.FTP, is.FTP = withoutCertificates(was.FTP), withoutCertificates(is.FTP)
	was.HTTP, is.HTTP = httpWithoutCertificates(was.HTTP), httpWithoutCertificates(is.HTTP)
	var keys []string
	for _, k := range []struct {
		key     string
		was, is any
	}{
		{"data_dir", was.DataDir, is.DataDir},
		{"store", was.Store, is.Store},
		{"sftp", was.SFTP, is.SFTP},
		{"ftp", was.FTP, is.FTP},
		{"http", was.HTTP, is.HTTP},
		{"limits", was.Limits, is.Limits},
		{"hooks", was.Hooks, is.Hooks},
		{"audit", was.Audit == (config.Audit{}), is.Audit == (config.Audit{})},
		{"log.format", was.Log.JSON, is.Log.JSON},
	} {
		if !reflect.DeepEqual(k.was, k.is) {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// withoutCertificates is a section without what can be taken over, but for whether there
// are certificates at all.
func withoutCertificates(f *config.FTP) *config.FTP {
	if f == nil {
		return nil
	}
	rest := *f
	rest.TLS = rest.TLS.WithoutNames()
	return &rest
}

// httpWithoutCertificates is withoutCertificates of the web server's section, whose operators and
// trusted proxies can be taken over, too.
func httpWithoutCertificates(h *config.HTTP) *config.HTTP {
	if h == nil {
		return nil
	}
	rest := *h
	rest.TLS, rest.Operators, rest.TrustedProxies = rest.TLS.WithoutNames(), nil, nil
	return &rest
}

// reloadCertificates takes over the files of the servers, which may have new contents under
// their old names.
func (s *serving) reloadCertificates(cfg *config.Config) {
	var errs []error
	if s.ftp != nil && cfg.FTP != nil {
		errs = append(errs, reloadTLS(s.ftp.tls, &cfg.FTP.TLS))
	}
	if s.http != nil && cfg.HTTP != nil {
		errs = append(errs, reloadTLS(s.http.tls, &cfg.HTTP.TLS))
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Error("certificate not taken over", "err", err)
		return
	}
	s.warnOfCertificates()
}

func missingShares(old, cfg *config.Config) []string {
	have := map[string]bool{}
	for _, s := range cfg.Shares {
		have[s.Name] = true
	}
	var gone []string
	for _, s := range old.Shares {
		if !have[s.Name] {
			gone = append(gone, s.Name)
		}
	}
	return gone
}
