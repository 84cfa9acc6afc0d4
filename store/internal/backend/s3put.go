package backend

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // what S3 checks uploads with
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"
)

// Put implements Files. What fits into one part is one request; of more, parts are sent beside
// each other, and an object appears when all are there.
func (s *S3) Put(ctx context.Context, name string, rd io.Reader) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var first bytes.Buffer // grows: most files are small
	n, err := io.Copy(&first, io.LimitReader(rd, s3PartSize))
	if err != nil {
		return n, err
	}
	if n < s3PartSize {
		return n, s.putWhole(ctx, name, first.Bytes())
	}
	return s.putParts(ctx, name, first.Bytes(), rd)
}

func (s *S3) putOptions(name string) minio.PutObjectOptions {
	opts := minio.PutObjectOptions{SendContentMd5: true, ContentType: "application/octet-stream"}
	switch dirOf(name) {
	case "", LocksDir: // short-lived or always needed: other classes cost more then
	default:
		opts.StorageClass = s.cfg.StorageClass
	}
	return opts
}

func (s *S3) putWhole(ctx context.Context, name string, data []byte) error {
	_, err := s.core.PutObject(ctx, s.cfg.Bucket, s.key(name), bytes.NewReader(data), int64(len(data)), md5Base64(data), "", s.putOptions(name))
	return s.s3Error(ctx, "put", name, err)
}

func md5Base64(data []byte) string {
	sum := md5.Sum(data) //nolint:gosec // see import
	return base64.StdEncoding.EncodeToString(sum[:])
}

// upload is an upload in parts.
type upload struct {
	s    *S3
	name string
	id   string

	mu    sync.Mutex
	parts []minio.CompletePart // guarded by mu
}

func (s *S3) putParts(ctx context.Context, name string, first []byte, rd io.Reader) (int64, error) {
	id, err := s.core.NewMultipartUpload(ctx, s.cfg.Bucket, s.key(name), s.putOptions(name))
	if err != nil {
		return int64(len(first)), s.s3Error(ctx, "put", name, err)
	}
	u := &upload{s: s, name: name, id: id}
	n, err := u.sendAll(ctx, first, rd)
	if err == nil {
		err = u.complete(ctx, n)
	}
	if err != nil {
		return n, errors.Join(err, u.abort(ctx))
	}
	return n, nil
}

// sendAll sends all parts. It says how much it has read of rd, and what was in first.
func (u *upload) sendAll(ctx context.Context, first []byte, rd io.Reader) (n int64, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s3Parts)
	buffers := sync.Pool{New: func() any { b := make([]byte, s3PartSize); return &b }}
	n = int64(len(first))
	group.Go(func() error { return u.send(ctx, 1, first) })
	for number := 2; err == nil && ctx.Err() == nil; number++ {
		buf := buffers.Get().(*[]byte)
		var k int
		k, err = io.ReadFull(rd, *buf)
		n += int64(k)
		if k > 0 && (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) {
			group.Go(func() error {
				defer buffers.Put(buf)
				return u.send(ctx, number, (*buf)[:k])
			})
		}
	}
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, errors.Join(err, group.Wait())
}

func (u *upload) send(ctx context.Context, number int, data []byte) error {
	part, err := u.s.core.PutObjectPart(ctx, u.s.cfg.Bucket, u.s.key(u.name), u.id, number,
		bytes.NewReader(data), int64(len(data)), minio.PutObjectPartOptions{Md5Base64: md5Base64(data)})
	if err != nil {
		return u.s.s3Error(ctx, "put", u.name, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts = append(u.parts, minio.CompletePart{PartNumber: part.PartNumber, ETag: part.ETag})
	return nil
}

// complete makes an object of the parts.
func (u *upload) complete(ctx context.Context, size int64) error {
	slices.SortFunc(u.parts, func(a, b minio.CompletePart) int { return a.PartNumber - b.PartNumber })
	_, err := u.s.core.CompleteMultipartUpload(ctx, u.s.cfg.Bucket, u.s.key(u.name), u.id, u.parts, u.s.putOptions(u.name))
	err = u.s.s3Error(ctx, "put", u.name, err)
	if err == nil || ignoreNoUpload(err) != nil {
		return err
	}
	// The answer to an earlier attempt of this request was lost, and so is the upload: it is
	// an object now. Its name says what it holds, but for the lock's.
	info, serr := u.s.Stat(ctx, u.name)
	if serr != nil || info.Size != size {
		return errors.Join(err, serr)
	}
	return nil
}

// abort gives the upload up, also when ctx has ended. Sweep does it when this fails.
func (u *upload) abort(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s3AbortTimeout)
	defer cancel()
	err := u.s.core.AbortMultipartUpload(ctx, u.s.cfg.Bucket, u.s.key(u.name), u.id)
	err = ignoreNoUpload(u.s.s3Error(ctx, "abort upload", u.name, err))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.DeadlineExceeded) {
		return nil // the error that led here says more
	}
	return err
}
