package config

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/auth"
	"github.com/snapgate/gateway/vfs"
)

// Version is the configuration format that this package reads.
const Version = 1

// Config is a checked configuration. All paths in it are absolute.
type Config struct {
	File    string   // the main file, absolute
	Files   []string // the main file and all included ones, absolute
	DataDir string
	Store   Store   // its name is DefaultStore
	Stores  []Store // more of them, by name
	Syncs   []Sync  // by name
	// Maintenance is of Store.
	Maintenance Maintenance
	// Verify is of Store.
	Verify  Verify
	SFTP    *SFTP // nil: no port is opened
	FTP     *FTP  // nil: no port is opened
	HTTP    *HTTP // nil: no port is opened
	Shares  []vfs.ShareConfig
	Users   []User
	Sources []Source
	// Destinations are what is restored to.
	Destinations []Remote
	Retention    Retention
	Hooks        []Hook // by name
	Expect       Expect
	Limits       Limits
	Log          Log
	Audit        Audit
	Warnings     []string // what is allowed but unwise; one line each
}

// Store says where the store is and how its passphrase is found.
type Store struct {
	Name              string
	Location          string     // fs:///absolute/path, s3://host/bucket/prefix or sftp://host/path
	Path              string     // of a store on a local file system
	S3                *S3        // nil for a store that is not in S3
	SFTP              *SFTPStore // nil for a store that is not on an SFTP server
	PassphraseFile    string
	PassphraseEnv     string
	PassphraseCommand []string // program and arguments
	Plaintext         bool
	Create            bool
	// Limit is how many bytes it may have, 0 for no limit; of the store that is served, Limits has it.
	Limit int64
	// Upkeep is what serve does for a store of the stores section; of the store that is served, the
	// sections of the configuration say it.
	Upkeep Upkeep

	dir string // the working directory of PassphraseCommand
	at  node   // of an entry of stores, while it is loaded
}

// S3 says how a store in S3 is reached; a zero value is the default.
type S3 struct {
	AccessKey     string // "": credentials come from where programs for AWS look
	Role          bool   // those of the machine's role
	SecretKeyFile string
	SecretKeyEnv  string
	Region        string
	StorageClass  string
	VirtualHost   *bool // nil: by the endpoint
	NoTLS         bool
	Insecure      bool
	CAFile        string
	Timeout       time.Duration
	Retries       int
}

// SFTPStore says how a store on an SFTP server is reached; a zero value is the default of
// ssh_config, or of docs/REMOTES.md.
type SFTPStore struct {
	IdentityFiles  []string
	PassphraseFile string // of encrypted identities
	PassphraseEnv  string
	PasswordFile   string
	PasswordEnv    string
	KnownHosts     string
	HostKey        string // strict or accept-new
	Insecure       bool   // any host key is good
	ConfigFile     string // of ssh_config
	Legacy         bool   // algorithms of about 2010
	Transport      string // native or openssh
	Timeout        time.Duration
	Connections    int
}

// SFTP are the settings of the SFTP server; a zero value is the server's default.
type SFTP struct {
	Listen      string   // host:port
	HostKeys    []string // files; empty: made below data_dir
	Banner      string
	IdleTimeout time.Duration
	Keepalive   time.Duration
	LegacyFrom  []netip.Prefix
	ChaCha20    bool
}

// User is one configured user and where it was configured.
type User struct {
	auth.User
	Permissions string // as written, for user list
}

// Limits bound what clients can make the gateway hold or do; 0 is the default of the
// package that enforces a limit.
type Limits struct {
	Spool              int64 // bytes of spool and journal
	Store              int64 // bytes of the store; 0 for no limit
	Reserve            int64 // bytes of disk kept free for one commit
	Changes            int   // that wait for their commit, in all shares
	Inline             int64 // bytes up to which a file rides in the journal
	OpenHandles        int
	SessionHandles     int
	Connections        int
	ConnectionsPerAddr int
	ConnectionsPerUser int
	Handshakes         int
	HandshakesPerAddr  int
	ChannelsPerConn    int
	ChannelsPerUser    int
	TransferMemory     int64 // bytes of SFTP requests in work
	UserTransferMemory int64
	LoginTries         int
	HandshakeTimeout   time.Duration
	PasswordChecks     int
	Jobs               int           // that run at once
	Drain              time.Duration // how long a shutdown waits for transfers
}

// Log says how to log.
type Log struct {
	Level slog.Level
	JSON  bool
}

// Audit says where events are kept for whoever asks later.
type Audit struct {
	File string // "": nowhere
}

// defaultDrain fits, with the commit after it, well into the 90 s that systemd waits.
const defaultDrain = 30 * time.Second
