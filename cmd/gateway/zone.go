package main

import (
	"encoding/binary"
	"math"
	"time"
)

// Of a time zone the changes of these years are told. What came before is as it was at their
// beginning, what comes behind as at their end.
const (
	zoneFrom = 1900
	zoneTo   = 2200
)

// zoneData is a time zone in version 2 of tzfile(5), without the names of its rules:
// time.LoadLocationFromTZData makes the same zone of it wherever that is, as no name could.
func zoneData(zone *time.Location) []byte {
	type kind struct {
		offset int32
		dst    byte
		name   byte // where it begins
	}
	var names []byte
	var kinds []kind
	var times []int64
	var indexes []byte
	known := map[string]byte{}
	change := func(at int64, t time.Time) {
		name, offset := t.Zone()
		k := kind{offset: int32(offset)}
		if t.IsDST() {
			k.dst = 1
		}
		key := t.Format("MST -07:00:00 ") + string(rune(k.dst))
		i, ok := known[key]
		if !ok {
			if len(kinds) == math.MaxUint8 || len(names)+len(name) >= math.MaxUint8 {
				return // no zone has as many
			}
			i, k.name = byte(len(kinds)), byte(len(names))
			names = append(append(names, name...), 0)
			kinds, known[key] = append(kinds, k), i
		}
		if n := len(indexes); n > 0 && indexes[n-1] == i {
			return // it goes on
		}
		times, indexes = append(times, at), append(indexes, i)
	}
	t := time.Date(zoneFrom, 1, 1, 0, 0, 0, 0, time.UTC).In(zone)
	change(math.MinInt64, t)
	for t.Year() < zoneTo {
		_, end := t.ZoneBounds()
		if end.IsZero() {
			break
		}
		if !end.After(t) { // at the turn of some years that is all it says
			end = t.Add(time.Hour)
		}
		t = end
		change(t.Unix(), t)
	}
	header := func(times, kinds, names int) []byte {
		b := append([]byte("TZif2"), make([]byte, 15)...)
		for _, n := range []int{0, 0, 0, times, kinds, names} {
			b = binary.BigEndian.AppendUint32(b, uint32(n))
		}
		return b
	}
	b := append(header(0, 0, 0), header(len(times), len(kinds), len(names))...)
	for _, at := range times {
		b = binary.BigEndian.AppendUint64(b, uint64(at))
	}
	b = append(b, indexes...)
	for _, k := range kinds {
		b = binary.BigEndian.AppendUint32(b, uint32(k.offset))
		b = append(b, k.dst, k.name)
	}
	b = append(b, names...)
	return append(b, '\n', '\n') // no rule for what comes behind
}
