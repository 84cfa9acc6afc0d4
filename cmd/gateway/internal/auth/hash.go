package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Limits of what a configured hash may cost. A hash above them would let anybody who can
// reach the port keep the machine busy.
const (
	maxArgonMemory  = 1 << 20 // KiB: 1 GiB
	maxArgonPasses  = 32
	maxArgonLanes   = 32
	maxArgonWork    = 4 << 20 // KiB times passes: about 4 s on one core
	maxBcryptCost   = 16      // about 4 s on one core
	minSaltBytes    = 8       // RFC 9106, section 3.1
	maxSaltBytes    = 64
	minArgonBytes   = 16
	maxArgonBytes   = 64
	argonVersion    = argon2.Version
	argonSaltLength = 16
	argonHashLength = 32
)

// The parameters of new hashes: RFC 9106's second recommendation with two lanes, about
// 0.1 s on two cores.
const (
	newArgonMemory = 64 << 10 // KiB
	newArgonPasses = 3
	newArgonLanes  = 2
)

// Hash is a password hash: argon2id or bcrypt. The zero Hash matches nothing.
type Hash struct {
	bcrypt []byte // the whole string; nil for argon2id

	memory uint32 // KiB
	passes uint32
	lanes  uint8
	salt   []byte
	sum    []byte
}

// equal reports whether two hashes are the same, of the same password with the same salt. Both are
// the configuration's: how long the comparison takes tells nothing.
func (h Hash) equal(o Hash) bool {
	return bytes.Equal(h.bcrypt, o.bcrypt) && h.memory == o.memory && h.passes == o.passes && h.lanes == o.lanes &&
		bytes.Equal(h.salt, o.salt) && bytes.Equal(h.sum, o.sum)
}

// IsZero reports whether h is no hash.
func (h Hash) IsZero() bool { return h.bcrypt == nil && h.sum == nil }

// ParseHash parses a hash as the configuration has it: a PHC string
// $argon2id$v=19$m=…,t=…,p=…$salt$hash, or bcrypt with the prefix $2a$, $2b$ or $2y$.
// Hashes that would take absurdly long to check are refused.
func ParseHash(s string) (Hash, error) {
	switch {
	case s == "":
		return Hash{}, errors.New("empty password hash")
	case strings.HasPrefix(s, "$argon2id$"):
		return parseArgon(s)
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, "$"):
		kind, _, _ := strings.Cut(s[1:], "$")
		return Hash{}, fmt.Errorf("unsupported password hash %q; use argon2id or bcrypt", "$"+kind+"$")
	}
	return Hash{}, errors.New("not a password hash; it must start with $argon2id$ or $2b$")
}

func parseBcrypt(s string) (Hash, error) {
	cost, err := bcrypt.Cost([]byte(s))
	if err != nil || len(s) != 60 {
		return Hash{}, errors.New("malformed bcrypt hash; it has 60 characters")
	}
	if strings.Trim(s[7:], "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return Hash{}, errors.New("malformed bcrypt hash; unexpected character")
	}
	if cost > maxBcryptCost {
		return Hash{}, fmt.Errorf("bcrypt cost %d is too high; at most %d", cost, maxBcryptCost)
	}
	return Hash{bcrypt: []byte(s)}, nil
}

