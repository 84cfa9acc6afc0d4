package sshsrv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/vfs"
)

// The codes are those that errno_to_portable of OpenSSH's server gives for the errno of
// the same name; TestAgainstOpenSSH compares where both can be brought into the situation.
func TestKindStatus(t *testing.T) {
	tests := []struct {
		kind vfs.Kind
		want uint32
	}{
		{vfs.KindOther, statusFailure},
		{vfs.KindNotExist, statusNoSuchFile},
		{vfs.KindExist, statusFailure},
		{vfs.KindNotDir, statusNoSuchFile},
		{vfs.KindIsDir, statusFailure},
		{vfs.KindNotEmpty, statusFailure},
		{vfs.KindBusy, statusFailure},
		{vfs.KindPermission, statusPermissionDenied},
		{vfs.KindBadName, statusBadMessage},
		{vfs.KindInvalid, statusBadMessage},
		{vfs.KindLoop, statusNoSuchFile},
		{vfs.KindNoSpace, statusFailure},
		{vfs.KindUnavailable, statusFailure},
		{vfs.KindDisk, statusFailure},
		{vfs.KindTorn, statusFailure},
		{vfs.KindUnsupported, statusOpUnsupported},
		{vfs.KindTooMany, statusFailure},
		{vfs.KindTimeout, statusFailure},
		{vfs.KindClosed, statusFailure},
	}
	for _, tt := range tests {
		t.Run(tt.kind.String(), func(t *testing.T) {
			cause := errors.New("/var/lib/secret: device error")
			err := toStatus(fmt.Errorf("wrapped: %w", &vfs.Error{Op: "open", Kind: tt.kind, Err: cause}))
			code, text := statusCode(err)
			if code != tt.want {
				t.Errorf("code = %d, want %d", code, tt.want)
			}
			if text != tt.kind.String() || strings.Contains(err.Error(), "secret") {
				t.Errorf("text = %q, error %q", text, err)
			}
		})
	}
	for _, tt := range []struct {
		err  error
		want uint32
	}{
		{nil, statusOK},
		{io.EOF, statusEOF},
		{errors.New("anything"), statusFailure},
		{&vfs.Error{Kind: vfs.KindInvalid, Err: io.EOF}, statusBadMessage}, // no end of file
		{fmt.Errorf("a packfile is cut short: %w", io.EOF), statusFailure}, // likewise
	} {
		if code, _ := statusCode(toStatus(tt.err)); code != tt.want {
			t.Errorf("%v: code = %d, want %d", tt.err, code, tt.want)
		}
	}
	if !errors.Is(toStatus(&vfs.Error{Kind: vfs.KindPermission}), sftp.ErrSSHFxPermissionDenied) {
		t.Error("pkg/sftp would not see the code")
	}
}

// A client whose WRITEs fail on and on does not fill the log.
func TestFailuresAreLoggedWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger, count := slog.New(slog.NewTextHandler(&log, nil)), &counters{}
		full := &vfs.Error{Op: "write", Kind: vfs.KindNoSpace}
		const seconds = 5
		for range seconds * 1000 {
			_ = report(logger, count, "write", "/f", full)
			time.Sleep(time.Millisecond) //nolint:forbidigo // in a synctest bubble
		}
		if n := strings.Count(log.String(), "operation failed"); n < loggedFailures || n > loggedFailures+seconds+1 {
			t.Errorf("%d lines in %d s", n, seconds)
		}
		if n := count.failures.Load(); n != seconds*1000 {
			t.Errorf("%d failures counted", n)
		}
	})
}

// OpenSSH's client says "Failure" of what has no code of its own: the log says why.
func TestRefusalsAreLogged(t *testing.T) {
	for kind, want := range map[vfs.Kind]bool{vfs.KindTorn: true, vfs.KindQuota: true, vfs.KindNoSpace: true, vfs.KindExist: false, vfs.KindPermission: false} {
		var log bytes.Buffer
		_ = report(slog.New(slog.NewTextHandler(&log, nil)), &counters{}, "write", "/f", &vfs.Error{Op: "write", Kind: kind})
		if got := strings.Contains(log.String(), kind.String()); got != want {
			t.Errorf("%v: %q", kind, log.String())
		}
	}
}
