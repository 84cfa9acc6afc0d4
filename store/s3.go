package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/snapgate/gateway/store/internal/backend"
)

// S3 says how a store in S3 is reached, besides its location. The zero value takes the
// credentials that programs for AWS take, and TLS.
type S3 struct {
	// AccessKey and SecretKey are the credentials. With neither they are taken from the
	// environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, perhaps AWS_SESSION_TOKEN) or
	// the file ~/.aws/credentials (AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE). SecretKey is
	// asked once.
	AccessKey string
	// Role takes those that the machine, or its container, gives out for its role, as instances of
	// EC2, tasks of ECS and pods of EKS do.
	Role      bool
	SecretKey func(ctx context.Context) ([]byte, error)

	Region string // "": found out
	// StorageClass is that of packfiles and states, "" for the bucket's own. What cannot be
	// read at once (GLACIER, DEEP_ARCHIVE) is none for a store.
	StorageClass string
	// VirtualHost says whether the bucket is part of the host name of requests, but for the one
	// that makes it; nil decides by the endpoint.
	VirtualHost *bool

	NoTLS    bool
	Insecure bool   // any certificate is good: for tests
	CAFile   string // PEM: more authorities whose certificates are good

	// Timeout is how long a request may stand still; 0: 30 s.
	Timeout time.Duration
	// Retries is how often a request is repeated, with growing pauses; 0: 4.
	Retries int
}

// StorageClasses lists the storage classes that a store may have.
func StorageClasses() []string {
	return []string{"STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"}
}

// remotePause is how long a store that could not be reached is not tried again. It is shorter
// than the pauses between attempts of a commit.
const remotePause = 2 * time.Second

// connectS3 makes the backend of a store in S3.
func connectS3(ctx context.Context, at location, cfg S3) (backend.Backend, error) {
	bucket, prefix := at.bucket()
	sc := backend.S3Config{
		Endpoint: at.endpoint, Bucket: bucket, Prefix: prefix, Region: cfg.Region, StorageClass: cfg.StorageClass,
		VirtualHost: cfg.VirtualHost, NoTLS: cfg.NoTLS, Insecure: cfg.Insecure,
		AccessKey: cfg.AccessKey, Role: cfg.Role, Timeout: cfg.Timeout, Retries: cfg.Retries,
	}
	if (cfg.AccessKey == "") != (cfg.SecretKey == nil) {
		return nil, errors.New("of access key and secret key one is missing")
	}
	if cfg.Role && cfg.AccessKey != "" {
		return nil, errors.New("an access key and a role exclude each other")
	}
	if cfg.SecretKey != nil {
		secret, err := cfg.SecretKey(ctx)
		if err != nil {
			return nil, fmt.Errorf("secret key: %w", err)
		}
		sc.SecretKey = string(secret)
	}
	if cfg.CAFile != "" {
		var err error
		if sc.CA, err = os.ReadFile(cfg.CAFile); err != nil {
			return nil, fmt.Errorf("certificates of authorities: %w", err)
		}
	}
	b, err := backend.NewS3(sc)
	if err != nil {
		return nil, err
	}
	pause := remotePause
	if cfg.Timeout > 0 {
		pause = min(pause, cfg.Timeout)
	}
	return backend.NewFailFast(b, pause), nil
}
