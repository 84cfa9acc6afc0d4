package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	// s3PartSize is up to which size a file is put in one request, and the size of the parts
	// of larger ones. S3 allows 10,000 parts, which makes 156 GiB.
	s3PartSize = 16 << 20
	// s3Parts is how many parts of one file are under way: a packfile of 64 MiB as a whole.
	s3Parts = 4
	// s3UploadMaxAge is when the parts of an upload count as left behind.
	s3UploadMaxAge = tmpMaxAge
	// maxS3Text is how many bytes of what the server says of an error are shown: what is no XML can be 1 KiB.
	maxS3Text = 300
	// s3AbortTimeout bounds tidying up after a failed Put, which may be because of the network.
	s3AbortTimeout = 5 * time.Second
)

// S3Config says how a bucket is reached. Secrets are never part of an error.
type S3Config struct {
	Endpoint string // host, or host:port
	Bucket   string
	Prefix   string // of all names, without slashes at its ends; may be ""
	Region   string // "": asked for, or told by the name of the endpoint

	// AccessKey and SecretKey are taken from the environment or the credentials file of AWS
	// when both are empty.
	AccessKey, SecretKey string
	// Role takes the credentials of the machine's or container's role, which it gives out, and new
	// ones before they end.
	Role bool

	// StorageClass is that of packfiles and states, "" for the bucket's own. It must be one
	// that can be read at once.
	StorageClass string
	// VirtualHost says whether the bucket is part of the host name, as in
	// bucket.s3.example.com; nil decides by the endpoint.
	VirtualHost *bool

	NoTLS    bool
	Insecure bool   // any certificate is good
	CA       []byte // PEM: more authorities whose certificates are good

	// Timeout is how long a request may stand still; 0: 30 s.
	Timeout time.Duration
	// Retries is how often a request is repeated, with growing pauses; 0: 4.
	Retries int
}

const (
	defaultS3Timeout = 30 * time.Second
	defaultS3Retries = 4
)

// S3 is a Backend in a bucket. It relies on what S3 promises: an object appears as a whole
// when its upload ends, and is read and listed by all from then on. What is sent bears an MD5
// sum, which every server checks.
type S3 struct {
	core    minio.Core
	once    minio.Core // does not repeat requests; see again
	cfg     S3Config
	prefix  string // with a slash at its end unless it is empty
	retries int
}

// roleTimeout is how long the machine, or its container, may take to give credentials out.
const roleTimeout = 10 * time.Second

// ErrCredentials means that there is nothing to log in with.
var ErrCredentials = errors.New("no credentials for S3")

// s3Credentials finds the credentials. Those of the file may have an end, and are read again
// then.
func s3Credentials(cfg S3Config) (*credentials.Credentials, error) {
	if cfg.AccessKey != "" || cfg.SecretKey != "" {
		if cfg.AccessKey == "" || cfg.SecretKey == "" {
			return nil, fmt.Errorf("%w: access key or secret key is empty", ErrCredentials)
		}
		return credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""), nil
	}
	if cfg.Role {
		// Whoever gives them out may be slow to start; they are asked for with the first request.
		return credentials.New(&credentials.IAM{Client: &http.Client{Timeout: roleTimeout}}), nil
	}
	creds := credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}})
	// None are anonymous requests for the library, and a store has no use for them.
	if value, err := creds.GetWithContext(nil); err != nil || value.AccessKeyID == "" || value.SecretAccessKey == "" {
		return nil, ErrCredentials // the error could show a line of the file
	}
	return creds, nil
}

// NewS3 returns the backend in a bucket. It does not connect. Errors: ErrCredentials.
func NewS3(cfg S3Config) (*S3, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultS3Timeout
	}
	if cfg.Retries == 0 {
		cfg.Retries = defaultS3Retries
	}
	transport, err := s3Transport(cfg)
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupAuto
	if cfg.VirtualHost != nil {
		lookup = minio.BucketLookupPath
		if *cfg.VirtualHost {
			lookup = minio.BucketLookupDNS
		}
	}
	creds, err := s3Credentials(cfg)
	if err != nil {
		return nil, err
	}
	s := &S3{cfg: cfg, retries: cfg.Retries}
	for core, tries := range map[*minio.Core]int{&s.core: cfg.Retries + 1, &s.once: 1} {
		c, err := minio.NewCore(cfg.Endpoint, &minio.Options{
			Creds:        creds,
			Secure:       !cfg.NoTLS,
			Transport:    transport,
			Region:       cfg.Region,
			BucketLookup: lookup,
			MaxRetries:   tries,
		})
		if err != nil {
			return nil, fmt.Errorf("s3 endpoint %s: %w", cfg.Endpoint, err)
		}
		c.SetAppInfo("snapgate", "1")
		*core = *c
	}
	if cfg.Prefix != "" {
		s.prefix = cfg.Prefix + "/"
	}
	return s, nil
}

