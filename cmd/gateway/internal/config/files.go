package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Unreadable says of each file that a store, a source or a destination names, and that cannot be read now, which key
// names it and why: one line each. Nothing needs them before a store is opened, or a job runs.
func (c *Config) Unreadable() (lines []string) {
	check := func(where, key string, names ...string) {
		for _, name := range names {
			if err := readable(name); err != nil {
				lines = append(lines, fmt.Sprintf("%s.%s: %v", where, key, err))
			}
		}
	}
	checkStore := func(where string, st *Store) {
		check(where, "passphrase_file", st.PassphraseFile)
		if s := st.S3; s != nil {
			check(where, "secret_key_file", s.SecretKeyFile)
			check(where, "ca_file", s.CAFile)
		}
		if s := st.SFTP; s != nil {
			check(where, "identity_file", s.IdentityFiles...)
			check(where, "identity_passphrase_file", s.PassphraseFile)
			check(where, "password_file", s.PasswordFile)
			check(where, "ssh_config", s.ConfigFile)
			if needed(s.KnownHosts, s.HostKey) {
				check(where, "known_hosts", s.KnownHosts)
			}
		}
	}
	checkRemote := func(where string, r *Remote) {
		check(where, "identity", r.Identities...)
		check(where, "passphrase_file", r.PassphraseFile)
		check(where, "password_file", r.PasswordFile)
		check(where, "ca_file", r.CAFile)
		check(where, "ssh_config", r.SSHConfig)
		if needed(r.KnownHosts, r.HostKey) {
			check(where, "known_hosts", r.KnownHosts)
		}
	}
	checkStore("store", &c.Store)
	for i := range c.Stores {
		checkStore("stores."+c.Stores[i].Name, &c.Stores[i])
	}
	for i := range c.Sources {
		checkRemote("sources."+c.Sources[i].Name, &c.Sources[i].Remote)
	}
	for i := range c.Destinations {
		checkRemote("destinations."+c.Destinations[i].Name, &c.Destinations[i])
	}
	return lines
}

// needed reports whether a file of known hosts must be there: with accept-new the first login makes it.
func needed(name, policy string) bool {
	if policy != hostKeyAcceptNew {
		return true
	}
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// readable returns why a file cannot be read; nil for no name.
func readable(name string) error {
	if name == "" {
		return nil
	}
	// Only what is no pipe is opened: there, somebody waits for whoever reads.
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory", name)
	case !info.Mode().IsRegular():
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return f.Close()
}
