package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

func TestWorthRetrying(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"server does not answer": {&sshclient.Error{Kind: sshclient.KindTimeout}, true},
		"nothing listens":        {fmt.Errorf("connect: %w", &sshclient.Error{Kind: sshclient.KindRefused}), true},
		"connection was ended":   {&sshclient.Error{Kind: sshclient.KindClosed}, true},
		"name has no address":    {&sshclient.Error{Kind: sshclient.KindDNS}, true},
		"no route":               {&sshclient.Error{Kind: sshclient.KindUnreachable}, true},
		"wrong password":         {&sshclient.Error{Kind: sshclient.KindAuth}, false},
		"another host key":       {&sshclient.Error{Kind: sshclient.KindHostKeyChanged}, false},
		"unknown host key":       {&sshclient.Error{Kind: sshclient.KindHostKeyUnknown}, false},
		"no such path":           {&pull.Error{Op: "list", Kind: pull.KindNotFound}, false},
		"ftp, connection lost":   {&pull.Error{Op: "list", Kind: pull.KindConnection}, true},
		"ftp, refused for now":   {&pull.Error{Op: "list", Kind: pull.KindBusy}, true},
		"ftp, wrong password":    {&pull.Error{Op: "log in", Kind: pull.KindPermission}, false},
		"store away":             {fmt.Errorf("commit: %w", snapshotter.ErrUnavailable), true},
		"store busy":             {snapshotter.ErrBusy, true},
		"base was removed":       {snapshotter.ErrNoSnapshot, true},
		"another run":            {pull.ErrRunning, true},
		"disk full":              {fmt.Errorf("write: %w", syscall.ENOSPC), true},
		"quota used up":          {fmt.Errorf("write: %w", syscall.EDQUOT), true},
		"store's server away":    {fmt.Errorf("list: %w", store.ErrServer), true},
		"store lets nobody in":   {fmt.Errorf("%w: %w", store.ErrUnavailable, store.ErrLogin), false},
		"wrong passphrase":       {store.ErrWrongPassphrase, false},
		"something else":         {errors.New("odd"), false},
	} {
		hinted := &hintedError{err: test.err, hint: "try"}
		if got := worthRetrying(hinted); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func TestJobTable(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	list := []control.Job{
		{Name: "again", Kind: "pull", Words: "daily at 02:00 UTC", State: "idle", Result: "failed", Failures: 3, Start: "2026-11-26T02:00:01Z", Next: "2026-11-26T02:07:00Z", Retry: true, Error: "web1: connection refused", Hint: "is it up?\nor its firewall?"},
		{Name: "new", Kind: "pull", Words: "every minute", State: "idle", Next: "2026-11-26T02:07:00Z"},
		{Name: "part", Kind: "pull", Words: "every minute", State: "idle", Result: "partial", Start: "2026-11-26T02:00:00Z", Snapshot: id, Summary: "3 files; 1 path could not be captured", Next: "2026-11-26T02:07:00Z"},
		{Name: "runs", Kind: "sync", Words: "every minute", State: "running", Result: "running", Start: "2026-11-26T02:00:00Z", Summary: "7 of 9", Next: "2026-11-26T02:07:00Z"},
		{Name: "waits", Kind: "sync", Words: "every minute", State: "waiting", Result: "ok", Start: "2026-11-26T02:00:00Z", Snapshot: id, Summary: "fine", Next: "2026-11-26T02:07:00Z"},
	}
	want := `JOB KIND SCHEDULE LAST RUN RESULT SNAPSHOT NEXT RUN
again pull daily at 02:00 UTC 2026-11-26T02:00:01Z failed, 3 in a row - 2026-11-26T02:07:00Z (again)
new pull every minute - - - 2026-11-26T02:07:00Z
part pull every minute 2026-11-26T02:00:00Z partial 0123456789ab 2026-11-26T02:07:00Z
runs sync every minute 2026-11-26T02:00:00Z running - 2026-11-26T02:07:00Z
waits sync every minute 2026-11-26T02:00:00Z ok 0123456789ab when another has ended
again: web1: connection refused
  hint: is it up?
  hint: or its firewall?
part: 3 files; 1 path could not be captured
runs: 7 of 9
`
	var b strings.Builder
	if err := writeJobs(&b, list); err != nil {
		t.Fatal(err)
	}
	// The width of columns is not what this is about.
	got := regexp.MustCompile(`(\S) {2,}`).ReplaceAllString(b.String(), "$1 ")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestJobProgress(t *testing.T) {
	var p jobProgress
	if got := p.text("web1"); got != "" {
		t.Errorf("of a job that does not run: %q", got)
	}
	done := p.watch("web1", func() string { return "half" })
	if got := p.text("web1"); got != "half" {
		t.Errorf("got %q, want half", got)
	}
	done()
	if got := p.text("web1"); got != "" {
		t.Errorf("of a job that has ended: %q", got)
	}
}