func (s *S3) key(name string) string { return s.prefix + name }

// s3Error turns what the server said into what a Backend says.
func (s *S3) s3Error(ctx context.Context, op, name string, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("%s %s: %w", op, name, cause)
	}
	var answer minio.ErrorResponse
	if errors.As(err, &answer) {
		err = &S3Error{Code: answer.Code, Message: answer.Message, Status: answer.StatusCode}
	}
	return fmt.Errorf("s3: %s %s: %w", op, name, err)
}

// ErrNoRanges means that a server, or a proxy in front of it, has answered with other bytes of a file than it was
// asked for: those that there are would be taken for damaged.
var ErrNoRanges = errors.New("the server, or a proxy in front of it, does not keep to the range of bytes that it is asked for")

// S3Error is an error that the server has answered with.
type S3Error struct {
	Code    string // of S3, as NoSuchKey
	Message string
	Status  int // of HTTP
}

func (e *S3Error) Error() string {
	text := e.Message
	if text == "" {
		text = http.StatusText(e.Status)
	}
	return fmt.Sprintf("%s (%s, status %d)", s3Text(text), s3Text(e.Code), e.Status)
}

// s3Text is a text of the server as it is when it is short and can be printed, and else its beginning, in quotes.
func s3Text(s string) string {
	if len(s) <= maxS3Text && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) < 0 {
		return s
	}
	return strconv.Quote(s[:min(len(s), maxS3Text)])
}

// Is makes errors.Is know fs.ErrNotExist and fs.ErrPermission.
func (e *S3Error) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.Code == minio.NoSuchKey || e.Code == minio.NoSuchBucket
	case fs.ErrPermission:
		return e.Status == http.StatusForbidden || e.Status == http.StatusUnauthorized
	}
	return false
}

// Get implements Files. When the connection breaks while it is read, it goes on with another.
func (s *S3) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		if _, err := s.Stat(ctx, name); err != nil {
			return nil, err
		}
		return http.NoBody, nil
	}
	r := &s3Reader{ctx: ctx, s: s, name: name, offset: offset, length: length, tries: s.retries}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// s3Reader reads an object, or a part of it.
type s3Reader struct {
	ctx    context.Context //nolint:containedctx // of the Get that it belongs to: reading ends with it
	s      *S3
	name   string
	offset int64 // of what is read next
	length int64 // of what is to be read; negative: to the end
	etag   string
	body   io.ReadCloser
	tries  int // that are left
}

func (r *s3Reader) open() error {
	var opts minio.GetObjectOptions
	var err error
	switch {
	case r.length > 0:
		err = opts.SetRange(r.offset, r.offset+min(r.length, 1<<62-r.offset)-1)
	case r.offset > 0:
		err = opts.SetRange(r.offset, 0)
	}
	if err == nil && r.etag != "" {
		err = opts.SetMatchETag(r.etag) // the rest of the same
	}
	if err != nil {
		return err
	}
	body, info, header, err := r.s.core.GetObject(r.ctx, r.s.cfg.Bucket, r.s.key(r.name), opts)
	if err != nil {
		err = r.s.s3Error(r.ctx, "get", r.name, err)
		var answer *S3Error
		if errors.As(err, &answer) && answer.Status == http.StatusRequestedRangeNotSatisfiable {
			r.body = http.NoBody // it ends before the offset
			return nil
		}
		return err
	}
	if r.offset > 0 && !strings.HasPrefix(header.Get("Content-Range"), fmt.Sprintf("bytes %d-", r.offset)) {
		_ = body.Close()
		return fmt.Errorf("s3: get %s: %w", r.name, ErrNoRanges)
	}
	r.body, r.etag = body, info.ETag
	return nil
}

