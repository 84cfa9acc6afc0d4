package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/snapgate/gateway/store"
)

// ErrSecretKey means that the secret key of a store could not be had, or is empty.
var ErrSecretKey = errors.New("no secret key")

// s3Fields adds the keys of the store section that are for S3 alone, and notes in used which
// were there. Names that plakar has too mean the same.
func (l *loader) s3Fields(known fields, s3 *S3) (used map[string]node) {
	used = make(map[string]node)
	useTLS := true
	for key, f := range map[string]field{
		"access_key":      intoText(&s3.AccessKey),
		"secret_key_file": l.intoSecretFile(&s3.SecretKeyFile),
		"secret_key_env":  intoText(&s3.SecretKeyEnv),
		"credentials":     intoChoice(&s3.Role, []string{"iam"}, []bool{true}),
		"region":          intoText(&s3.Region),
		"storage_class": {func(n node) {
			intoChoice(&s3.StorageClass, store.StorageClasses(), store.StorageClasses()).read(n)
		}},
		"bucket_in_host": {func(n node) {
			s3.VirtualHost = new(bool)
			intoBool(s3.VirtualHost).read(n)
		}},
		"use_tls": {func(n node) {
			intoBool(&useTLS).read(n)
			s3.NoTLS = !useTLS
		}},
		"tls_insecure_no_verify": intoBool(&s3.Insecure),
		"ca_file":                intoPath(&s3.CAFile),
		"retries":                intoInt(&s3.Retries, 100),
	} {
		known[key] = noting(used, key, f)
	}
	known["secret_access_key"] = noSecret("put it into a file of mode 0600 and write secret_key_file: FILE, or secret_key_env: NAME")
	return used
}

// finishS3 checks what the keys mean together.
func (l *loader) finishS3(n node, st *Store, s3 S3, used map[string]node) {
	if !strings.HasPrefix(st.Location, "s3://") {
		n.refuse(used, "is for stores in S3 alone")
		return
	}
	st.S3 = &s3
	secrets := 0
	for _, set := range []bool{s3.SecretKeyFile != "", s3.SecretKeyEnv != ""} {
		if set {
			secrets++
		}
	}
	switch {
	case !n.clean():
	case s3.Role && (secrets > 0 || s3.AccessKey != ""):
		n.fail("credentials: iam, and access_key with its secret, exclude each other")
	case secrets > 1:
		n.fail("secret_key_file and secret_key_env exclude each other")
	case secrets == 1 && s3.AccessKey == "":
		n.failHint("add access_key", "secret key without an access key")
	case secrets == 0 && s3.AccessKey != "":
		n.failHint("add secret_key_file or secret_key_env; without access_key the credentials of AWS's environment or file are taken",
			"access key without a secret key")
	case s3.NoTLS && (s3.CAFile != "" || s3.Insecure):
		n.fail("ca_file and tls_insecure_no_verify have no use with use_tls: false")
	}
	if s3.Insecure {
		l.warn("%s: tls_insecure_no_verify: whoever is between here and the server can read and change what is sent", n.key)
	}
}

// SecretKey gets the secret key from where the configuration says, as Passphrase does.
func (s *S3) SecretKey(context.Context) ([]byte, error) {
	var secret []byte
	source := s.SecretKeyFile
	if source != "" {
		data, err := readSecret(source)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSecretKey, err)
		}
		secret = bytes.TrimSpace(data)
	} else {
		source = "environment variable " + s.SecretKeyEnv
		value, ok := os.LookupEnv(s.SecretKeyEnv)
		if !ok {
			return nil, fmt.Errorf("%w: %s is not set", ErrSecretKey, source)
		}
		secret = []byte(value)
	}
	if len(secret) == 0 {
		return nil, fmt.Errorf("%w: %s is empty", ErrSecretKey, source)
	}
	return secret, nil
}
