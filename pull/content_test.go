package pull

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/snapgate/gateway/internal/sftptest"
	"github.com/snapgate/gateway/snapshotter"
)

// tellingReader is a Stater.
type tellingReader struct {
	io.Reader
	stat func() (Entry, error)
}

func (r tellingReader) Close() error                        { return nil }
func (r tellingReader) Stat(context.Context) (Entry, error) { return r.stat() }

// tellingRemote has Staters for readers.
type tellingRemote struct {
	*fakeRemote
	stat func() (Entry, error)
}

func (r tellingRemote) Open(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	rd, err := r.fakeRemote.Open(ctx, path, offset, length)
	return tellingReader{rd, r.stat}, err
}

// A file is empty when who has it open says so. When the connection is lost in between, its size alone, which is what
// was listed, is not enough, and neither is an end that is that of the connection.
func TestEmptyIsSeenOpen(t *testing.T) {
	seen := Entry{Name: "f", Type: File, ModTime: then, Precision: time.Second}
	lost := fail("stat", "/f", KindConnection, io.EOF)
	more := fail("read", "/f", KindProtocol, nil)
	for name, tt := range map[string]struct {
		answers []error // of the readers, one after the other; the last again and again
		opens   int64
		want    error
	}{
		"empty":                {[]error{nil}, 1, nil},
		"not empty":            {[]error{more}, 1, more},
		"lost, empty":          {[]error{lost, lost, nil}, 3, nil},
		"lost, not empty":      {[]error{lost, more}, 2, more},
		"lost again and again": {[]error{lost}, int64(quick.Attempts), lost},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.file("/f", "")
			n := 0
			r := tellingRemote{f, func() (Entry, error) {
				err := tt.answers[min(n, len(tt.answers)-1)]
				n++
				return seen, err
			}}
			data, err := (&file{r: r, retry: quick, path: "/f", seen: seen}).whole(t.Context())
			if len(data) != 0 || !errors.Is(err, tt.want) || f.opens.Load() != tt.opens {
				t.Errorf("%q, %v; %d opens, want %v and %d", data, err, f.opens.Load(), tt.want, tt.opens)
			}
		})
	}
}

// rangedFile is a file that is read at several places at once, and what it holds.
func rangedFile(r Remote, n int) (*file, []byte) {
	data := randomBytes(n)
	return &file{
		r: r, caps: Capabilities{Ranges: true}, retry: quick, path: "/huge",
		seen: Entry{Name: "huge", Type: File, Size: int64(n), ModTime: then, Precision: time.Second},
	}, data
}

// heldRemote has one file, and a say in when its ranges are opened.
func heldRemote(data []byte, opened func(offset int64)) *fakeRemote {
	f := newFake()
	f.file("/huge", string(data))
	f.opened = func(_ string, offset int64) error {
		opened(offset)
		return nil
	}
	return f
}

// Ranges may come in any order.
func TestRangesInAnyOrder(t *testing.T) {
	c, want := rangedFile(nil, rangedSize+12345)
	later := make(chan struct{})
	c.r = heldRemote(want, func(offset int64) {
		switch offset {
		case 0:
			<-later // the first comes last of those under way
		case (rangesFirst - 1) * rangeSize:
			close(later)
		}
	})
	if got, err := c.whole(t.Context()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

// Files that are read at a time share a bound of memory, and none of them waits for another.
func TestRangesShareMemory(t *testing.T) {
	var opens atomic.Int64
	ahead := semaphore.NewWeighted(rangeSize)
	var readers []io.ReadCloser
	var want []byte
	for range 3 {
		c, data := rangedFile(nil, rangedSize)
		c.r, c.ahead, want = heldRemote(data, func(int64) { opens.Add(1) }), ahead, data
		rd, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(rd, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		readers = append(readers, rd)
	}
	if err := readers[0].Close(); err != nil { // early: it gives back what it has
		t.Error(err)
	}
	for _, rd := range readers[1:] {
		got, err := io.ReadAll(rd)
		if err != nil || !bytes.Equal(got, want[1:]) {
			t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
		}
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	}
	if !ahead.TryAcquire(rangeSize) {
		t.Error("memory is not given back")
	}
	// One of them had a range more than it always may have.
	if n := opens.Load(); n > 3*rangedSize/rangeSize {
		t.Errorf("%d ranges opened", n)
	}
}

// A file that was read at many places at once keeps little of the memory, which it has given back.
func TestRangesKeepLittle(t *testing.T) {
	c, want := rangedFile(nil, rangedSize)
	c.r, c.ahead = heldRemote(want, func(int64) {}), semaphore.NewWeighted(rangesMemory)
	r := newRanges(t.Context(), c)
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if !c.ahead.TryAcquire(rangesMemory) {
		t.Error("not all is given back")
	}
	if n := len(r.spare); n == 0 || n > rangesAlways {
		t.Errorf("%d buffers kept, want some and at most %d", n, rangesAlways)
	}
}

// How many ranges are under way follows from how long they take.
func TestRangesFollowTheLine(t *testing.T) {
	for name, tt := range map[string]struct {
		takes time.Duration
		want  func(most int64) bool
	}{
		"quick": {50 * time.Millisecond, func(n int64) bool { return n > rangesFirst }},
		"slow":  {rangeSlow + time.Second, func(n int64) bool { return n <= rangesAlways }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, want := rangedFile(nil, 2*rangedSize)
				var now, most atomic.Int64
				f := heldRemote(want, func(offset int64) {
					n := now.Add(1)
					for offset >= rangedSize { // it has been seen what they take
						if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
							break
						}
					}
				})
				f.reader = func(_ string, _ int64, rd io.Reader) io.Reader {
					return &slowReader{rd: rd, takes: tt.takes, ended: func() { now.Add(-1) }}
				}
				c.r = f
				rd, err := c.Open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer rd.Close()
				buf := make([]byte, rangeSize)
				for i := range len(want) / rangeSize {
					if _, err := io.ReadFull(rd, buf); err != nil || !bytes.Equal(buf, want[i*rangeSize:(i+1)*rangeSize]) {
						t.Fatalf("range %d: %v", i, err)
					}
				}
				if n := most.Load(); !tt.want(n) {
					t.Errorf("%d ranges at a time", n)
				}
			})
		})
	}
}