func (r *s3Reader) Read(p []byte) (int, error) {
	if r.length == 0 {
		return 0, io.EOF
	}
	if r.length > 0 { // the server may send more than it was asked for
		p = p[:min(int64(len(p)), r.length)]
	}
	n, err := r.body.Read(p)
	r.offset += int64(n)
	if r.length > 0 {
		r.length -= int64(n)
	}
	if n > 0 {
		r.tries = r.s.retries // it goes forward
	}
	if err == nil || err == io.EOF || r.length == 0 {
		return n, err
	}
	if r.tries == 0 || r.ctx.Err() != nil {
		return n, r.s.s3Error(r.ctx, "get", r.name, err)
	}
	r.tries--
	_ = r.body.Close() // it is broken
	r.body = http.NoBody
	return n, r.open()
}

func (r *s3Reader) Close() error { return r.body.Close() }

// Stat implements Files.
func (s *S3) Stat(ctx context.Context, name string) (Info, error) {
	obj, err := s.core.StatObject(ctx, s.cfg.Bucket, s.key(name), minio.StatObjectOptions{})
	if err != nil {
		return Info{}, s.s3Error(ctx, "stat", name, err)
	}
	return Info{Name: name, Size: obj.Size, ModTime: obj.LastModified}, nil
}

// List implements Files.
func (s *S3) List(ctx context.Context, dir string, each func(string) error) error {
	prefix := s.prefix
	if dir != "" {
		prefix = s.key(dir) + "/"
	}
	for obj := range s.core.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if obj.Err != nil {
			return s.s3Error(ctx, "list", dir, obj.Err)
		}
		name, ours := strings.CutPrefix(obj.Key, s.prefix)
		if !ours || strings.HasSuffix(name, "/") { // what some tools make for a directory
			continue
		}
		if err := each(name); err != nil {
			return err
		}
	}
	// The end of the context looks like the end of the list.
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	return nil
}

// Remove implements Files; what is not there is no error.
func (s *S3) Remove(ctx context.Context, name string) error {
	err := s.core.RemoveObject(ctx, s.cfg.Bucket, s.key(name), minio.RemoveObjectOptions{})
	return ignoreNotExist(s.s3Error(ctx, "remove", name, err))
}

// Create implements Backend: it makes the bucket when it is missing. There are no directories.
func (s *S3) Create(ctx context.Context) error {
	exists, err := s.core.BucketExists(ctx, s.cfg.Bucket)
	if err != nil {
		return s.s3Error(ctx, "look for bucket", s.cfg.Bucket, err)
	}
	if !exists {
		_, err := s.again(ctx, func() error {
			return s.s3Error(ctx, "make bucket", s.cfg.Bucket, s.once.MakeBucket(ctx, s.cfg.Bucket, minio.MakeBucketOptions{Region: s.cfg.Region}))
		})
		// Made meanwhile, by another gateway, or by an attempt whose answer was lost.
		var answer *S3Error
		if err != nil && !(errors.As(err, &answer) && answer.Code == minio.BucketAlreadyOwnedByYou) {
			return err
		}
	}
	return s.List(ctx, "", func(name string) error {
		switch dir, _, _ := strings.Cut(name, "/"); dir {
		case PackfilesDir, StatesDir:
			return fmt.Errorf("s3 bucket %s: %w", s.cfg.Bucket+"/"+s.cfg.Prefix, ErrOrphaned)
		case LocksDir:
			return nil
		}
		return &OccupiedError{Place: "s3 bucket " + strings.TrimSuffix(s.cfg.Bucket+"/"+s.cfg.Prefix, "/"), Name: name}
	})
}

// Sweep implements Backend: it gives up uploads in parts that nobody goes on with. They cost
// money and are listed nowhere else. Which are this installation's own is not known, so all
// have their time. That is the server's; it refuses who signs by a clock that is 15 minutes off.
func (s *S3) Sweep(ctx context.Context, now time.Time) error {
	var errs []error
	for upload := range s.core.ListIncompleteUploads(ctx, s.cfg.Bucket, s.prefix, true) {
		switch {
		case upload.Err != nil:
			errs = append(errs, s.s3Error(ctx, "list uploads", s.cfg.Bucket, upload.Err))
		case now.Sub(upload.Initiated) > s3UploadMaxAge:
			err := s.core.AbortMultipartUpload(ctx, s.cfg.Bucket, upload.Key, upload.UploadID)
			errs = append(errs, ignoreNoUpload(s.s3Error(ctx, "abort upload", upload.Key, err)))
		}
	}
	return ignoreNotExist(errors.Join(errs...))
}

func ignoreNoUpload(err error) error {
	var answer *S3Error
	if errors.As(err, &answer) && answer.Code == "NoSuchUpload" {
		return nil
	}
	return err
}
