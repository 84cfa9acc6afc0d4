package vfstest

import (
	"bytes"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// The operations of the model test: each does something to the share and to the model.

func (m *model) open() {
	s, p := m.pick(len(m.clients)), m.somePath()
	if m.isLink(p) || len(m.uploads) > 8 || m.uploading(s, p) {
		return
	}
	flag := create
	old := m.names[p]
	if old != nil && m.pick(2) == 0 {
		flag = update
	}
	f, err := m.clients[s].Open(p, flag)
	if !m.check(err, m.isDir(path.Dir(p)) && !m.isDir(p), "session %d open %s %d as %d", s, p, flag, m.serial+1) {
		return
	}
	m.serial++
	u := &modelUpload{id: m.serial, file: f, session: s, path: p, onto: old != nil, changed: flag == create, mode: 0o644}
	if old != nil {
		u.mode = old.mode
	}
	if flag == update {
		u.data = bytes.Clone(old.data)
	}
	m.uploads = append(m.uploads, u)
}

// uploading reports whether a session has an upload open at p. What it does with the name
// then is about that upload, which the model does not know: its handles share it.
func (m *model) uploading(s int, p string) bool {
	return slices.ContainsFunc(m.uploads, func(u *modelUpload) bool { return u.path == p && u.session == s })
}

func (m *model) upload() *modelUpload {
	if len(m.uploads) == 0 {
		return nil
	}
	return m.uploads[m.pick(len(m.uploads))]
}

func (m *model) write() {
	u := m.upload()
	if u == nil {
		return
	}
	piece := m.someData()
	off := m.pick(256) * []int{1, 7, 400}[m.pick(3)]
	n, err := u.file.WriteAt(piece, int64(off))
	if err != nil && vfs.KindOf(err) == vfs.KindTorn && m.mayBeTorn(u, off) {
		m.note("write at %d to %d, %s: %v", off, u.id, u.path, err)
		return
	}
	if !m.check(err, true, "write %d bytes at %d to %d, %s", len(piece), off, u.id, u.path) || n != len(piece) {
		return
	}
	if len(piece) == 0 {
		return
	}
	u.changed = true
	u.data = resized(u.data, max(len(u.data), off+len(piece)))
	copy(u.data[off:], piece)
}

// mayBeTorn reports whether an update that begins behind the file may be taken for the resume of an upload of
// the same principal that was cut off or may have been.
func (m *model) mayBeTorn(u *modelUpload, off int) bool {
	if u.changed || !u.onto || off < len(u.data) {
		return false
	}
	return m.cutOff[u.session%2] || slices.ContainsFunc(m.uploads, func(o *modelUpload) bool {
		return o != u && o.path == u.path && o.session%2 == u.session%2
	})
}

// resized returns a copy of b with a new length; growth is zeros.
func resized(b []byte, n int) []byte {
	out := make([]byte, n)
	copy(out, b)
	return out
}

func (m *model) truncateOpen() {
	u := m.upload()
	if u == nil {
		return
	}
	n := m.pick(256) * []int{1, 30, 600}[m.pick(3)]
	if !m.check(u.file.SetAttr(vfs.AttrSet{Size: ptr(int64(n))}), true, "set size %d on open %d, %s", n, u.id, u.path) {
		return
	}
	u.changed = u.changed || n != len(u.data)
	u.data = resized(u.data, n)
}

func (m *model) attrOpen() {
	u := m.upload()
	if u == nil {
		return
	}
	mode := fs.FileMode(0o600 + m.pick(64))
	mtime := then().Add(time.Duration(m.pick(256)) * time.Hour)
	if m.check(u.file.SetAttr(vfs.AttrSet{Mode: &mode, ModTime: &mtime}), true, "set mode %o and time on open %d, %s", mode, u.id, u.path) {
		u.mode, u.mtime = mode, mtime
	}
}

func (m *model) closeUpload() {
	u := m.upload()
	if u == nil {
		return
	}
	m.uploads = slices.DeleteFunc(m.uploads, func(o *modelUpload) bool { return o == u })
	m.finish(u)
}

func (m *model) finish(u *modelUpload) {
	err := u.file.Close()
	if !u.changed {
		// Attributes without bytes: whether they stay is not for the model to say.
		m.note("close of unchanged %s: %v", u.path, err)
		if e := m.names[u.path]; e != nil && !u.mtime.IsZero() {
			m.resync(u.path, e)
		}
		return
	}
	if now := m.names[u.path]; u.onto && u.mtime.IsZero() && now != nil && now.typ == vfs.TypeFile {
		u.mode = now.mode // the file's: another handle may have set it since
	}
	if m.check(err, !m.isDir(u.path), "session %d close %d, %s with %d bytes", u.session, u.id, u.path, len(u.data)) {
		m.publish(u.path, u.data, u.mode, u.mtime, u.session)
	}
	m.cutOff[u.session%2] = m.cutOff[u.session%2] || err != nil
}

// resync takes the attributes over that the system shows.
func (m *model) resync(p string, e *modelEntry) {
	info, err := m.look.Lstat(p)
	if err != nil {
		m.Errorf("lstat %s: %v", p, err)
		return
	}
	e.mode, e.mtime = info.Mode.Perm(), time.Time{}
}

func (m *model) put() {
	s, p, data := m.pick(len(m.clients)), m.somePath(), m.someData()
	if m.isLink(p) || m.uploading(s, p) {
		return
	}
	mode, old := fs.FileMode(0o644), m.names[p]
	if old != nil {
		mode = old.mode
	}
	if m.check(upload(m.clients[s], p, data), m.isDir(path.Dir(p)) && !m.isDir(p), "session %d put %s %d bytes", s, p, len(data)) {
		m.publish(p, data, mode, time.Time{}, s)
	}
}

func (m *model) drop() {
	s := m.pick(len(m.clients))
	m.check(m.clients[s].Drop(), true, "session %d drop", s)
	m.lose(func(u *modelUpload) bool { return u.session == s })
	m.clients[s] = m.sys.Client(m.T, []string{"alice", "bob"}[s%2])
}

// lose ends uploads without a close.
func (m *model) lose(which func(u *modelUpload) bool) {
	m.uploads = slices.DeleteFunc(m.uploads, func(u *modelUpload) bool {
		lost := which(u)
		m.cutOff[u.session%2] = m.cutOff[u.session%2] || lost
		return lost
	})
}

func (m *model) mkdir() {
	s, p := m.pick(len(m.clients)), m.somePath()
	if m.check(m.clients[s].Mkdir(p), m.isDir(path.Dir(p)) && m.names[p] == nil, "mkdir %s", p) {
		m.touch(p)
		m.names[p] = &modelEntry{typ: vfs.TypeDir, mode: 0o755}
	}
}

func (m *model) rmdir() {
	s, p := m.pick(len(m.clients)), m.somePath()
	if m.check(m.clients[s].Rmdir(p), m.isDir(p) && m.empty(p) && !m.openBelow(p), "rmdir %s", p) {
		m.touch(p)
		delete(m.names, p)
	}
}

func (m *model) remove() {
	s, p := m.pick(len(m.clients)), m.somePath()
	if m.names[p] == nil {
		return // there may be something of the session's own to remove: a partial
	}
	if m.check(m.clients[s].Remove(p), !m.isDir(p), "session %d remove %s", s, p) {
		m.destroy(p, "remove", s, true)
		m.touch(p)
		delete(m.names, p)
	}
}

func (m *model) rename() {
	s, from, to, replace := m.pick(len(m.clients)), m.somePath(), m.somePath(), m.pick(2) == 1
	if from == to || m.names[from] == nil {
		return // as with remove
	}
	if !m.check(m.clients[s].Rename(from, to, replace), m.mayRename(from, to, replace), "session %d rename %s %s %v", s, from, to, replace) {
		return
	}
	m.destroy(to, "rename "+from, s, false)
	delete(m.names, to)
	m.touch(from)
	m.touch(to)
	moved := map[string]*modelEntry{}
	for p, e := range m.names {
		if p == from || strings.HasPrefix(p, from+"/") {
			moved[to+strings.TrimPrefix(p, from)] = e
			delete(m.names, p)
		}
	}
	maps.Copy(m.names, moved)
	for _, u := range m.uploads {
		if u.path == to || u.path == from && !u.onto {
			m.cutOff[u.session%2] = true // its name has another file, or that goes on with what is known of its own
		}
		u.onto = u.onto && u.path != to // its file is gone
		if strings.HasPrefix(u.path, from+"/") || u.path == from && u.onto {
			u.path = to + strings.TrimPrefix(u.path, from)
		}
	}
}

func (m *model) mayRename(from, to string, replace bool) bool {
	src, dst := m.names[from], m.names[to]
	switch {
	case src == nil, !m.isDir(path.Dir(to)), strings.HasPrefix(to, from+"/"):
		return false
	case dst == nil:
		return true
	case !replace:
		return false
	case src.typ == vfs.TypeDir:
		return dst.typ == vfs.TypeDir && m.empty(to) && !m.openBelow(to)
	}
	return dst.typ != vfs.TypeDir
}

func (m *model) link() {
	s, from, to := m.pick(len(m.clients)), m.somePath(), m.somePath()
	if m.isLink(from) || slices.ContainsFunc(m.uploads, func(u *modelUpload) bool { return u.path == from }) {
		return
	}
	src := m.names[from]
	should := src != nil && src.typ == vfs.TypeFile && m.names[to] == nil && m.isDir(path.Dir(to))
	if m.check(m.clients[s].Link(from, to), should, "session %d link %s %s", s, from, to) {
		m.touch(to)
		e := *src
		e.session = s
		m.names[to] = &e
	}
}

func (m *model) symlink() {
	s, p := m.pick(len(m.clients)), m.somePath()
	if m.check(m.clients[s].Symlink("nowhere/at all", p), m.names[p] == nil && m.isDir(path.Dir(p)), "symlink %s", p) {
		m.touch(p)
		m.names[p] = &modelEntry{typ: vfs.TypeSymlink, target: "nowhere/at all"}
	}
}

func (m *model) setAttr() {
	s, p := m.pick(len(m.clients)), m.somePath()
	e := m.names[p]
	if m.isLink(p) || slices.ContainsFunc(m.uploads, func(u *modelUpload) bool { return u.path == p }) {
		return
	}
	mode := fs.FileMode(0o600 + m.pick(64))
	mtime := then().Add(time.Duration(m.pick(256)) * time.Hour)
	if m.check(m.clients[s].SetAttr(p, vfs.AttrSet{Mode: &mode, ModTime: &mtime}), e != nil, "set mode %o and time of %s", mode, p) {
		e.mode, e.mtime = mode, mtime
	}
}

func (m *model) setSize() {
	s, p, n := m.pick(len(m.clients)), m.somePath(), m.pick(256)*300
	e := m.names[p]
	if m.isLink(p) || slices.ContainsFunc(m.uploads, func(u *modelUpload) bool { return u.path == p }) {
		return
	}
	if m.check(m.clients[s].SetAttr(p, vfs.AttrSet{Size: ptr(int64(n))}), e != nil && e.typ == vfs.TypeFile, "set size of %s to %d", p, n) && n != len(e.data) {
		m.publish(p, resized(e.data, n), e.mode, time.Time{}, s)
	}
}

func (m *model) openReader() {
	p := m.somePath()
	if m.isLink(p) || len(m.readers) > 4 {
		return
	}
	e := m.names[p]
	f, err := m.look.Open(p, vfs.OpenRead)
	if m.check(err, e != nil && e.typ == vfs.TypeFile, "open %s for reading", p) {
		m.readers = append(m.readers, modelReader{f, e.data})
	}
}

func (m *model) closeReader() {
	if len(m.readers) == 0 {
		return
	}
	i := m.pick(len(m.readers))
	r := m.readers[i]
	m.readers = slices.Delete(m.readers, i, i+1)
	got, err := readAll(r.file)
	if err != nil || !bytes.Equal(got, r.data) {
		m.Errorf("a reader gets %s, %v", firstDifference(got, r.data), err)
	}
	m.check(r.file.Close(), true, "close a reader")
}
