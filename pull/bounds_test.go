package pull

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// maxHeap is what a listing of a hostile server may hold, far less than what it sends.
const maxHeap = 100 << 20

// heapBytes is the memory in use.
func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Devices, sockets and pipes without end, at the end of a long path, are counted, and only some are named.
func TestScanSpecialBounded(t *testing.T) {
	const depth, specials = 15, 50_000
	r := newFake()
	name := strings.Repeat("n", maxName)
	before, during := heapBytes(), int64(0)
	r.list = func(_ context.Context, path string, each func(Entry) error) (bool, error) {
		if strings.Count(path, name) < depth {
			return true, each(Entry{Name: name, Type: Dir})
		}
		for range specials {
			if err := each(Entry{Name: "a", Type: Special}); err != nil {
				return true, err
			}
		}
		during = heapBytes()
		return true, nil
	}
	items, report, err := scanAll(t, r, ScanConfig{})
	if err != nil || len(items) != depth+1 || !items[depth].Whole {
		t.Errorf("%d items, %v", len(items), err)
	}
	if held := during - before; held > maxHeap {
		t.Errorf("%d bytes are held", held)
	}
	if c := report.Counts(); c.Special != specials || c.Problems != maxDirProblems+1 || report.Failed() != 0 {
		t.Errorf("%+v, %d failed", c, report.Failed())
	}
}

// What is read of a long line of a listing does not keep the line.
func TestFTPLinesNotKept(t *testing.T) {
	const lines = 8_000
	pad := strings.Repeat(" ", maxListLine-100)
	for name, parse := range map[string]func(line string) (Entry, bool){
		"type=OS.unix=slink:to;x=" + pad + "; name": func(line string) (Entry, bool) { return parseMLSD("/", line) },
		"lrwxrwxrwx 1 0 0" + pad + "2 Jan  1  2024 name -> to": func(line string) (Entry, bool) {
			return parseList("/", line, then)
		},
	} {
		before := heapBytes()
		var kept []Entry
		for range lines {
			e, ok := parse(strings.Clone(name))
			if !ok || e.Err != nil || e.Name != "name" || e.Target != "to" {
				t.Fatalf("%+v, %v", e, ok)
			}
			kept = append(kept, e)
		}
		if held := heapBytes() - before; held > maxHeap {
			t.Errorf("%d bytes are held of %.20q", held, name)
		}
		runtime.KeepAlive(kept)
	}
}

// A target that no link can have is a problem, however the server tells it.
func TestLongTarget(t *testing.T) {
	long := strings.Repeat("t", 1<<20)
	r := newFake()
	r.link("/asked", long)
	r.link("/listed", long)
	r.link("/good", long[:maxPath])
	r.list = func(_ context.Context, _ string, each func(Entry) error) (bool, error) {
		for path, target := range map[string]string{"asked": "", "listed": long, "good": ""} {
			if err := each(Entry{Name: path, Type: Symlink, Target: target}); err != nil {
				return true, err
			}
		}
		return true, nil
	}
	report := &Report{}
	links := 0
	items := Scan(t.Context(), r, ScanConfig{Report: report, Retry: quick, TempDir: t.TempDir()})
	for c, err := range Plan(t.Context(), r, items, PlanConfig{Report: report, Retry: quick}) {
		if err != nil {
			t.Fatal(err)
		}
		if c.Target != "" {
			links++
		}
	}
	if links != 1 || kinds(report)[KindLimit] != 2 || report.Failed() != 2 {
		t.Errorf("%d links, %v", links, kinds(report))
	}
	odd := &oddNames{dir: "/d", odd: map[string]Entry{}, seed: maphash.MakeSeed()}
	if err := odd.add(Entry{Name: "x", Type: Symlink, Target: long}); err != nil {
		t.Fatal(err)
	}
	if e := odd.once()["x"]; e.Err == nil || KindOf(e.Err) != KindLimit || e.Target != "" {
		t.Errorf("among the links of a LIST: %.80v", e)
	}
}

