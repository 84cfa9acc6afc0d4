package config

import (
	"log/slog"
	"path/filepath"

	"github.com/snapgate/gateway/cmd/gateway/internal/auth"
	"github.com/snapgate/gateway/ftpsrv"
	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/sshsrv"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// StoreConfig says how to open the store that is served. A command that only reads sets create
// to false: then nothing is created whatever the configuration says.
func (c *Config) StoreConfig(logger *slog.Logger, create bool) store.Config {
	return c.StoreConfigOf(&c.Store, logger, create)
}

// StoreConfigOf is StoreConfig of any store.
func (c *Config) StoreConfigOf(st *Store, logger *slog.Logger, create bool) store.Config {
	sc := store.Config{
		Location:  st.Location,
		Plaintext: st.Plaintext,
		Create:    st.Create && create,
		Logger:    logger,
		CacheDir:  filepath.Join(c.DataDir, "cache"),
		KeepDir:   c.DataDir,
	}
	if st != &c.Store {
		sc.CacheDir = filepath.Join(c.DataDir, "stores", st.Name, "cache")
	}
	if !st.Plaintext {
		sc.Passphrase = st.Passphrase
	}
	if s := st.S3; s != nil {
		sc.S3 = store.S3{
			AccessKey: s.AccessKey, Role: s.Role, Region: s.Region, StorageClass: s.StorageClass, VirtualHost: s.VirtualHost,
			NoTLS: s.NoTLS, Insecure: s.Insecure, CAFile: s.CAFile, Timeout: s.Timeout, Retries: s.Retries,
		}
		if s.AccessKey != "" {
			sc.S3.SecretKey = s.SecretKey
		}
	}
	if s := st.SFTP; s != nil {
		sc.SFTP = store.SFTP{
			IdentityFiles: s.IdentityFiles, PasswordFile: s.PasswordFile, PasswordEnv: s.PasswordEnv,
			KnownHosts: s.KnownHosts, HostKey: s.HostKey, ConfigFile: s.ConfigFile, Transport: s.Transport,
			Timeout: s.Timeout, Connections: s.Connections, Legacy: s.Legacy,
			PassphraseFile: s.PassphraseFile, PassphraseEnv: s.PassphraseEnv,
		}
		if s.Insecure {
			sc.SFTP.HostKey = "insecure"
		}
	}
	return sc
}

// VFSLimits are the limits of the live trees.
func (c *Config) VFSLimits() vfs.Limits {
	return vfs.Limits{
		SpoolBytes:   c.Limits.Spool,
		ReserveBytes: c.Limits.Reserve,
		Changes:      c.Limits.Changes,
		InlineBytes:  int(c.Limits.Inline),
		OpenHandles:  c.Limits.OpenHandles,
		SessionFiles: c.Limits.SessionHandles,
	}
}

// AuthUsers are the users as package auth takes them.
func (c *Config) AuthUsers() []auth.User {
	users := make([]auth.User, len(c.Users))
	for i := range c.Users {
		users[i] = c.Users[i].User
	}
	return users
}

// admission bounds the connections of each server.
func (l *Limits) admission() acceptor.Limits {
	return acceptor.Limits{
		Connections:          l.Connections,
		PerAddress:           l.ConnectionsPerAddr,
		PerUser:              l.ConnectionsPerUser,
		Handshakes:           l.Handshakes,
		HandshakesPerAddress: l.HandshakesPerAddr,
	}
}

// ServerConfig is what the configuration says of the SFTP server, which must be
// configured; keys, authenticator, sessions and logger are left to the caller.
func (c *Config) ServerConfig() sshsrv.Config {
	l := c.Limits
	return sshsrv.Config{
		Banner:           c.SFTP.Banner,
		HandshakeTimeout: l.HandshakeTimeout,
		KeepAlive:        c.SFTP.Keepalive,
		IdleTimeout:      c.SFTP.IdleTimeout,
		LegacyFrom:       c.SFTP.LegacyFrom,
		ChaCha20:         c.SFTP.ChaCha20,
		Limits: sshsrv.Limits{
			Admission:          l.admission(),
			Channels:           l.ChannelsPerConn,
			UserChannels:       l.ChannelsPerUser,
			Handles:            l.SessionHandles,
			TransferMemory:     l.TransferMemory,
			UserTransferMemory: l.UserTransferMemory,
			AuthTries:          l.LoginTries,
		},
	}
}

// FTPConfig is what the configuration says of the FTP server, which must be configured;
// TLS, authenticator, sessions and logger are left to the caller.
func (c *Config) FTPConfig() ftpsrv.Config {
	l, f := c.Limits, c.FTP
	return ftpsrv.Config{
		TLSRequired:   f.TLS.Required,
		Greeting:      f.Greeting,
		PassivePorts:  f.PassivePorts,
		PublicIP:      f.PublicIP,
		DisableActive: f.NoActive,
		ForeignData:   f.ForeignData,
		LoginTimeout:  l.HandshakeTimeout,
		IdleTimeout:   f.IdleTimeout,
		DataTimeout:   f.DataTimeout,
		CloseGrace:    f.CloseGrace,
		Limits: ftpsrv.Limits{
			Admission:  l.admission(),
			LoginTries: l.LoginTries,
		},
	}
}
