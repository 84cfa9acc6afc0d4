package restore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"unicode/utf8"

	"github.com/snapgate/gateway/snapshotter"
)

const (
	tempMark   = ".snapgate-"
	tempDigits = 8
	tempSuffix = ".part" // which is a name of something unfinished to others, too
	maxName    = 255     // NAME_MAX
)

// tempName is the name beside its place that a version of a file is written under:
// ".NAME.snapgate-XXXXXXXX.part". It is the same in the next run, and another one for another
// version. Of a long name the beginning is taken.
func tempName(l snapshotter.Lineage, src string, e snapshotter.Entry) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %d %d %d %q", l.GatewayID, l.ShareID, src, e.Version, e.Size, e.Attr.ModTime.UnixNano(), e.Target))
	name := e.Name
	if most := maxName - 1 - len(tempMark) - tempDigits - len(tempSuffix); len(name) > most {
		valid := utf8.ValidString(name)
		name = name[:most]
		for valid && !utf8.ValidString(name) { // not in the middle of a character
			name = name[:len(name)-1]
		}
	}
	return "." + name + tempMark + hex.EncodeToString(sum[:])[:tempDigits] + tempSuffix
}
