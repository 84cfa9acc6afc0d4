package ftpsrv

import (
	"crypto/md5"  //nolint:gosec // not for security: clients compare files with it
	"crypto/sha1" //nolint:gosec // likewise
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/snapgate/gateway/vfs"
)

// defaultHash is what HASH gives until OPTS HASH says otherwise: what
// draft-bryan-ftpext-hash-02 section 3.2 recommends.
const defaultHash = "SHA-256"

// hashNames are the algorithms of HASH, by their names in the IANA registry.
func hashNames() []string { return []string{"CRC32", "MD5", "SHA-1", "SHA-256", "SHA-512"} }

// hashCommands are the older commands, one for each algorithm.
func hashCommands() map[string]string {
	return map[string]string{
		"XCRC": "CRC32", "XMD5": "MD5", "MD5": "MD5", "XSHA": "SHA-1", "XSHA1": "SHA-1",
		"XSHA256": "SHA-256", "XSHA512": "SHA-512",
	}
}

func newHash(name string) hash.Hash {
	switch name {
	case "CRC32":
		return crc32.NewIEEE()
	case "MD5":
		return md5.New() //nolint:gosec // see above
	case "SHA-1":
		return sha1.New() //nolint:gosec // see above
	case "SHA-512":
		return sha512.New()
	default:
		return sha256.New()
	}
}

// hashList is the list of FEAT; the chosen one has a star.
func hashList(chosen string) string {
	names := hashNames()
	for i, n := range names {
		if n == chosen {
			names[i] += "*"
		}
	}
	return strings.Join(names, ";")
}

// optsHash tells or chooses the algorithm of HASH.
func (c *conn) optsHash(name string) {
	if name == "" {
		c.ctl.reply(codeOK, c.hash)
		return
	}
	for _, n := range hashNames() {
		if strings.EqualFold(n, name) {
			c.hash = n
			c.ctl.reply(codeOK, n)
			return
		}
	}
	c.ctl.reply(codeSyntax, clip(name)+": unknown algorithm, "+c.hash+" stays")
}

// hashArgs splits the argument of an X command: a path, in quotes when the client likes,
// and up to two numbers, start and end. A path that ends in numbers needs quotes, or to be
// the name of a file: exists tells.
func hashArgs(arg string, exists func(string) bool) (name string, start, end int64, err error) {
	if exists(arg) {
		return arg, 0, -1, nil
	}
	end = -1
	var numbers []string
	if quotedName, rest, ok := cutQuoted(arg); ok {
		name, numbers = quotedName, strings.Fields(rest)
	} else {
		name = arg
		for len(numbers) < 2 {
			i := strings.LastIndexByte(name, ' ')
			if i < 0 {
				break
			}
			if _, err := strconv.ParseUint(name[i+1:], 10, 63); err != nil {
				break
			}
			numbers = append([]string{name[i+1:]}, numbers...)
			name = name[:i]
			if exists(name) {
				break
			}
		}
	}
	if len(numbers) > 2 {
		return "", 0, 0, errors.New("too many arguments")
	}
	for i, dst := range []*int64{&start, &end} {
		if i >= len(numbers) {
			break
		}
		if *dst, err = strconv.ParseInt(numbers[i], 10, 64); err != nil || *dst < 0 {
			return "", 0, 0, fmt.Errorf("%q is no position", numbers[i])
		}
	}
	if end >= 0 && end < start {
		return "", 0, 0, errors.New("the end is before the start")
	}
	return name, start, end, nil
}

// cutQuoted takes a name in double quotes from the front; a quote in it is doubled.
func cutQuoted(s string) (name, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '"':
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == '"':
			b.WriteByte('"')
			i++
		default:
			return b.String(), s[i+1:], true
		}
	}
	return "", "", false
}

// cmdHash is HASH (draft-bryan-ftpext-hash-02) and its older forms. The store keeps no
// digests of these kinds: the file is read.
func (c *conn) cmdHash(cmd command) {
	algorithm, old := hashCommands()[cmd.verb]
	if !old {
		algorithm = c.hash
	}
	name, start, end, err := hashArgs(cmd.arg, func(name string) bool {
		_, err := c.sess.Stat(c.ctx, c.absolute(name))
		return err == nil
	})
	if err != nil {
		c.ctl.reply(codeSyntax, cmd.verb+": "+err.Error())
		return
	}
	sum, end, err := c.digest(name, algorithm, start, end)
	switch {
	case err != nil:
		c.fail(cmd.verb, name, err)
	case old:
		c.ctl.reply(codeDone, strings.ToUpper(sum))
	default:
		c.ctl.reply(codeFile, fmt.Sprintf("%s %d-%d %s %s", algorithm, start, end, sum, name))
	}
}

// digest reads a file from start to end, -1 for its end, and returns where that was.
func (c *conn) digest(name, algorithm string, start, end int64) (_ string, _ int64, err error) {
	f, err := c.sess.Open(c.ctx, c.absolute(name), vfs.OpenRead, vfs.AttrSet{})
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat(c.ctx)
	if err != nil {
		return "", 0, err
	}
	if end < 0 || end > info.Size {
		end = info.Size
	}
	if start > end {
		return "", 0, refusal(codeSyntax, "%s: has %d bytes", name, info.Size)
	}
	h := newHash(algorithm)
	buf := make([]byte, pieceBytes)
	for off := start; off < end; {
		if c.gone() {
			return "", 0, errGone
		}
		n, err := f.ReadAt(buf[:min(pieceBytes, end-off)], off)
		_, _ = h.Write(buf[:n]) // never fails
		off += int64(n)
		if err == io.EOF && off < end { //nolint:errorlint // a cause that is one is no end of the file
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF { //nolint:errorlint // likewise
			return "", 0, err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), end, nil
}
