package ftpsrv

import (
	"errors"
	"fmt"
	"strings"

	"github.com/snapgate/gateway/vfs"
)

// Reply codes (RFC 959 section 4.2, RFC 2428, RFC 4217).
const (
	codeOpening       = 150
	codeOK            = 200
	codeSuperfluous   = 202
	codeSystem        = 211
	codeFile          = 213
	codeHelp          = 214
	codeSystemType    = 215
	codeReady         = 220
	codeGoodbye       = 221
	codeClosingData   = 226
	codePassive       = 227
	codeExtPassive    = 229
	codeLoggedIn      = 230
	codeAuthAccepted  = 234
	codeDone          = 250
	codePath          = 257
	codeNeedPassword  = 331
	codePending       = 350
	codeUnavailable   = 421
	codeNoData        = 425
	codeAborted       = 426
	codeTransient     = 450
	codeLocalError    = 451
	codeNoSpace       = 452
	codeUnknown       = 500
	codeSyntax        = 501
	codeNotHere       = 502
	codeSequence      = 503
	codeParameter     = 504
	codeNoNetProtocol = 522 // RFC 2428; and of data connections that are not encrypted
	codeNotLoggedIn   = 530
	codeDenied        = 534 // RFC 2228
	codeProtLevel     = 536 // RFC 2228
	codeFailed        = 550
	codeBadRestart    = 554 // RFC 1123 section 4.1.3.4
	codeQuota         = 552
	codeBadName       = 553
)

// replyError is a refusal with the reply that the client gets.
type replyError struct {
	code int
	text string
}

func (e *replyError) Error() string { return fmt.Sprintf("%d %s", e.code, e.text) }

func refusal(code int, format string, args ...any) error {
	return &replyError{code, fmt.Sprintf(format, args...)}
}

// kindCode is the one place where a Kind becomes a reply code: 4yz when the same command
// may succeed later, 5yz when it will not.
func kindCode(kind vfs.Kind) int {
	switch kind {
	case vfs.KindNoSpace:
		return codeNoSpace
	case vfs.KindQuota:
		return codeQuota
	case vfs.KindBadName:
		return codeBadName
	case vfs.KindBusy, vfs.KindUnavailable, vfs.KindTooMany:
		return codeTransient
	case vfs.KindTimeout, vfs.KindDisk, vfs.KindOther:
		return codeLocalError
	case vfs.KindClosed:
		return codeAborted
	case vfs.KindUnsupported:
		return codeParameter
	case vfs.KindNotExist, vfs.KindExist, vfs.KindNotDir, vfs.KindIsDir, vfs.KindNotEmpty,
		vfs.KindPermission, vfs.KindInvalid, vfs.KindLoop, vfs.KindTorn, vfs.KindChanged:
		return codeFailed
	default:
		return codeFailed
	}
}

// describe is what the client is told of an error: its own path and the Kind's text. The
// cause goes to the log, never to the client.
func describe(path string, err error) (int, string) {
	var re *replyError
	if errors.As(err, &re) {
		return re.code, re.text
	}
	kind := vfs.KindOf(err)
	if path == "" {
		return kindCode(kind), kind.String()
	}
	return kindCode(kind), path + ": " + kind.String()
}

// internal reports whether an operator should see errors of a kind.
func internal(kind vfs.Kind) bool {
	switch kind {
	case vfs.KindOther, vfs.KindNoSpace, vfs.KindUnavailable, vfs.KindDisk, vfs.KindTimeout, vfs.KindTooMany:
		return true
	default:
		return false
	}
}

// printable makes a text fit into a line of a reply or listing: FTP has no way to send a
// name with a line break.
func printable(s string) string {
	if !strings.ContainsAny(s, "\r\n\x00") {
		return s
	}
	return strings.NewReplacer("\r", "?", "\n", "?", "\x00", "?").Replace(s)
}

// quoted is a path in a 257 reply (RFC 959 appendix II).
func quoted(path string) string {
	return `"` + strings.ReplaceAll(printable(path), `"`, `""`) + `"`
}

// isRefusal reports whether this package decided an error by itself.
func isRefusal(err error) bool {
	var re *replyError
	return errors.As(err, &re)
}
