package store

import (
	"strings"
	"testing"
)

func TestParseLocation(t *testing.T) {
	tests := []struct {
		text string
		want string // "": refused
		key  string // of what is kept
	}{
		{"/srv/store", "fs:///srv/store", "/srv/store"},
		{"fs:///srv//store/", "fs:///srv/store", "/srv/store"},
		{"fs://", "", ""},
		{"fs:///srv/x.ptar", "", ""},
		{"ftp://host/x", "", ""},
		{"s3://host/bucket", "s3://host/bucket", "s3://host/bucket"},
		{"s3://host:9000/bucket/pre/fix/", "s3://host:9000/bucket/pre/fix", "s3://host:9000/bucket/pre/fix"},
		{"s3://[::1]:9000/bucket", "s3://[::1]:9000/bucket", "s3://[::1]:9000/bucket"},
		{"s3://bucket", "", ""},
		{"s3://host/", "", ""},
		{"s3:///bucket", "", ""},
		{"s3://host//prefix", "", ""},
		{"s3://host/bucket/../other", "", ""},
		{"s3://host/bucket/a//b", "", ""},
		{"s3://host/bucket?x=y", "", ""},
		{"s3://host/bucket#x", "", ""},
		{"s3://access:topsecret@host/bucket", "", ""},
		{"sftp://host/srv/store", "sftp://host/srv/store", "sftp://host/srv/store"},
		{"sftp://me@host:2222/store/", "sftp://me@host:2222/store", "sftp://me@host:2222/store"},
		{"sftp://me@[::1]:22/store", "sftp://me@[::1]:22/store", "sftp://me@[::1]:22/store"},
		{"sftp://alias", "", ""},
		{"sftp://host/", "", ""},
		{"sftp:///store", "", ""},
		{"sftp://host:0/store", "", ""},
		{"sftp://host:99999/store", "", ""},
		{"sftp://host/store/../other", "", ""},
		{"sftp://host/a//b", "", ""},
		{"sftp://host/store?x", "", ""},
		{"sftp://me:topsecret@host/store", "", ""},
		{"sftp://me:topsecret@ho st/store", "", ""},
		{"s3://access:topsecret@ho st/bucket", "", ""},
	}
	for _, tt := range tests {
		l, err := parseLocation(tt.text)
		if (err == nil) != (tt.want != "") || err == nil && (l.String() != tt.want || l.key() != tt.key) {
			t.Errorf("%s: got %s, %v, want %s", tt.text, l, err, tt.want)
		}
		if (err == nil) != (CheckLocation(tt.text) == nil) {
			t.Errorf("%s: CheckLocation: %v", tt.text, CheckLocation(tt.text))
		}
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
	l, err := parseLocation("s3://host/bucket/pre/fix")
	if bucket, prefix := l.bucket(); err != nil || bucket != "bucket" || prefix != "pre/fix" {
		t.Errorf("bucket %q, prefix %q, %v", bucket, prefix, err)
	}
	l, err = parseLocation("sftp://a%40b@host:2222/store")
	if user, host, port := l.account(); err != nil || user != "a@b" || host != "host" || port != 2222 {
		t.Errorf("user %q, host %q, port %d, %v", user, host, port, err)
	}
	l, err = parseLocation("sftp://[::1]/store")
	if user, host, port := l.account(); err != nil || user != "" || host != "::1" || port != 0 {
		t.Errorf("user %q, host %q, port %d, %v", user, host, port, err)
	}
}
