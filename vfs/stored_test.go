package vfs

import (
	"context"
	"testing"
	"time"
)

// With acknowledge: stored, a retry after a failed acknowledgement makes no second version
// even when the first one has got its snapshot in between, and the file can be appended to then.
func TestRetryAfterLateSnapshot(t *testing.T) {
	dir, repo, timeout := t.TempDir(), newMemRepository(), 50*time.Millisecond
	open := func() *System {
		return openTestSystem(t, dir, repo, func(c *Config) {
			c.Shares[0].When, c.Shares[0].AckStored, c.Shares[0].AckTimeout = WhenClose, true, timeout
		})
	}
	sys := open()
	defer func() { closeSystem(t, sys) }()
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	gate := repo.Block()
	f := v.open("/f", OpenWrite|OpenCreate|OpenTruncate)
	v.write(f, 0, big("a"))
	wantKind(t, "close", f.Close(), KindTimeout)
	gate.Release()
	commitShare(t, s)
	before, err := s.current().lookup(t.Context(), mustName(t, "/f"))
	wantNil(t, "lookup", err)
	want(t, "stored meanwhile", before.content == nil, true)
	s.cfg.Store(&ShareConfig{Name: "s", When: WhenClose, AckStored: true, AckTimeout: time.Minute, MaxPending: 10})
	v.put("/f", big("a"))
	after, err := s.current().lookup(t.Context(), mustName(t, "/f"))
	wantNil(t, "lookup", err)
	want(t, "version", after.version, before.version)
	wantNil(t, "resume", v.open("/f", OpenWrite|OpenResume).Abort())
	crash(t, sys)
	timeout = time.Minute
	sys = open()
	v = visit(t, sys, "u", PermFull, "/")
	wantNil(t, "resume after a crash", v.open("/f", OpenWrite|OpenResume).Abort())
	v.put("/f", big("b"))
	want(t, "other bytes", v.get("/.snapshots/latest/f"), big("b"))
}

// Whoever waits for a snapshot may go; the version stays, and is committed all the same.
func TestCloseContextStopsWaiting(t *testing.T) {
	sys, repo := fullTestSystem(t, func(c *Config) {
		c.Shares[0].When, c.Shares[0].AckStored = WhenClose, true
		c.Shares[0].AckTimeout = time.Hour
	})
	v := visit(t, sys, "u", PermFull, "/")
	gate := repo.Block()
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("a"))
	ctx, cancel := context.WithCancel(t.Context())
	closed := make(chan error, 1)
	go func() { closed <- f.CloseContext(ctx) }()
	<-gate.Entered()
	cancel()
	wantKind(t, "close", <-closed, KindClosed)
	want(t, "the version", v.get("/f"), big("a"))
	gate.Release()
	commitShare(t, testShare(t, sys))
	want(t, "stored", v.get("/.snapshots/latest/f"), big("a"))

	// Somebody who is gone already publishes nevertheless.
	f = v.open("/g", OpenWrite|OpenCreate)
	v.write(f, 0, "b")
	if err := f.CloseContext(ctx); err != nil {
		wantKind(t, "close", err, KindClosed) // the commit may have been quicker
	}
	want(t, "published", v.get("/g"), "b")
}
