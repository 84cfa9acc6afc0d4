package journal_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/vfs/internal/journal"
)

// trace is what a journal was asked and what it promised, by moments of a Recorder.
type trace struct {
	t       testing.TB
	rec     *disktest.Recorder
	faulty  *disktest.Faulty
	cfg     journal.Config
	j       *journal.Journal
	payload map[journal.Position]string
	durable map[journal.Position]int // promised from this moment on
	trimmed map[journal.Position]int // allowed to be gone from this moment on
	failed  map[journal.Position]int // must not be there from this moment on
	deep    bool                     // lose the power twice
}

func newTrace(t testing.TB, key []byte, ignore func(disktest.Op, string) bool) *trace {
	root := t.TempDir()
	rec, err := disktest.NewRecorder(root)
	if err != nil {
		t.Fatal(err)
	}
	rec.IgnoreSyncs(ignore)
	faulty := disktest.NewFaulty(rec)
	return &trace{
		t: t, rec: rec, faulty: faulty,
		cfg: journal.Config{
			Disk: faulty, Dir: filepath.Join(root, "share", "journal"), Key: key, SegmentBytes: 700,
		},
		payload: make(map[journal.Position]string),
		durable: make(map[journal.Position]int),
		trimmed: make(map[journal.Position]int),
		failed:  make(map[journal.Position]int),
	}
}

// open opens the journal again, as after a kill when it was not closed.
func (tr *trace) open() {
	tr.t.Helper()
	tr.j = open(tr.t, tr.cfg)
	for r, err := range tr.j.Records() {
		if err != nil {
			tr.t.Fatal(err)
		}
		tr.promise(r.Pos)
	}
}

// promise notes that a record is durable from now on.
func (tr *trace) promise(pos journal.Position) {
	if _, ok := tr.durable[pos]; !ok {
		tr.durable[pos] = tr.rec.Point()
	}
}

func (tr *trace) promiseAll() {
	for pos := range tr.payload {
		if _, ok := tr.failed[pos]; !ok {
			tr.promise(pos)
		}
	}
}

// batch appends n records of different sizes.
func (tr *trace) batch(n int, sync bool) {
	tr.t.Helper()
	first := tr.j.Last() + 1
	payloads := make([]string, n)
	for i := range payloads {
		pos := first + journal.Position(i)
		payloads[i] = strings.Repeat(fmt.Sprintf("%d.", pos), int(pos)%40+1)
		tr.payload[pos] = payloads[i]
	}
	appendOK(tr.t, tr.j, sync, payloads...)
	if sync {
		tr.promiseAll()
	}
}

// failingBatch appends a batch while op fails once.
func (tr *trace) failingBatch(op disktest.Op, sync bool) {
	tr.t.Helper()
	tr.faulty.Add(disktest.Fault{Ops: op, Path: "*.wal*", Times: 1, Err: syscall.EIO, Short: 50})
	defer tr.faulty.Clear()
	pos := tr.j.Last() + 1
	payload := strings.Repeat("failed", 20)
	tr.payload[pos] = payload
	if _, err := tr.j.Append([][]byte{[]byte(payload)}, sync); err == nil {
		tr.t.Fatalf("append at position %d did not fail", pos)
	}
	for _, p := range append(tr.j.Lost(), pos) {
		tr.failed[p] = tr.rec.Point()
	}
}

func (tr *trace) trim(pos journal.Position) {
	tr.t.Helper()
	for p := range tr.payload {
		if _, ok := tr.trimmed[p]; !ok && p <= pos {
			tr.trimmed[p] = tr.rec.Point()
		}
	}
	if err := tr.j.Trim(pos); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *trace) close() {
	tr.t.Helper()
	if err := tr.j.Close(); err != nil {
		tr.t.Fatal(err)
	}
	tr.promiseAll()
}

// run is a life of a journal in which every sync matters.
func (tr *trace) run() {
	tr.open()
	tr.batch(1, true)
	tr.batch(3, false)
	tr.batch(2, true)
	for range 4 { // full segments end with unsynced records
		tr.batch(4, false)
	}
	tr.batch(1, true)
	tr.trim(15) // several segments
	tr.batch(2, false)
	if err := tr.j.Sync(); err != nil {
		tr.t.Fatal(err)
	}
	tr.promiseAll()
	tr.batch(2, false)
	tr.failingBatch(disktest.OpSync, true)
	tr.batch(1, true)
	tr.batch(1, false)
	tr.failingBatch(disktest.OpWrite, false)
	tr.batch(1, true)
	tr.batch(2, false)
	tr.open() // killed
	tr.batch(1, true)
	tr.batch(3, false)
	tr.close()
	tr.open()
	tr.trim(tr.j.Last())
	tr.batch(1, true)
	tr.close()
}

