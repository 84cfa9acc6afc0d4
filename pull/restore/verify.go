package restore

import (
	"bytes"
	"context"
	"crypto/md5"  //nolint:gosec // what a server offers, against accidents
	"crypto/sha1" //nolint:gosec // likewise
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"

	"github.com/snapgate/gateway/pull"
)

// verify compares the file in the destination with the snapshot's: by the server's hash, or by
// reading it back.
func (f *file) verify(ctx context.Context) (err error) {
	if err := f.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	err = f.r.Retry.Do(ctx, func() (bool, error) {
		now, err := f.r.Target.Lstat(ctx, f.dst)
		if err != nil {
			return false, err
		}
		if now.Type != pull.File || now.Size != f.e.Size {
			return false, f.differs("it has %d bytes, not %d", now.Size, f.e.Size)
		}
		if done, err := f.byHash(ctx); done || err != nil {
			return false, err
		}
		at, err := f.compare(ctx, f.dst, 0, f.e.Size)
		if err == nil && at < f.e.Size {
			err = f.differs("at byte %d", at)
		}
		return false, err
	})
	if err == nil {
		f.r.Report.verified.Add(1)
	}
	return err
}

func (f *file) differs(format string, args ...any) error {
	return &pull.Error{Op: "verify", Path: f.dst, Kind: pull.KindDiffers, Err: fmt.Errorf(format, args...)}
}

// byHash compares hashes where the server makes them.
func (f *file) byHash(ctx context.Context) (done bool, err error) {
	h, ok := f.r.Target.(pull.Hasher)
	if !ok {
		return false, nil
	}
	name, sum, err := h.Hash(ctx, f.dst)
	if err != nil {
		if pull.KindOf(err) == pull.KindUnsupported {
			return false, nil
		}
		return false, err
	}
	var own hash.Hash
	switch name {
	case "sha256":
		own = sha256.New()
	case "sha512":
		own = sha512.New()
	case "sha1":
		own = sha1.New() //nolint:gosec // see above
	case "md5":
		own = md5.New() //nolint:gosec // see above
	default:
		return false, nil
	}
	for off := int64(0); off < f.e.Size; {
		data, err := f.read(off)
		if err != nil {
			return false, err
		}
		_, _ = own.Write(data)
		off += int64(len(data))
	}
	if !bytes.Equal(own.Sum(nil), sum) {
		return true, f.differs("the server's %s is %x", name, sum)
	}
	return true, nil
}