// slowReader takes a while before its first byte.
type slowReader struct {
	rd    io.Reader
	takes time.Duration
	ended func() // called once, when that is over
}

func (s *slowReader) Read(p []byte) (int, error) {
	if s.ended != nil {
		<-time.After(s.takes)
		s.ended()
		s.ended = nil
	}
	return s.rd.Read(p)
}

// A large file that changes while it is read is noticed by the range that sees it first, and a server that has one connection is enough to read it.
func TestRangesNoticeChanges(t *testing.T) {
	const size = 2 * rangedSize
	for name, tt := range map[string]struct {
		change func(path string) error
		kinds  []Kind
		most   int // what may have been read
	}{
		"as it was": {func(string) error { return nil }, nil, size},
		"truncated": {func(path string) error { return os.Truncate(path, size/2) }, []Kind{KindChanged, KindShort}, size - rangeSize},
		"grown":     {func(path string) error { return os.Truncate(path, size+1) }, []Kind{KindChanged}, size - rangeSize},
		"replaced": {func(path string) error {
			other := path + ".new"
			if err := os.WriteFile(other, make([]byte, size), 0o600); err != nil {
				return err
			}
			return os.Rename(other, path)
		}, []Kind{KindChanged}, size}, // all may come from handles that were opened before
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			h, r := newSFTPHouse(t, dir, 4)
			h.limit = 1
			c, want := rangedFile(r, size)
			path := filepath.Join(dir, "huge")
			if err := os.WriteFile(path, want, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, then, then); err != nil {
				t.Fatal(err)
			}
			got, err := readChanging(t.Context(), c, func() error { return tt.change(path) })
			if tt.kinds == nil {
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
				}
				return
			}
			known := false
			for _, k := range tt.kinds {
				known = known || err != nil && KindOf(err) == k
			}
			if !known || !bytes.HasPrefix(want, got) || len(got) > tt.most {
				t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
			}
		})
	}
}

// readChanging reads a file to its end or an error; change is called after its first byte.
func readChanging(ctx context.Context, c *file, change func() error) (got []byte, err error) {
	rd, err := c.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	got = make([]byte, 1)
	if _, err := io.ReadFull(rd, got); err != nil {
		return nil, err
	}
	if err := change(); err != nil {
		return nil, err
	}
	rest, err := io.ReadAll(rd)
	return append(got, rest...), err
}

// Large files that are read at a time do not wait for each other's open handles, nor for their own, when
// there are fewer than files: a handle that has read its range is for whoever waits.
func TestRangesShareHandles(t *testing.T) {
	const handles, files = 8, 5 // sftpSpare of the handles are left alone
	dir, server := t.TempDir(), sftptest.Server(t)
	want := randomBytes(rangedSize + files)
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), want[i:], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var dials atomic.Int32
	r := newSFTP(t, SFTPConfig{Root: dir, Dial: func(context.Context) (io.ReadWriteCloser, error) {
		if dials.Add(1) > 1 {
			return nil, errors.New("too many connections")
		}
		// OpenSSH announces 5 fewer than it may have files.
		return sftptest.Start(exec.Command("/bin/sh", "-c", `ulimit -n "$1" && exec "$2" -R`, "sh", strconv.Itoa(handles+5), server))
	}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := r.pool.get(ctx)
	if err != nil || conn.share != handles-sftpSpare {
		t.Fatalf("%+v, %v", conn, err)
	}
	r.pool.put(conn)
	var begun atomic.Int32
	all := make(chan struct{}) // closed when all files are under way
	counts := pullAll(ctx, t, r, FetchConfig{Ingests: files, Ingest: func(ctx context.Context, c snapshotter.Change) (snapshotter.Change, error) {
		rd, err := c.Content.Open(ctx)
		if err != nil {
			return c, err
		}
		defer rd.Close()
		got := make([]byte, c.Content.Size())
		if _, err := io.ReadFull(rd, got[:1]); err != nil {
			return c, err
		}
		if begun.Add(1) == files {
			close(all)
		}
		select {
		case <-all:
		case <-ctx.Done():
			return c, ctx.Err()
		}
		if _, err := io.ReadFull(rd, got[1:]); err != nil {
			return c, err
		}
		if !bytes.Equal(got, want[len(want)-len(got):]) {
			t.Errorf("%s differs", c.Path)
		}
		return c, atEnd(rd, c.Path)
	}})
	if counts.Read != files {
		t.Errorf("%d files of %d", counts.Read, files)
	}
}