// check recovers from an image and returns what is wrong with it, "" for nothing.
func (tr *trace) check(point int, root string) string {
	// A recorder in place of the disk, as it does not sync for real.
	rec, err := disktest.NewRecorder(root)
	if err != nil {
		tr.t.Fatal(err)
	}
	cfg := tr.cfg
	cfg.Disk, cfg.Dir = rec, filepath.Join(root, "share", "journal")
	j, err := journal.Open(cfg)
	if err != nil {
		return err.Error()
	}
	defer j.Close() // a failure shows on reopening
	if bad := tr.compare(j, point); bad != "" {
		return bad
	}
	if !tr.deep {
		return ""
	}
	// What was recovered can be continued, and survives the next loss of power.
	before := len(records(tr.t, j))
	if _, err := j.Append([][]byte{[]byte("after")}, true); err != nil {
		return err.Error()
	}
	again := filepath.Join(root, "again")
	if err := rec.Materialize(rec.Point(), disktest.Variant{}, again); err != nil {
		tr.t.Fatal(err)
	}
	cfg.Disk, cfg.Dir = disk.OS{}, filepath.Join(again, "share", "journal")
	k, err := journal.Open(cfg)
	if err != nil {
		return "second recovery: " + err.Error()
	}
	defer k.Close() // nothing was appended
	if got := len(records(tr.t, k)); got != before+1 {
		return fmt.Sprintf("second recovery: %d records, want %d", got, before+1)
	}
	return ""
}

// compare checks a recovered journal against the promises made before point.
func (tr *trace) compare(j *journal.Journal, point int) string {
	found := make(map[journal.Position]bool)
	for r, err := range j.Records() {
		if err != nil {
			return err.Error()
		}
		if string(r.Payload) != tr.payload[r.Pos] {
			return fmt.Sprintf("record %d has the wrong bytes", r.Pos)
		}
		if since, ok := tr.failed[r.Pos]; ok && point >= since {
			return fmt.Sprintf("record %d failed and came back", r.Pos)
		}
		found[r.Pos] = true
	}
	for pos, since := range tr.durable {
		gone, trimmed := tr.trimmed[pos]
		if point >= since && !found[pos] && !(trimmed && point >= gone) {
			return fmt.Sprintf("record %d was durable and is gone", pos)
		}
		if point >= since && j.Last() < pos {
			return fmt.Sprintf("position %d would be given again", pos)
		}
	}
	return ""
}

// loss describes the first image from which recovery does not give what was promised, ""
// when there is none.
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
			tr.deep = key == nil
			tr.run()
			if lost := tr.loss(2); lost != "" {
				t.Error(lost)
			}
			if len(tr.failed) < 4 || len(tr.trimmed) == 0 {
				t.Errorf("the run is too tame: %d failed, %d trimmed", len(tr.failed), len(tr.trimmed))
			}
		})
	}
}

// TestPowerLossFindsMissingSyncs takes the syncs out one by one: each must be missed.
func TestPowerLossFindsMissingSyncs(t *testing.T) {
	for name, functions := range map[string][]string{
		"the batch":                             {"(*Journal).Append", "(*Journal).syncActive"},
		"Sync":                                  {"(*Journal).Sync", "(*Journal).syncActive"},
		"unsynced records before a new segment": {"(*Journal).roll", "(*Journal).syncRest"},
		"everything at Close":                   {"(*Journal).Close", "(*Journal).syncRest"},
		"a new segment's header":                {"(*Journal).create", "(*recordedFile).Sync"},
		"a new segment's name":                  {"(*Journal).create", "(*Recorder).SyncDir"},
		"a trimmed segment's removal":           {"(*Journal).Trim", "(*Recorder).SyncDir"},
		"the tail accepted by Open":             {"(*Journal).settle"},
		"the journal's directory":               {"MkdirDurable"},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrace(t, nil, disktest.CalledFrom(functions...))
			tr.run()
			if tr.loss(24) == "" {
				t.Error("nobody misses this sync: the power-loss test is blind, or the sync is useless")
			}
		})
	}
}
