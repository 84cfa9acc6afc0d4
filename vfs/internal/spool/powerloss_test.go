package spool_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// promise is what a Sync that returned says about a spool file.
type promise struct {
	id      spool.ID
	since   int // the moment of a Recorder
	until   int // 0: for ever
	content []byte
	extents []spool.Extent
}

// trace runs a spool on a recorded disk and notes what it promises.
type trace struct {
	t        testing.TB
	rec      *disktest.Recorder
	faulty   *disktest.Faulty
	noPool   bool // one file only, made on demand
	cfg      spool.Config
	promises []*promise
}

func newTrace(t testing.TB, key []byte, ignore func(disktest.Op, string) bool) *trace {
	root := t.TempDir()
	rec, err := disktest.NewRecorder(root)
	if err != nil {
		t.Fatal(err)
	}
	rec.IgnoreSyncs(ignore)
	faulty := disktest.NewFaulty(rec)
	return &trace{t: t, rec: rec, faulty: faulty, cfg: spool.Config{
		Disk: faulty, Dir: filepath.Join(root, "share", "spool"), Key: key, InlineBytes: 1000,
	}}
}

// sync syncs a file and notes the promise.
func (tr *trace) sync(f *spool.File) {
	tr.t.Helper()
	if err := f.Sync(true); err != nil {
		tr.t.Fatal(err)
	}
	p := &promise{id: f.ID(), content: make([]byte, f.Size()), extents: f.Extents(), since: tr.rec.Point()}
	if _, err := f.ReadAt(p.content, 0); err != nil {
		tr.t.Fatal(err)
	}
	tr.promises = append(tr.promises, p)
}

// remove takes a file's promises back and discards it.
func (tr *trace) remove(f *spool.File) {
	tr.t.Helper()
	tr.takeBack(f.ID())
	if err := f.Discard(); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *trace) takeBack(id spool.ID) {
	for _, p := range tr.promises {
		if p.id == id && p.until == 0 {
			p.until = tr.rec.Point()
		}
	}
}

// await waits until the spool has files ready.
func (tr *trace) await(s *spool.Spool) {
	tr.t.Helper()
	for deadline := time.Now().Add(time.Minute); s.Ready() == 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			tr.t.Fatal("no files were made ready")
		}
	}
}

// run is a life of a spool in which every sync matters.
func (tr *trace) run() {
	s := open(tr.t, tr.cfg)
	if tr.noPool {
		tr.faulty.Add(disktest.Fault{Ops: disktest.OpCreate, After: 1, Err: syscall.ENOSPC})
	}
	first := s.Create()
	write(tr.t, first, pattern(5000, 1), 0)
	tr.sync(first)
	if tr.noPool {
		return
	}
	tr.await(s) // from here on the names come from the pool
	var files []*spool.File
	for i := range 5 {
		f := s.Create()
		write(tr.t, f, pattern(2000*i+500, uint64(i)), 0)
		tr.sync(f)
		// Going on behind what is durable must not harm it, though they share a sector.
		write(tr.t, f, pattern(1000+i, 50), f.Size())
		if i%2 == 0 {
			tr.sync(f)
			write(tr.t, f, pattern(3000, 60), f.Size()+5000) // a gap
		}
		if i%3 == 0 {
			tr.sync(f)
		}
		files = append(files, f)
	}
	tr.remove(files[0])
	tr.remove(first)
	tr.takeBack(files[1].ID()) // written again: either content is right until the next sync
	write(tr.t, files[1], pattern(400, 70), 100)
	tr.sync(files[1])
	tr.takeBack(files[2].ID())
	if err := files[2].Truncate(1234); err != nil {
		tr.t.Fatal(err)
	}
	tr.sync(files[2])
	for _, f := range files[1:] {
		if err := f.Close(); err != nil {
			tr.t.Fatal(err)
		}
	}
	g, err := s.Reopen(files[3].ID(), tr.last(files[3].ID()).size(), tr.last(files[3].ID()).extents)
	if err != nil {
		tr.t.Fatal(err)
	}
	write(tr.t, g, pattern(100, 80), g.Size())
	tr.sync(g)
	if err := g.Close(); err != nil {
		tr.t.Fatal(err)
	}
}

