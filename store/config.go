package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/encryption"
	"github.com/PlakarKorp/kloset/hashing"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"

	"github.com/snapgate/gateway/internal/disk"
)

const (
	// maxConfigBytes bounds what is read of a configuration; it is some hundred bytes.
	maxConfigBytes = 1 << 20

	// touchSlack is how much more memory than it takes is prepared for a derivation, since small allocations may
	// take the beginning of that.
	touchSlack = 4 << 20

	// keySize is the only key size that kloset's ciphers and hashes take.
	keySize = 32

	// Bounds on key derivation parameters. They are read before their MAC can be checked
	// (checking it takes the key), so a damaged file must not exhaust the machine.
	maxArgonMemory = 4 << 20 // KiB, 4 GiB; kloset's default is 256 MiB
	maxArgonTime   = 1 << 10 // kloset's default is 4

	// argonLanes is the parallelism of key derivation in new stores, as RFC 9106, section 4
	// recommends; kloset's default is 1. The work is the same, and every command that opens
	// the store waits for it, on as many cores as there are.
	argonLanes = 4
)

// configHeader is the wrapping of a kloset configuration: 8 bytes of magic, the resource
// type, the version; behind the configuration follows a MAC.
func parseConfig(wrapped []byte) (*storage.Configuration, error) {
	if len(wrapped) < int(storage.STORAGE_HEADER_SIZE+storage.STORAGE_FOOTER_SIZE) {
		return nil, fmt.Errorf("%w: its configuration is cut short", ErrDamaged)
	}
	magic := string(wrapped[:8])
	typ := resources.Type(binary.LittleEndian.Uint32(wrapped[8:12]))
	if (magic != "_KLOSET_" && magic != "_PLAKAR_") || typ != resources.RT_CONFIG {
		return nil, fmt.Errorf("%w: its configuration is none", ErrDamaged)
	}
	version := versioning.Version(binary.LittleEndian.Uint32(wrapped[12:16]))
	if !versioning.IsCompatibleWithCurrentVersion(resources.RT_CONFIG, version) {
		return nil, fmt.Errorf("%w: configuration %s, this program knows %s", ErrNewerVersion,
			version, versioning.GetCurrentVersion(resources.RT_CONFIG))
	}
	config, err := storage.NewConfigurationFromWrappedBytes(wrapped)
	if err != nil {
		return nil, fmt.Errorf("%w: its configuration cannot be decoded: %w", ErrDamaged, err)
	}
	if config.Encryption != nil {
		if err := checkKDF(config.Encryption.KDFParams); err != nil {
			return nil, err
		}
	}
	return config, nil
}

// checkKDF refuses parameters that would make the derivation panic or never end.
func checkKDF(p encryption.KDFParams) error {
	ok := false
	switch {
	case p.KDF == "ARGON2ID" && p.Argon2idParams != nil:
		a := p.Argon2idParams
		ok = a.KeyLen == keySize && a.Time > 0 && a.Time <= maxArgonTime &&
			a.Threads > 0 && a.Memory <= maxArgonMemory
	case p.KDF == "SCRYPT" && p.ScryptParams != nil:
		s := p.ScryptParams
		ok = s.KeyLen == keySize && s.N > 0 && s.N <= 1<<22 && s.R > 0 && s.R <= 64 && s.P > 0 && s.P <= 64
	case p.KDF == "PBKDF2" && p.Pbkdf2Params != nil:
		b := p.Pbkdf2Params
		ok = b.KeyLen == keySize && b.Iterations > 0 && b.Iterations <= 1<<26 && hashing.GetHasher(b.Hashing) != nil
	}
	if !ok {
		return fmt.Errorf("%w: key derivation %q has parameters that make no sense", ErrDamaged, p.KDF)
	}
	return nil
}

// unlock derives the repository key, nil for a plaintext store, and checks it and the
// configuration's MAC.
func unlock(config *storage.Configuration, wrapped, passphrase []byte) ([]byte, error) {
	var key []byte
	if config.Encryption != nil {
		var err error
		if key, err = deriveKey(&config.Encryption.KDFParams, passphrase); err != nil {
			return nil, fmt.Errorf("derive key: %w", err)
		}
		if !encryption.VerifyCanary(config.Encryption, key) {
			return nil, ErrWrongPassphrase
		}
	}
	return key, verifyWrapped(key, wrapped)
}

