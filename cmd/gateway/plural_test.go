package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
	"github.com/snapgate/gateway/snapshotter"
)

// One of a thing is not many of it.
func TestOneOfEach(t *testing.T) {
	var maintained, status bytes.Buffer
	if err := writeMaintain(&maintained, &control.Maintain{Before: 1, Kept: 1, Rescued: 1, Lost: 1, Locks: 1, Spared: 1}); err != nil {
		t.Fatal(err)
	}
	if err := writeStatus(&status, &control.Status{Verify: &control.Verify{Files: 1}}); err != nil {
		t.Fatal(err)
	}
	sync := &syncOutput{failed: 1}
	for name, tt := range map[string]struct{ got, want string }{
		"a pull under way":    {progressText(pull.Progress{Counts: pull.Counts{Files: 1, Problems: 1}}, pace{}), "1 file found, 0 read, 0 B, 1 problem"},
		"all listed":          {progressText(pull.Progress{Listed: true, Wanted: 1}, pace{}), "0 of 1 file, 0 B of 0 B"},
		"a restore":           {restoreText(restore.Counts{Restored: 1, Problems: 1}, snapref.Found{Path: "/a"}, 0, ""), "1 file, 0 B, 1 problem"},
		"not captured":        {notCaptured(1), "1 path could not be captured as it is"},
		"several":             {notCaptured(2), "2 paths could not be captured as they are"},
		"a sync":              {sync.incomplete(config.Sync{}).Error(), "sync: 1 of 1 snapshot could not be copied"},
		"what fills":          {(&shareUse{name: "main", snapshots: 1}).text(), "main has 0 B in 1 snapshot, 0 of them locked"},
		"hooks":               {strings.Join(hookProblems([]control.Hook{{Name: "h", Tries: 1, Pending: 1, Error: "x"}}), ""), "hook h: failed 1 time in a row, 1 event waits: x"},
		"hooks that lost one": {strings.Join(hookProblems([]control.Hook{{Name: "h", Dropped: 1}}), ""), "hook h: 1 event is lost"},
		"a job":               {readBack(&snapshotter.ScrubReport{Packfiles: 1}), "0 B read back, 1 packfile and 0 states"},
	} {
		if !strings.HasPrefix(tt.got, tt.want) {
			t.Errorf("%s: %q, want %q", name, tt.got, tt.want)
		}
	}
	for _, want := range []string{"  1 packfile ", "\n1 marked packfile stays: ", "\n1 blob was stored again", "\n1 blob that snapshots need is missing", "\n1 lock was removed", "\n1 packfile is left alone"} {
		if !strings.Contains(maintained.String(), want) {
			t.Errorf("no %q in\n%s", want, maintained.String())
		}
	}
	if want := "0 of 1 file of the store "; !strings.Contains(status.String(), want) {
		t.Errorf("no %q in\n%s", want, status.String())
	}
}