func (p *promise) size() int64 { return int64(len(p.content)) }

// last is the newest promise about a file.
func (tr *trace) last(id spool.ID) *promise {
	var last *promise
	for _, p := range tr.promises {
		if p.id == id {
			last = p
		}
	}
	return last
}

// check opens the spool of an image and returns what is wrong with it, "" for nothing.
func (tr *trace) check(point int, root string) string {
	cfg := tr.cfg
	cfg.Disk, cfg.Dir = unsynced{}, filepath.Join(root, "share", "spool")
	s, err := spool.Open(cfg)
	if err != nil {
		return err.Error()
	}
	defer s.Close() // nothing was written
	live := make(map[spool.ID]bool)
	var due []*promise
	for _, p := range tr.promises {
		if point >= p.since && (p.until == 0 || point < p.until) {
			live[p.id] = true
			due = append(due, p)
		}
	}
	if _, err := s.Keep(live); err != nil {
		return err.Error()
	}
	for _, p := range due {
		r, err := s.Reader(p.id, p.size(), p.extents...)
		if err != nil {
			return fmt.Sprintf("file %d: %v", p.id, err)
		}
		got := make([]byte, p.size())
		_, err = r.ReadAt(got, 0)
		_ = r.Close() // read only
		if err != nil || !bytes.Equal(got, p.content) {
			return fmt.Sprintf("file %d: content differs at %d of %d, %v", p.id, differs(got, p.content), len(got), err)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*")); len(names) != len(live) {
		return fmt.Sprintf("%d files were kept, want %d", len(names), len(live))
	}
	return ""
}

// loss describes the first image that breaks a promise, "" when there is none.
func (tr *trace) loss(seeds int) string {
	points := tr.rec.SyncPoints()
	for _, v := range disktest.Variants(seeds) {
		for _, point := range points {
			dest, err := os.MkdirTemp(tr.t.TempDir(), "")
			if err != nil {
				tr.t.Fatal(err)
			}
			if err := tr.rec.Materialize(point, v, dest); err != nil {
				tr.t.Fatal(err)
			}
			if wrong := tr.check(point, dest); wrong != "" {
				return fmt.Sprintf("power lost at %d, %v: %s\n%s", point, v, wrong, tr.rec.Log(point))
			}
			if err := os.RemoveAll(dest); err != nil {
				tr.t.Fatal(err)
			}
		}
	}
	return ""
}

func TestPowerLoss(t *testing.T) {
	for name, key := range map[string][]byte{"plain": nil, "encrypted": bytes.Repeat([]byte{7}, 32)} {
		t.Run(name, func(t *testing.T) {
			tr := newTrace(t, key, nil)
			tr.run()
			if lost := tr.loss(2); lost != "" {
				t.Error(lost)
			}
		})
	}
}

// TestPowerLossFindsMissingSyncs takes the syncs out one by one: each must be missed.
func TestPowerLossFindsMissingSyncs(t *testing.T) {
	for name, functions := range map[string][]string{
		"the content":             {"(*File).Sync"},
		"the name made on demand": {"(*Spool).take"},
		"the names made ready":    {"(*Spool).refiller"},
		"the spool's directory":   {"MkdirDurable"},
	} {
		t.Run(name, func(t *testing.T) {
			// File.Sync may make a file, too: its name is not meant by the first case.
			from := disktest.CalledFrom(functions...)
			made := disktest.CalledFrom("(*Spool).take")
			tr := newTrace(t, nil, func(op disktest.Op, path string) bool {
				return from(op, path) && (functions[0] != "(*File).Sync" || !made(op, path))
			})
			tr.noPool = functions[0] == "(*Spool).take"
			tr.run()
			if tr.loss(6) == "" {
				t.Error("nobody misses this sync: the power-loss test is blind, or the sync is useless")
			}
		})
	}
}
