package snapshotter

import (
	"bytes"
	"io/fs"
	"math"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
	"github.com/vmihailenco/msgpack/v5"
)

// FuzzParseEntry compares what parseEntry looks up in entries with what decodeEntry makes of them.
func FuzzParseEntry(f *testing.F) {
	info := func(name string, size int64, mode fs.FileMode, at time.Time) objects.FileInfo {
		return objects.FileInfo{Lname: name, Lsize: size, Lmode: mode, LmodTime: at, Luid: 1000, Lino: 1 << 40, Lusername: "somebody"}
	}
	now := time.Date(2026, 11, 21, 19, 4, 29, 123456789, time.UTC)
	for _, e := range []storedEntry{
		{FileInfo: info("a.txt", 0, 0o644, now)},
		{FileInfo: info("ü", math.MaxInt64, 0o600, time.Unix(-5, 7)), ContentType: "text/plain; charset=utf-8", Object: objects.MAC{1}, Chunks: 3, Entropy: 7.9},
		{FileInfo: info("dir", 4096, fs.ModeDir|0o755, now.Truncate(time.Second)), Summary: &vfs.Summary{Directory: vfs.Directory{Files: 3, MaxSize: 1 << 33}}},
		{FileInfo: info("link", 7, fs.ModeSymlink|0o777, time.Time{}), SymlinkTarget: "../a.txt", ExtendedAttributes: []string{"user.x", "user.y"}},
		{FileInfo: info("tty", 1, fs.ModeDevice|fs.ModeCharDevice, time.Date(2600, 1, 1, 0, 0, 0, 0, time.UTC)), SecurityDescriptor: bytes.Repeat([]byte{9}, 300), FileAttributes: 7},
	} {
		data, err := msgpack.Marshal(&e)
		if err != nil {
			f.Fatal(err)
		}
		data = append(data, make([]byte, len(objects.MAC{}))...)
		if _, ok := parseEntry(data); !ok {
			f.Errorf("%s: not parsed", e.FileInfo.Lname)
		}
		f.Add(data)
		f.Add(append(data[:len(data)/2], make([]byte, len(objects.MAC{}))...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < len(objects.MAC{}) { // which frameSize refuses
			return
		}
		raw, ok := parseEntry(data)
		if !ok {
			return
		}
		e, err := decodeEntry(data)
		if err != nil {
			return // of a field that parseEntry does not look into
		}
		got, want := raw.entry(), entryOf(e)
		if got.Kind != want.Kind || got.Size != want.Size || !got.Attr.ModTime.Equal(want.Attr.ModTime) ||
			string(raw.name) != want.Name || string(raw.contentType) != e.ContentType {
			t.Errorf("got %+v, %+v; want %+v", raw, got, want)
		}
	})
}