// verifyWrapped compares a configuration with its MAC.
func verifyWrapped(key, wrapped []byte) error {
	_, rd, err := storage.Deserialize(configHasher(key), resources.RT_CONFIG, io.NopCloser(bytes.NewReader(wrapped)))
	if err == nil {
		_, err = io.Copy(io.Discard, rd)
	}
	if err != nil {
		return fmt.Errorf("%w: its configuration does not verify: %w", ErrDamaged, err)
	}
	return nil
}

// deriveKey makes a key of a passphrase as kloset does.
func deriveKey(p *encryption.KDFParams, passphrase []byte) ([]byte, error) {
	// Argon2id leaves 256 MiB behind that the process will not need again.
	defer debug.FreeOSMemory()
	if a := p.Argon2idParams; a != nil {
		touch(int(a.Memory)<<10 + touchSlack)
	}
	return encryption.DeriveKey(*p, passphrase)
}

// touch leaves free memory of so many bytes on the heap that the system has given already. Argon2id reads each
// block before it writes it: of memory that nobody has written yet the system gives every page twice, first a
// shared one of zeros, whose replacement interrupts all cores. That is half of the time of a derivation.
func touch(size int) {
	mem := make([]byte, size)
	for i := 0; i < size; i += os.Getpagesize() {
		mem[i] = 1
	}
	runtime.GC() // frees it, which has no use any more: the next allocation of this size is there
}

func configHasher(key []byte) hash.Hash {
	if key == nil {
		return hashing.GetHasher(storage.DEFAULT_HASHING_ALGORITHM)
	}
	return hashing.GetMACHasher(storage.DEFAULT_HASHING_ALGORITHM, key)
}

// newConfig makes the configuration of a new store and its wrapped form.
func newConfig(passphrase []byte, plaintext, cheapKDF bool) (*storage.Configuration, []byte, []byte, error) {
	config := storage.NewConfiguration()
	var key []byte
	if plaintext {
		config.Encryption = nil
	} else {
		if len(passphrase) == 0 {
			return nil, nil, nil, fmt.Errorf("create store: %w: the passphrase is empty", ErrWrongPassphrase)
		}
		config.Encryption.KDFParams.Argon2idParams.Threads = argonLanes
		if cheapKDF {
			config.Encryption.KDFParams.Argon2idParams.Time = 1
			config.Encryption.KDFParams.Argon2idParams.Memory = 64
		}
		var err error
		if key, err = deriveKey(&config.Encryption.KDFParams, passphrase); err != nil {
			return nil, nil, nil, fmt.Errorf("derive key: %w", err)
		}
		if config.Encryption.Canary, err = encryption.DeriveCanary(config.Encryption, key); err != nil {
			return nil, nil, nil, fmt.Errorf("make canary: %w", err)
		}
	}
	raw, err := config.ToBytes()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("encode configuration: %w", err)
	}
	rd, err := storage.Serialize(configHasher(key), resources.RT_CONFIG,
		versioning.GetCurrentVersion(resources.RT_CONFIG), bytes.NewReader(raw))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("wrap configuration: %w", err)
	}
	wrapped, err := io.ReadAll(rd)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("wrap configuration: %w", err)
	}
	return config, wrapped, key, nil
}

// keptName is the name of the kept configuration of a store, below KeepDir. It depends on
// the location, so that changing the location never mixes two stores up.
func keptName(keepDir string, at location) string {
	sum := sha256.Sum256([]byte(at.key()))
	return filepath.Join(keepDir, "store-"+hex.EncodeToString(sum[:8])+".config")
}

// writeDurably puts a small file in place: after it returns nil the file survives power
// loss, and whatever happens it is never seen half written.
func writeDurably(fsys disk.FS, path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := fsys.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, ignoreNotExist(fsys.Remove(tmp)))
	}
	return fsys.SyncDir(filepath.Dir(path))
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
