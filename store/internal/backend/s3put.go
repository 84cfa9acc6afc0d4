package backend

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // what S3 checks uploads with
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"
)

const (
	// s3Pause is how long to wait before a request is repeated; it doubles up to s3MaxPause.
	s3Pause    = 200 * time.Millisecond
	s3MaxPause = 2 * time.Second
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
	sum := md5Base64(data)
	_, err := s.again(ctx, func() error {
		_, err := s.once.PutObject(ctx, s.cfg.Bucket, s.key(name), bytes.NewReader(data), int64(len(data)), sum, "", s.putOptions(name))
		return s.s3Error(ctx, "put", name, err)
	})
	return err
}

// again makes a request that sends something, and repeats it with growing pauses. The library
// would read from the same reader again, while the connection of the attempt before may still
// do so: each attempt must have one of its own.
func (s *S3) again(ctx context.Context, request func() error) (repeated bool, err error) {
	for try := 0; ; try++ {
		err := request()
		if err == nil || try == s.retries || !mayPass(err) {
			return try > 0, err
		}
		pause := min(s3Pause<<try, s3MaxPause)
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// mayPass reports whether another attempt may succeed.
func mayPass(err error) bool {
	var answer *S3Error
	// What was sent did not arrive, or somebody else changes the same at the moment.
	if errors.As(err, &answer) && slices.Contains([]string{"RequestTimeout", "BadDigest", "IncompleteBody", "OperationAborted"}, answer.Code) {
		return true
	}
	return unreachable(err)
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
	group.Go(func() error {
		_, err := u.send(ctx, 1, first)
		return err
	})
	for number := 2; err == nil && ctx.Err() == nil; number++ {
		buf := buffers.Get().(*[]byte)
		var k int
		k, err = io.ReadFull(rd, *buf)
		n += int64(k)
		if k > 0 && (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) {
			group.Go(func() error {
				repeated, err := u.send(ctx, number, (*buf)[:k])
				if err == nil && !repeated { // else a connection may still read it
					buffers.Put(buf)
				}
				return err
			})
		}
	}
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, errors.Join(err, group.Wait())
}

func (u *upload) send(ctx context.Context, number int, data []byte) (repeated bool, err error) {
	var part minio.ObjectPart
	sum := md5Base64(data)
	repeated, err = u.s.again(ctx, func() (err error) {
		part, err = u.s.once.PutObjectPart(ctx, u.s.cfg.Bucket, u.s.key(u.name), u.id, number,
			bytes.NewReader(data), int64(len(data)), minio.PutObjectPartOptions{Md5Base64: sum})
		return u.s.s3Error(ctx, "put", u.name, err)
	})
	if err != nil {
		return repeated, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts = append(u.parts, minio.CompletePart{PartNumber: part.PartNumber, ETag: part.ETag})
	return repeated, nil
}

// complete makes an object of the parts.
func (u *upload) complete(ctx context.Context, size int64) error {
	slices.SortFunc(u.parts, func(a, b minio.CompletePart) int { return a.PartNumber - b.PartNumber })
	_, err := u.s.again(ctx, func() error {
		_, err := u.s.once.CompleteMultipartUpload(ctx, u.s.cfg.Bucket, u.s.key(u.name), u.id, u.parts, u.s.putOptions(u.name))
		return u.s.s3Error(ctx, "put", u.name, err)
	})
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
