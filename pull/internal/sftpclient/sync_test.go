package sftpclient

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// What is durable is what was acknowledged before the fsync was asked for that has succeeded;
// writing goes on meanwhile, and an fsync that fails is never forgotten.
func TestUploadSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fsyncs []uint32 // that wait for an answer
		writes := 0
		c, err := dial(t, time.Minute, func(typ byte, id uint32, body []byte) []byte {
			switch typ {
			case typeOpen:
				return packetOf(typeHandle, id, appendString(nil, "h"))
			case typeExtended:
				fsyncs = append(fsyncs, id)
				return []byte{}
			case typeWrite:
				if writes++; writes == 3 { // never answered until the next fsync
					return []byte{}
				}
			case typeLstat: // answers the oldest fsync
				code := uint32(statusOK)
				if (&decoder{b: body}).string() == "fail" {
					code = 4
				}
				first := fsyncs[0]
				fsyncs = fsyncs[1:]
				return append(packetOf(typeStatus, first, u32(code)), packetOf(typeAttrs, id, u32(0))...)
			}
			return packetOf(typeStatus, id, u32(statusOK))
		})
		if err != nil {
			t.Fatal(err)
		}
		c.exts["fsync@openssh.com"] = "1"
		u, err := c.Create(t.Context(), "/f", 100, 0o600, false)
		if err != nil {
			t.Fatal(err)
		}
		step := func(want int64, answer string) {
			t.Helper()
			synctest.Wait()
			durable, err := u.Sync(t.Context())
			if err != nil || durable != want {
				t.Errorf("durable up to %d, %v, want %d", durable, err, want)
			}
			if _, err := u.Write(t.Context(), make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			if answer != "" {
				if _, err := c.Lstat(t.Context(), answer); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := u.Write(t.Context(), make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		step(0, "")     // asks for 110
		step(0, "fine") // which is under way still, and answered then
		step(110, "")   // asks for 120: the third write has no answer
		synctest.Wait()
		if len(fsyncs) != 1 {
			t.Errorf("%d fsyncs are under way", len(fsyncs))
		}
		if _, err := c.Lstat(t.Context(), "fail"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var st *StatusError
		if durable, err := u.Sync(t.Context()); !errors.As(err, &st) || durable != 110 {
			t.Errorf("after an fsync that failed: %d, %v", durable, err)
		}
		u.Abort()
	})
}

// A file is not finished when an fsync before the last one has failed: a server need not say it
// twice.
func TestFinishAfterFailedSync(t *testing.T) {
	fsyncs := 0
	c, err := dial(t, time.Minute, func(typ byte, id uint32, _ []byte) []byte {
		code := uint32(statusOK)
		switch typ {
		case typeOpen:
			return packetOf(typeHandle, id, appendString(nil, "h"))
		case typeExtended:
			if fsyncs++; fsyncs == 1 {
				code = 4
			}
		}
		return packetOf(typeStatus, id, u32(code))
	})
	if err != nil {
		t.Fatal(err)
	}
	c.exts["fsync@openssh.com"] = "1"
	u, err := c.Create(t.Context(), "/f", 0, 0o600, true)
	if err == nil {
		_, err = u.Write(t.Context(), []byte("text"))
	}
	if err == nil {
		err = u.Flush(t.Context())
	}
	if err == nil {
		_, err = u.Sync(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Finish(t.Context()); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("finished: %v", err)
	}
}