func parseArgon(s string) (Hash, error) {
	f := strings.Split(s, "$") // "", argon2id, v=19, m=…, salt, hash
	if len(f) != 6 {
		return Hash{}, errors.New("malformed argon2id hash; want $argon2id$v=19$m=…,t=…,p=…$salt$hash")
	}
	if f[2] != "v="+strconv.Itoa(argonVersion) {
		return Hash{}, fmt.Errorf("argon2id version %q is not supported; want v=%d", f[2], argonVersion)
	}
	var h Hash
	if err := h.parseArgonParams(f[3]); err != nil {
		return Hash{}, err
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.DecodeString(f[4]); err != nil {
		return Hash{}, errors.New("malformed argon2id salt")
	}
	if h.sum, err = base64.RawStdEncoding.DecodeString(f[5]); err != nil {
		return Hash{}, errors.New("malformed argon2id hash")
	}
	if n := len(h.salt); n < minSaltBytes || n > maxSaltBytes {
		return Hash{}, fmt.Errorf("argon2id salt of %d bytes; want %d to %d", n, minSaltBytes, maxSaltBytes)
	}
	if n := len(h.sum); n < minArgonBytes || n > maxArgonBytes {
		return Hash{}, fmt.Errorf("argon2id hash of %d bytes; want %d to %d", n, minArgonBytes, maxArgonBytes)
	}
	return h, nil
}

// parseArgonParams parses "m=65536,t=3,p=2".
func (h *Hash) parseArgonParams(s string) error {
	p := strings.Split(s, ",")
	if len(p) != 3 {
		return fmt.Errorf("argon2id parameters %q; want m=…,t=…,p=…", s)
	}
	var v [3]uint64
	for i, key := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(p[i], key)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			return fmt.Errorf("argon2id parameters %q; want m=…,t=…,p=…", s)
		}
		v[i] = n
	}
	m, t, lanes := v[0], v[1], v[2]
	switch {
	case t < 1 || lanes < 1 || m < 8*lanes:
		return fmt.Errorf("argon2id parameters %q are too low", s)
	case m > maxArgonMemory:
		return fmt.Errorf("argon2id memory m=%d KiB is too high; at most %d", m, maxArgonMemory)
	case t > maxArgonPasses:
		return fmt.Errorf("argon2id passes t=%d are too many; at most %d", t, maxArgonPasses)
	case lanes > maxArgonLanes:
		return fmt.Errorf("argon2id lanes p=%d are too many; at most %d", lanes, maxArgonLanes)
	case m*t > maxArgonWork:
		return fmt.Errorf("argon2id parameters %q take too long; m times t may be at most %d", s, maxArgonWork)
	}
	h.memory, h.passes, h.lanes = uint32(m), uint32(t), uint8(lanes)
	return nil
}

// Verify reports whether password matches. It takes as long as the hash's parameters
// say, whatever the answer.
func (h Hash) Verify(password []byte) bool {
	switch {
	case h.bcrypt != nil:
		// Versions 2a, 2b and 2y differ only in bugs of other implementations. Like
		// everywhere, bytes after the 72nd do not count.
		return bcrypt.CompareHashAndPassword(h.bcrypt, password) == nil
	case h.sum != nil:
		got := argon2.IDKey(password, h.salt, h.passes, h.memory, h.lanes, uint32(len(h.sum)))
		return subtle.ConstantTimeCompare(got, h.sum) == 1
	}
	return false
}

// decoy returns a hash of the same cost that matches nothing anybody knows.
func (h Hash) decoy() Hash {
	if h.bcrypt != nil {
		// The last character stays: it carries four bits only, and not every one is valid.
		d := bytes.Clone(h.bcrypt)
		for i := 7; i < 28; i++ {
			d[i] = 'a'
		}
		return Hash{bcrypt: d}
	}
	h.salt = randomBytes(len(h.salt))
	h.sum = randomBytes(len(h.sum))
	return h
}

// HashPassword makes an argon2id hash with a random salt.
func HashPassword(password []byte) (string, error) {
	if len(password) == 0 {
		return "", errors.New("empty password")
	}
	salt := randomBytes(argonSaltLength)
	sum := argon2.IDKey(password, salt, newArgonPasses, newArgonMemory, newArgonLanes, argonHashLength)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argonVersion, newArgonMemory, newArgonPasses, newArgonLanes, b64(salt), b64(sum)), nil
}

// defaultDecoy is what unknown users are checked against when no user has a password.
func defaultDecoy() Hash {
	return Hash{
		memory: newArgonMemory, passes: newArgonPasses, lanes: newArgonLanes,
		salt: randomBytes(argonSaltLength), sum: randomBytes(argonHashLength),
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the process instead (Go 1.24)
	return b
}
