package snapshotter

import (
	"encoding/binary"
	"io/fs"
	"time"

	"github.com/PlakarKorp/kloset/objects"
)

// rawEntry is what a search asks of an entry. To decode one costs several times as much as to look
// these up where they stand, and of a million entries few are meant.
type rawEntry struct {
	name        []byte // in what the entry was parsed from
	target      []byte
	contentType []byte
	size        int64
	mode        fs.FileMode
	modTime     time.Time
}

// parseEntry looks up fields of an entry with its MAC behind it; false when it is not encoded as
// kloset and we do it, which tells nothing about whether it can be decoded.
func parseEntry(frame []byte) (e rawEntry, ok bool) {
	p := rawParser{data: frame[:len(frame)-len(objects.MAC{})]}
	for range p.length(0x80, 0xde) {
		switch name := p.bytes(); string(name) {
		case "file_info":
			e.fileInfo(&p)
		case "symlink_target":
			e.target = p.bytes()
		case "content_type":
			e.contentType = p.bytes()
		default:
			p.any(0)
		}
		if p.bad {
			return e, false
		}
	}
	return e, !p.bad && p.at == len(p.data)
}

func (e *rawEntry) fileInfo(p *rawParser) {
	for range p.length(0x80, 0xde) {
		switch name := p.bytes(); string(name) {
		case "name":
			e.name = p.bytes()
		case "size":
			e.size = p.integer()
		case "mode":
			e.mode = fs.FileMode(p.integer())
		case "mod_time":
			e.modTime = p.time()
		default:
			p.any(0)
		}
		if p.bad {
			return
		}
	}
}

// entry is what a Query looks at, but for the content type.
func (e *rawEntry) entry() Entry {
	out := Entry{Kind: File, Attr: Attr{ModTime: e.modTime}}
	switch {
	case e.mode.IsDir():
		out.Kind = Dir
	case e.mode&fs.ModeSymlink != 0:
		out.Kind, out.Size = Symlink, int64(len(e.target))
	case e.mode.IsRegular():
		out.Size = e.size
	}
	return out
}

// bytes reads a string without a copy.
func (p *rawParser) bytes() []byte {
	t := p.text()
	return p.data[t[0]:t[1]]
}

// integer reads a number, signed or not.
func (p *rawParser) integer() int64 {
	switch c := p.take(1)[0]; {
	case c < 0x80 || c >= 0xe0:
		return int64(int8(c))
	case c == 0xcc:
		return int64(p.take(1)[0])
	case c == 0xcd:
		return int64(binary.BigEndian.Uint16(p.take(2)))
	case c == 0xce:
		return int64(binary.BigEndian.Uint32(p.take(4)))
	case c == 0xcf, c == 0xd3:
		return int64(binary.BigEndian.Uint64(p.take(8)))
	case c == 0xd0:
		return int64(int8(p.take(1)[0]))
	case c == 0xd1:
		return int64(int16(binary.BigEndian.Uint16(p.take(2))))
	case c == 0xd2:
		return int64(int32(binary.BigEndian.Uint32(p.take(4))))
	}
	p.bad = true
	return 0
}

// time reads a time stamp, of one of its three lengths.
func (p *rawParser) time() time.Time {
	head := p.take(2)
	switch {
	case head[0] == 0xd6 && head[1] == 0xff:
		return time.Unix(int64(binary.BigEndian.Uint32(p.take(4))), 0)
	case head[0] == 0xd7 && head[1] == 0xff:
		v := binary.BigEndian.Uint64(p.take(8))
		return time.Unix(int64(v&(1<<34-1)), int64(v>>34))
	case head[0] == 0xc7 && head[1] == 12 && p.take(1)[0] == 0xff:
		nsec := binary.BigEndian.Uint32(p.take(4))
		return time.Unix(int64(binary.BigEndian.Uint64(p.take(8))), int64(nsec))
	}
	p.bad = true
	return time.Time{}
}

// rawDepth is far beyond how deep the values of an entry are nested.
const rawDepth = 16

// any goes over a value of any kind.
func (p *rawParser) any(depth int) {
	if p.at >= len(p.data) || depth > rawDepth {
		p.bad = true
		return
	}
	switch c := p.data[p.at]; {
	case c&0xe0 == 0xa0 || c >= 0xd9 && c <= 0xdb:
		p.text()
	case c&0xf0 == 0x80 || c == 0xde || c == 0xdf:
		for range p.length(0x80, 0xde) {
			if p.any(depth + 1); p.bad {
				return
			}
			p.any(depth + 1)
		}
	case c&0xf0 == 0x90 || c == 0xdc || c == 0xdd:
		for range p.length(0x90, 0xdc) {
			if p.any(depth + 1); p.bad {
				return
			}
		}
	case c == 0xc2 || c == 0xc3:
		p.at++
	case c == 0xca:
		p.take(5)
	case c == 0xcb:
		p.take(9)
	case c == 0xc5:
		p.at++
		p.take(int(binary.BigEndian.Uint16(p.take(2))))
	case c == 0xc6:
		p.at++
		p.take(int(binary.BigEndian.Uint32(p.take(4))))
	default:
		p.skip()
	}
}
