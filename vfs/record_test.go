package vfs

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// sampleOps has every kind of record, with every field that it carries set.
func sampleOps() []*op {
	at := time.Unix(1_700_000_000, 123).UTC()
	attr := snapshotter.Attr{Mode: 0o640, ModTime: time.Unix(0, 0).UTC(), UID: 1000, GID: 1 << 31}
	id := snapshotter.ID{1, 2, 3}
	xs := []spool.Extent{{Off: 0, Len: 10}, {Off: 1 << 40, Len: 5}}
	base := baseRef{id: id, path: "/old", size: 77}
	return []*op{
		{kind: opPut, name: Name{"/a/b"}, attr: attr, version: 7, time: at, user: "alice", protocol: "sftp",
			content: &content{size: 5, inRecord: true, inline: []byte("hello"), hasHash: true, hash: [32]byte{9}}},
		{kind: opPut, name: Name{"/a/b\xff"}, attr: attr, version: 8, time: at,
			content: &content{size: 1 << 41, spool: 12, extents: xs, base: base}},
		{kind: opPut, name: Name{"/empty"}, time: at, content: &content{inRecord: true}},
		{kind: opMkdir, name: Name{"/d"}, attr: attr, version: 9, time: at},
		{kind: opSymlink, name: Name{"/l"}, attr: attr, version: 10, target: "../x\x00y", time: at},
		{kind: opRemove, name: Name{"/d"}, time: at},
		{kind: opRename, name: Name{"/d"}, to: Name{"/e/f"}, time: at},
		{kind: opSetattr, name: Name{"/"}, mask: setMode | setMtime, attr: attr, time: at},
		{kind: opLink, name: Name{"/a"}, to: Name{"/b"}, version: 11, time: at},
		{kind: opSeal, reason: "close", time: at},
		{kind: opCommitted, time: at, commit: &committedRecord{upTo: 99, id: id, sequence: 3, time: at, suffix: 2, version: 11}},
		{kind: opCommitted, time: at, commit: &committedRecord{upTo: 99, id: id, sequence: 3, time: at, suffix: 2, version: 11, lenient: true}},
		{kind: opPartial, time: at, partial: &partial{name: Name{"/p"}, user: "bob", spool: 4, size: 15, extents: xs[:1], base: base, time: at}},
		{kind: opPartialGone, time: at, partial: &partial{name: Name{"/p"}, user: "bob"}},
		{kind: opTorn, name: Name{"/a"}, time: at, user: "bob"},
		{kind: opWhole, name: Name{"/a"}, time: at, user: "bob"},
	}
}

var opEqual = cmp.Options{
	cmp.AllowUnexported(op{}, partial{}, committedRecord{}, baseRef{}, Name{}),
	cmpopts.IgnoreFields(op{}, "check", "upload"),
	cmp.Comparer(func(a, b *content) bool {
		if a == nil || b == nil {
			return a == b
		}
		return a.size == b.size && a.inRecord == b.inRecord && a.spool == b.spool && a.base == b.base &&
			cmp.Equal(a.extents, b.extents, cmpopts.EquateEmpty()) && a.hasHash == b.hasHash && a.hash == b.hash
	}),
	cmpopts.EquateEmpty(),
}

func TestRecordRoundTrip(t *testing.T) {
	for _, want := range sampleOps() {
		t.Run(want.kind.String(), func(t *testing.T) {
			rec := want.encode()
			got, err := decodeOp(rec)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, opEqual); diff != "" {
				t.Errorf("decoded record differs (-want +got):\n%s", diff)
			}
			if want.content != nil && want.content.inRecord {
				data, err := decodeInline(rec)
				if err != nil || !bytes.Equal(data, want.content.inline) {
					t.Errorf("decodeInline = %q, %v, want %q", data, err, want.content.inline)
				}
			}
		})
	}
}

// Notes of commits are as they were before any said that it is lenient, and one that does stops a gateway that does not know of it.
func TestCommittedRecord(t *testing.T) {
	rec := []byte{recordFormat, 9, 0, 0, 0, 99} // kind; no time, user, protocol; position
	id := snapshotter.ID{1, 2, 3}
	rec = append(append(rec, id[:]...), 3, 0, 2, 11) // sequence, no time, suffix, version
	o := &op{kind: opCommitted, commit: &committedRecord{upTo: 99, id: id, sequence: 3, suffix: 2, version: 11}}
	want(t, "record", o.encode(), rec)
	got, err := decodeOp(rec)
	wantNil(t, "decode", err)
	want(t, "lenient", got.commit.lenient, false)
	o.commit.lenient = true
	rec[1] = 14
	want(t, "lenient record", o.encode(), rec)
}

// Every cut and every unknown format is an error, never a shorter record.
func TestRecordRefusesDamage(t *testing.T) {
	for _, o := range sampleOps() {
		rec := o.encode()
		for n := range rec {
			if got, err := decodeOp(rec[:n]); !errors.Is(err, errRecord) {
				t.Fatalf("%v cut to %d of %d bytes: got %+v, %v", o.kind, n, len(rec), got, err)
			}
		}
		if _, err := decodeOp(append(bytes.Clone(rec), 0)); !errors.Is(err, errRecord) {
			t.Errorf("%v with a byte more: err = %v", o.kind, err)
		}
		newer := bytes.Clone(rec)
		newer[0]++
		if _, err := decodeOp(newer); !errors.Is(err, errRecord) {
			t.Errorf("%v of a newer format: err = %v", o.kind, err)
		}
	}
	bad := &op{kind: opRemove, name: Name{"/a/../b"}}
	if _, err := decodeOp(bad.encode()); !errors.Is(err, errRecord) {
		t.Errorf("record with a name that is not canonical: err = %v", err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, o := range sampleOps() {
		f.Add(o.encode())
	}
	f.Fuzz(func(t *testing.T, rec []byte) {
		o, err := decodeOp(rec)
		if err != nil {
			return
		}
		if o.content != nil && o.content.inRecord {
			if o.content.inline, err = decodeInline(rec); err != nil {
				t.Fatal(err)
			}
		}
		again, err := decodeOp(o.encode())
		if err != nil {
			t.Fatalf("own encoding is refused: %v", err)
		}
		if diff := cmp.Diff(o, again, opEqual); diff != "" {
			t.Errorf("second decoding differs:\n%s", diff)
		}
	})
}
