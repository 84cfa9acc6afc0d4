package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
)

func (p *program) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration",
		Long: `Reads the configuration and the files it includes and says everything that is wrong
with them. It opens neither the store nor a port. A file that the store, a source or a destination
names (keys, passwords, authorities) and that cannot be read here is a warning: what needs it will fail.`,
		Example: "  gateway config check -c /etc/gateway.yaml",
		Args:    arguments(0, 0),
		RunE:    func(*cobra.Command, []string) error { return p.configCheck() },
	}
}

func (p *program) configCheck() error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	warnings := cfg.Warnings
	if cfg.SFTP == nil && cfg.FTP == nil {
		warnings = append(warnings, "neither an sftp nor an ftp section: no port will be opened")
	}
	if cfg.FTP != nil && cfg.FTP.TLS.Usable() {
		if _, err := tlsConfig(&cfg.FTP.TLS); err != nil {
			warnings = append(warnings, fmt.Sprintf("ftp.tls: %v", err))
		}
	}
	if cfg.HTTP != nil && cfg.HTTP.TLS.Usable() {
		if _, err := tlsConfig(&cfg.HTTP.TLS); err != nil {
			warnings = append(warnings, fmt.Sprintf("http.tls: %v", err))
		}
	}
	warnings = append(warnings, cfg.Unreadable()...)
	for _, w := range warnings {
		_, _ = fmt.Fprintf(p.stderr, "gateway: warning: %s\n", w)
	}
	if _, err = fmt.Fprintf(p.stdout, "%s: good: %s, %s%s\n", p.configFile, count(len(cfg.Shares), "share", "shares"), count(len(cfg.Users), "user", "users"), sourceNames(cfg)); err != nil {
		return err
	}
	return p.sayRetention(cfg)
}

// sayRetention says in words what is kept.
func (p *program) sayRetention(cfg *config.Config) error {
	err := p.sayPolicies("", &cfg.Retention, "gateway prune")
	for i := range cfg.Stores {
		st := &cfg.Stores[i]
		err = errors.Join(err, p.sayPolicies("store "+st.Name+": ", &st.Upkeep.Retention, "nobody"))
	}
	return err
}

func (p *program) sayPolicies(where string, r *config.Retention, byHand string) error {
	lines := r.Words()
	switch {
	case r.Prune.Times != nil:
		lines = append(lines, "the rest is removed "+r.Prune.Times.Words())
	case r.Removes():
		lines = append(lines, "the rest is removed by: "+byHand)
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(p.stdout, where+line); err != nil {
			return err
		}
	}
	return nil
}

// sourceNames is ", 2 sources (read-only shares: mail, web)", "" without sources.
func sourceNames(cfg *config.Config) string {
	if len(cfg.Sources) == 0 {
		return ""
	}
	var names []string
	for _, s := range cfg.Sources {
		names = append(names, s.Name)
	}
	return fmt.Sprintf(", %s: %s)", count(len(names), "source (read-only share", "sources (read-only shares"), strings.Join(names, ", "))
}