// Links with long targets count for as many as take their memory.
func TestFTPLinksWeight(t *testing.T) {
	var bad []error
	n := &oddNames{dir: "/d", odd: map[string]Entry{}, seed: maphash.MakeSeed(), bad: func(e Entry) error { bad = append(bad, e.Err); return nil }}
	target := strings.Repeat("t", maxPath)
	for i := range maxLinks {
		if err := n.add(Entry{Name: fmt.Sprint(i), Type: Symlink, Target: target}); err != nil {
			t.Fatal(err)
		}
	}
	if most := maxLinks/(maxPath/entryBytes) + 1; len(n.odd) > most || len(bad) != 1 {
		t.Errorf("%d links are kept, want at most %d; %v", len(n.odd), most, bad)
	}
}

// A few problems with long paths and texts are as many as take their memory; none is lost from the count.
func TestProblemsBounded(t *testing.T) {
	const notes = 17_000
	var r Report
	for i := range notes {
		path := fmt.Sprintf("/%s/%d", strings.Repeat("p", maxPath-20), i)
		r.note(path, fail("list", path, KindPermission, nil))
		r.keep(path)
	}
	list, omitted := r.Problems()
	size := 0
	for _, p := range list {
		size += len(p.Path) + len(p.Text)
	}
	if size > maxProblemBytes+4*maxPath || len(list) < maxProblemBytes/(4*maxPath) || int64(len(list))+omitted != notes {
		t.Errorf("%d problems of %d bytes, %d omitted", len(list), size, omitted)
	}
	if paths, all := r.keptPaths(); all || len(paths)*maxPath > maxProblemBytes+maxProblemBytes/8 || r.Counts().Kept != notes {
		t.Errorf("%d paths stay, all: %v", len(paths), all)
	}
}

// A reply of many long lines is none.
func TestFTPReplyBounded(t *testing.T) {
	line := strings.Repeat("x", 1000)
	h := (&ftpHouse{dir: t.TempDir(), hook: func(p *ftpPeer, cmd, _ string) bool {
		if cmd == "FEAT" {
			p.say("211-Features:\r\n%s211 End", strings.Repeat(" "+line+"\r\n", maxReplyBytes/len(line)))
		}
		return cmd == "FEAT"
	}}).start(t)
	if _, err := h.remote(t).Capabilities(t.Context()); err == nil || KindOf(err) != KindProtocol {
		t.Errorf("%v", err)
	}
}

// lateFTP is a server that will be ready in a while, and says so again and again.
func lateFTP(t *testing.T, timeout time.Duration) *FTP {
	t.Helper()
	var wg sync.WaitGroup
	r, err := NewFTP(FTPConfig{Addr: "server:21", Root: "/", Timeout: timeout, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		wg.Go(func() {
			defer far.Close()
			for {
				if _, err := io.WriteString(far, "120 ready in 1 minute\r\n"); err != nil {
					return
				}
				<-time.After(10 * time.Millisecond)
			}
		})
		return near, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); wg.Wait() })
	return r
}

// A server that is never ready is as one that does not answer.
func TestFTPNeverReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), 10*timeout)
		defer cancel()
		began := time.Now()
		err := lateFTP(t, timeout).Connect(ctx)
		if took := time.Since(began); KindOf(err) != KindConnection || !strings.Contains(err.Error(), "120 ready") || took > 2*timeout {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// The time that a run may take begins before it connects.
func TestRunLimitConnecting(t *testing.T) {
	r := newRuns(t)
	r.cfg.Limit = 100 * time.Millisecond
	began := time.Now()
	_, _, err := r.tryRun(lateFTP(t, patience))
	if took := time.Since(began); !errors.Is(err, ErrTooLong) || took >= patience {
		t.Errorf("%v after %v", err, took)
	}
	r.cfg.Limit, r.cfg.Spent = 2*patience, 2*patience // by a caller that has connected
	began = time.Now()
	_, _, err = r.tryRun(lateFTP(t, patience))
	if took := time.Since(began); !errors.Is(err, ErrTooLong) || took >= patience {
		t.Errorf("%v after %v, of a caller's", err, took)
	}
}
