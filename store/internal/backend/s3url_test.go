package backend

import (
	"testing"
	"time"
)

// TestS3Addressing looks where requests for an object go.
func TestS3Addressing(t *testing.T) {
	yes, no := true, false
	tests := []struct {
		endpoint string
		inHost   *bool
		noTLS    bool
		want     string
	}{
		{endpoint: "s3.example.com", want: "https://s3.example.com/bucket/pre/fix/CONFIG"},
		{endpoint: "s3.example.com:9000", inHost: &yes, want: "https://bucket.s3.example.com:9000/pre/fix/CONFIG"},
		{endpoint: "127.0.0.1:9000", noTLS: true, want: "http://127.0.0.1:9000/bucket/pre/fix/CONFIG"},
		{endpoint: "s3.eu-west-3.amazonaws.com", want: "https://bucket.s3.dualstack.eu-west-3.amazonaws.com/pre/fix/CONFIG"},
		{endpoint: "s3.eu-west-3.amazonaws.com", inHost: &no, want: "https://s3.dualstack.eu-west-3.amazonaws.com/bucket/pre/fix/CONFIG"},
	}
	for _, tt := range tests {
		s, err := NewS3(S3Config{
			Endpoint: tt.endpoint, Bucket: "bucket", Prefix: "pre/fix", Region: "eu-west-3",
			AccessKey: "access", SecretKey: "secret", VirtualHost: tt.inHost, NoTLS: tt.noTLS,
		})
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.core.PresignedGetObject(t.Context(), s.cfg.Bucket, s.key(ConfigName), time.Hour, nil)
		if err != nil {
			t.Fatal(err)
		}
		u.RawQuery = ""
		if got := u.String(); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.endpoint, got, tt.want)
		}
	}
}

// TestS3Credentials states where credentials come from.
func TestS3Credentials(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SHARED_CREDENTIALS_FILE",
	} {
		t.Setenv(name, "")
	}
	creds := func(cfg S3Config) string {
		c, err := s3Credentials(cfg)
		if err != nil {
			return err.Error()
		}
		v, err := c.GetWithContext(nil)
		if err != nil {
			return err.Error()
		}
		return v.AccessKeyID + "/" + v.SecretAccessKey
	}
	none := ErrCredentials.Error()
	if got := creds(S3Config{}); got != none {
		t.Errorf("nowhere: %s", got)
	}
	for _, cfg := range []S3Config{{AccessKey: "a"}, {SecretKey: "s"}} {
		if got := creds(cfg); got != none+": access key or secret key is empty" {
			t.Errorf("half: %s", got)
		}
	}
	if got, want := creds(S3Config{AccessKey: "a", SecretKey: "s"}), "a/s"; got != want {
		t.Errorf("given: %s, want %s", got, want)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "ea")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "es")
	if got, want := creds(S3Config{}), "ea/es"; got != want {
		t.Errorf("environment: %s, want %s", got, want)
	}
}
