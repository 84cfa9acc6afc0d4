package sftpclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A call that waits behind others on a slow line does not time out, as long as they are
// answered; one that is never answered does all the same.
func TestPatience(t *testing.T) {
	const timeout = time.Minute
	synctest.Test(t, func(t *testing.T) {
		c, err := dial(t, timeout, func(_ byte, id uint32, body []byte) []byte {
			if bytes.HasSuffix(body, []byte("/never")) {
				return []byte{}
			}
			<-time.After(timeout * 2 / 3)
			return packetOf(typeAttrs, id, u32(0))
		})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if _, err := c.Lstat(t.Context(), "/slow"); err != nil {
					t.Errorf("a call behind others: %v", err)
				}
			})
		}
		all.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		all.Go(func() {
			for ctx.Err() == nil {
				_, _ = c.Lstat(ctx, "/slow")
			}
		})
		_, err = c.Lstat(ctx, "/never")
		took := time.Since(began)
		cancel()
		all.Wait()
		if !errors.Is(err, ErrTimeout) || took < timeout || took > (patience+1)*timeout {
			t.Errorf("a call that is not answered: %v after %v", err, took)
		}
	})
}

// Uploads that wait for their turn on a slow line do not time out, as long as the server answers; with
// one that is silent they do.
func TestUploadPatience(t *testing.T) {
	const timeout = time.Minute
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Bool
		ended := make(chan struct{})
		defer close(ended)
		c, err := dial(t, timeout, func(typ byte, id uint32, _ []byte) []byte {
			if silent.Load() {
				<-ended
				return nil
			}
			switch typ {
			case typeOpen:
				return packetOf(typeHandle, id, appendString(nil, "h"))
			case typeWrite:
				<-time.After(2 * time.Second)
			}
			return packetOf(typeStatus, id, u32(statusOK))
		})
		if err != nil {
			t.Fatal(err)
		}
		c.limits.Write = maxRead
		data := make([]byte, maxRead)
		upload := func() error {
			u, err := c.Create(t.Context(), "/f", 0, 0o600, true)
			if err != nil {
				return err
			}
			if _, err = u.Write(t.Context(), data); err != nil {
				return err
			}
			_, err = u.Finish(t.Context())
			return err
		}
		var all sync.WaitGroup
		for range 2 * queue {
			all.Go(func() {
				if err := upload(); err != nil {
					t.Errorf("an upload behind others: %v", err)
				}
			})
		}
		all.Wait()
		silent.Store(true)
		began := time.Now()
		for range 2 * queue {
			all.Go(func() {
				if err := upload(); !errors.Is(err, ErrTimeout) {
					t.Errorf("to a silent server: %v", err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took < timeout || took > 2*timeout {
			t.Errorf("a silent server was given up after %v", took)
		}
	})
}

// An open file is read in several ranges, and says early what it is like.
func TestAgain(t *testing.T) {
	content := []byte("0123456789")
	opens, asked := 0, ""
	c, err := dial(t, time.Minute, func(typ byte, id uint32, body []byte) []byte {
		switch typ {
		case typeOpen:
			opens++
			return packetOf(typeHandle, id, appendString(nil, "h"))
		case typeFstat:
			asked += "s"
			return packetOf(typeAttrs, id, append(u32(1), 0, 0, 0, 0, 0, 0, 0, byte(len(content)))) // a size
		case typeRead:
			asked += "r"
			off := int(body[len(body)-5])
			n := int(body[len(body)-1])
			return packetOf(typeData, id, appendString(nil, string(content[off:off+n])))
		}
		return packetOf(typeStatus, id, u32(statusOK))
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	f, err := c.Open(ctx, "/f", 0, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Again(4, 2) {
		t.Error("another range before the end of the first")
	}
	for i, want := range []string{"0123", "89", "4"} {
		if err := f.AskStat(ctx); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(readerOf{ctx, f}, got); err != nil || string(got) != want {
			t.Errorf("range %d: %q, %v; want %q", i, got, err, want)
		}
		if _, err := f.Read(ctx, got); !errors.Is(err, io.EOF) {
			t.Errorf("range %d goes on: %v", i, err)
		}
		a, _, err := f.Stat(ctx)
		if err != nil || a.Size != uint64(len(content)) {
			t.Errorf("range %d: %+v, %v", i, a, err)
		}
		if next := []int64{8, 4, 0}[i]; !f.Again(next, []int64{2, 1, 1}[i]) {
			t.Fatalf("no range after %d", i)
		}
	}
	if opens != 1 || asked != "srsrsr" {
		t.Errorf("%d opens, asked %q", opens, asked)
	}
}

// readerOf is a File as an io.Reader.
type readerOf struct {
	ctx context.Context //nolint:containedctx // of a test
	f   *File
}

func (r readerOf) Read(p []byte) (int, error) { return r.f.Read(r.ctx, p) }
