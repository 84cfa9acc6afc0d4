package pull

import (
	"bytes"
	"testing"
	"time"
)

// The texts of servers tell what is missing from what is forbidden.
func TestFTPRefusals(t *testing.T) {
	c := &ftpConn{}
	for _, tt := range []struct {
		code int
		text string
		want Kind
	}{
		{550, "No such file or directory", KindNotFound},
		{550, "'/data/x' cannot be listed", KindNotFound},     // ProFTPD's MLST
		{550, "Can't check for file existence", KindNotFound}, // Pure-FTPd's
		{550, "Permission denied.", KindPermission},
		{530, "Please log in", KindPermission},
		{502, "SITE CHMOD not implemented", KindUnsupported},
		{426, "Failure writing network stream.", KindConnection},
		{552, "Disk full", KindOther},
	} {
		if got := KindOf(c.refused("stat", "/x", ftpReply{code: tt.code, lines: []string{tt.text}})); got != tt.want {
			t.Errorf("%d %s: %v, want %v", tt.code, tt.text, got, tt.want)
		}
	}
}

func TestTimeCommand(t *testing.T) {
	at := time.Date(2024, 2, 29, 14, 14, 15, 0, time.FixedZone("", 3600))
	for command, want := range map[string]string{
		"MFMT":       "MFMT 20240229131415 /a b",
		"MDTM":       "MDTM 20240229131415 /a b",
		"SITE UTIME": "SITE UTIME /a b 20240229131415 20240229131415 20240229131415 UTC",
	} {
		if got := timeCommand(command, "/a b", at); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestHashIn(t *testing.T) {
	sum := bytes.Repeat([]byte{0xab, 0x01}, 8)
	const text = "ab01ab01ab01ab01ab01ab01ab01ab01"
	for _, tt := range []struct {
		code  int
		lines []string
		size  int
		want  []byte
	}{
		{213, []string{"MD5 0-49 " + text + " name"}, 16, sum},
		{250, []string{text}, 16, sum},
		{250, []string{"computing", "AB01AB01AB01AB01AB01AB01AB01AB01"}, 16, sum},
		{250, []string{text}, 20, nil},
		{250, []string{text + "zz"}, 16, nil},
		{550, []string{text}, 16, nil},
	} {
		if got := hashIn(ftpReply{tt.code, tt.lines}, tt.size); !bytes.Equal(got, tt.want) {
			t.Errorf("%d %q: %x, want %x", tt.code, tt.lines, got, tt.want)
		}
	}
}
