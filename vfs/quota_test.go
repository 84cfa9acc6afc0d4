package vfs

import (
	"math"
	"strings"
	"testing"
	"time"
)

// kib is n KiB of text.
func kib(n int) string { return strings.Repeat("k", n<<10) }

// withQuota is a system whose share has a quota of n KiB.
func withQuota(t *testing.T, n int64, change ...func(*Config)) *System {
	t.Helper()
	sys, _ := fullTestSystem(t, append(change, func(c *Config) { c.Shares[0].Quota = n << 10 })...)
	return sys
}

// A client whose line broke sends its file again before the server knows: what the dead upload has
// claimed does not refuse it. Uploads that live, of other names and of other principals keep theirs.
func TestQuotaOfDeadUpload(t *testing.T) {
	sys := withQuota(t, 100)
	first, v := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
	tooMuch := func(what string, who visitor, path string) {
		t.Helper()
		f := who.open(path, OpenCreate|OpenTruncate)
		_, err := f.WriteAt([]byte(kib(80)), 0)
		wantKind(t, what, err, KindQuota)
		wantNil(t, "abort", f.Abort())
	}
	dead := first.open("/f", OpenCreate|OpenTruncate)
	first.write(dead, 0, kib(80))
	alive(dead)
	tooMuch("while it lives", v, "/f")
	dead.up.quiet.Store(time.Now().Add(-deadAfter).UnixNano() - 1)
	tooMuch("another name", v, "/g")
	tooMuch("another principal", visit(t, sys, "w", PermFull, "/"), "/f")
	v.put("/f", kib(80))
	_, err := dead.WriteAt([]byte(kib(21)), 80<<10)
	wantKind(t, "it goes on", err, KindQuota)
	wantKind(t, "its close", dead.Close(), KindQuota)
	want(t, "content", v.get("/f"), kib(80))
	v.put("/g", kib(20)) // all claims are given back
}

// An upload that was taken for dead and goes on claims all that it has, not only what is new.
func TestQuotaOfRevivedUpload(t *testing.T) {
	sys := withQuota(t, 100)
	first, v := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
	slow := first.open("/f", OpenCreate|OpenTruncate)
	first.write(slow, 0, kib(60))
	slow.up.quiet.Store(time.Now().Add(-deadAfter).UnixNano() - 1)
	again := v.open("/f", OpenCreate|OpenTruncate)
	v.write(again, 0, kib(60))
	wantNil(t, "abort", again.Abort())
	first.write(slow, 60<<10, kib(1))
	f := v.open("/g", OpenCreate|OpenTruncate)
	_, err := f.WriteAt([]byte(kib(40)), 0)
	wantKind(t, "beside it", err, KindQuota)
	wantNil(t, "abort", f.Abort())
	first.close(slow)
	want(t, "content", v.get("/f"), kib(61))
}

// Offsets and sizes near the largest number are refused, whatever is added to them, and harm nothing.
func TestLargestOffsets(t *testing.T) {
	v := visit(t, withQuota(t, 100, func(c *Config) { c.Limits.SpoolBytes = math.MaxInt64 }), "u", PermFull, "/")
	v.put("/old", kib(10))
	f := v.open("/f", OpenCreate)
	v.write(f, 0, kib(10))
	for _, end := range []int64{math.MaxInt64, math.MaxInt64 - 1<<10, 1<<62 + 1} {
		_, err := f.WriteAt([]byte("x"), end-1)
		wantKind(t, "write", err, KindInvalid)
		wantKind(t, "truncate", f.SetAttr(t.Context(), AttrSet{Size: &end}), KindInvalid)
		wantKind(t, "setattr", v.SetAttr(t.Context(), "/old", AttrSet{Size: &end}, false), KindInvalid)
	}
	v.close(f)
	want(t, "content", v.get("/f"), kib(10))
	want(t, "content of the other", v.get("/old"), kib(10))
	f = v.open("/g", OpenCreate)
	_, err := f.WriteAt([]byte("x"), 1<<62-1)
	wantKind(t, "the largest of all", err, KindQuota)
	wantNil(t, "abort", f.Abort())
}

// What the spool refuses takes nothing of the quota, though its handle stays open.
func TestQuotaOfRefusedWrite(t *testing.T) {
	sys := withQuota(t, 5<<10, func(c *Config) { c.Limits.SpoolBytes = 4 << 20 })
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenCreate)
	v.write(f, 0, "x")
	_, err := f.WriteAt([]byte("x"), 9<<19) // holes count
	wantKind(t, "beyond the spool", err, KindNoSpace)
	st, err := v.StatFS(t.Context(), "/")
	wantNil(t, "statfs", err)
	if free := st.BlocksAvail * st.BlockSize; free < 2<<20 {
		t.Errorf("%d bytes are free beside it", free)
	}
	v.put("/g", kib(2<<10))
	wantNil(t, "abort", f.Abort())
}

// What is left of a cut-off upload does not count. So a file that fits can be sent over it by a client
// that does not truncate until the end, and one that goes on with what does not fit is refused then.
func TestQuotaOfPartial(t *testing.T) {
	v := visit(t, withQuota(t, 200), "u", PermFull, "/")
	f := v.open("/f", OpenCreate)
	v.write(f, 0, kib(80))
	wantNil(t, "abort", f.Abort())
	v.put("/other", kib(150))
	for _, flag := range []OpenFlag{OpenCreate, OpenCreate | OpenResume} {
		f = v.open("/f", flag)
		_, err := f.WriteAt([]byte("x"), 80<<10)
		wantKind(t, "going on", err, KindQuota)
		wantNil(t, "abort", f.Abort())
		want(t, "what is left", v.size("/f"), 80<<10)
	}
	f = v.open("/f", OpenCreate)
	v.write(f, 0, strings.Repeat("n", 40<<10))
	size := int64(40 << 10)
	wantNil(t, "truncate", f.SetAttr(t.Context(), AttrSet{Size: &size}))
	v.close(f)
	want(t, "content", v.get("/f"), strings.Repeat("n", 40<<10))
}

// What replaces a file that came to the name after it was opened adds only what it has more.
func TestQuotaOfNameTakenMeanwhile(t *testing.T) {
	for _, committed := range []bool{false, true} {
		sys := withQuota(t, 100)
		v := visit(t, sys, "u", PermFull, "/")
		late, moved := v.open("/f", OpenCreate|OpenTruncate), v.open("/part", OpenCreate|OpenTruncate)
		v.put("/f", kib(60))
		if committed {
			commitShare(t, testShare(t, sys))
		}
		v.write(late, 0, kib(70))
		v.close(late)
		want(t, "content", v.get("/f"), kib(70))
		wantNil(t, "rename of an open upload", v.Rename(t.Context(), "/part", "/f", true))
		v.write(moved, 0, kib(80))
		_, err := moved.WriteAt([]byte(kib(21)), 80<<10)
		wantKind(t, "beyond the quota", err, KindQuota)
		wantNil(t, "abort", moved.Abort())
		v.put("/g", kib(30)) // all claims are given back
	}
}
