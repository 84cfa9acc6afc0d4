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
	cfg, err := config.Load(s.cfg.File)
	if err != nil {
		var list config.Errors
		if !errors.As(err, &list) {
			s.log.Error("configuration not taken over", "err", err)
			return
		}
		for _, e := range list {
			s.log.Error("configuration not taken over", "err", e)
		}
		return
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
		return
	}
	if err := s.users.Reload(cfg.AuthUsers()); err != nil {
		s.log.Error("users not taken over", "err", err)
		return
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
	now.Stores, now.Syncs = cfg.Stores, cfg.Syncs
	now.Retention = cfg.Retention
	now.Log.Level, now.Limits.Drain = cfg.Log.Level, cfg.Limits.Drain
	if now.FTP != nil && cfg.FTP != nil {
		ftp := *now.FTP
		ftp.TLS.Certificate, ftp.TLS.Key, ftp.TLS.ClientCA = cfg.FTP.TLS.Certificate, cfg.FTP.TLS.Key, cfg.FTP.TLS.ClientCA
		now.FTP = &ftp
	}
	s.cfg = &now
	s.keeper.policies.Store(&now.Retention)
	if err := s.jobs.Set(s.jobsOf(s.cfg)); err != nil {
		s.log.Error("jobs not taken over", "err", err)
	}
	s.log.Info("configuration taken over", "shares", len(cfg.Shares), "users", len(cfg.Users))
}

// needRestart lists the keys that differ and that a running gateway cannot take over.
func needRestart(old, cfg *config.Config) []string {
	was, is := *old, *cfg
	was.Limits.Drain, is.Limits.Drain = 0, 0
	was.FTP, is.FTP = withoutCertificates(was.FTP), withoutCertificates(is.FTP)
	var keys []string
	for _, k := range []struct {
		key     string
		was, is any
	}{
		{"data_dir", was.DataDir, is.DataDir},
		{"store", was.Store, is.Store},
		{"sftp", was.SFTP, is.SFTP},
		{"ftp", was.FTP, is.FTP},
		{"limits", was.Limits, is.Limits},
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
	for _, name := range []*string{&rest.TLS.Certificate, &rest.TLS.Key, &rest.TLS.ClientCA} {
		if *name != "" {
			*name = "set"
		}
	}
	return &rest
}

// reloadCertificates takes over the files of the FTP server, which may have new contents
// under their old names.
func (s *serving) reloadCertificates(cfg *config.Config) {
	if s.ftp == nil || cfg.FTP == nil {
		return
	}
	if err := s.ftp.reloadTLS(&cfg.FTP.TLS); err != nil {
		s.log.Error("certificate not taken over", "err", err)
		return
	}
	s.warnOfCertificate()
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
