package websrv

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/snapgate/gateway/vfs"
)

const (
	maxText    = 256 << 10 // bytes of a text that are shown
	maxPicture = 32 << 20  // bytes of a picture that is shown
	sniffBytes = 512       // of a file that tell what it is
)

// preview shows a file: what is known of it, and the text or picture that it is. What it is, its
// first bytes say, not its name.
func (v *viewer) preview(x *visit) error {
	defer x.limited()()
	p := x.place(x.name)
	info, err := x.sess.Stat(x.ctx, x.name.String())
	if err != nil {
		return err
	}
	if info.Type == vfs.TypeDir {
		http.Redirect(x.w, x.r, link("browse", x.name.String()), http.StatusSeeOther)
		return nil
	}
	d := struct {
		frame
		tools
		Name, Path, Size, Bytes, Time, Stamp, Mode, Owner string
		Picture                                           string // its URL
		Text                                              string
		IsText, Cut, Denied, Empty, Restored              bool
	}{
		frame: v.frame(x.login, title(&p)), tools: x.tools(&p, false),
		Name: shown(x.name.Base()), Path: shown(p.live.String()), Size: size(info.Size),
		Time: clock(info.ModTime), Stamp: stamp(info.ModTime), Mode: modeText(info.Type, info.Mode), Empty: info.Size == 0,
	}
	d.Here = "browse"
	if info.Size >= 1<<10 {
		d.Bytes = count(uint64(info.Size), "byte", "bytes")
	}
	d.Restored = x.r.URL.Query().Get("restored") != "" && p.snap == ""
	d.Owner = owner(info.Owner, info.UID) + ":" + owner(info.Group, info.GID)
	if !x.who.Perms.Has(vfs.PermRead) {
		d.Denied = true
		return x.show("view", d)
	}
	head, err := x.head(x.name.String(), maxText+1)
	if err != nil {
		return err
	}
	switch {
	case pictureType(head) != "":
		if info.Size <= maxPicture {
			d.Picture = link("raw", x.name.String())
		}
	case isText(head):
		d.IsText, d.Cut = len(head) > 0, len(head) > maxText
		d.Text = shownText(string(head[:min(len(head), maxText)]))
	}
	return x.show("view", d)
}

// owner is a name, or else the number.
func owner(name string, id uint32) string {
	if name == "" {
		return fmt.Sprint(id)
	}
	return shown(name)
}

// head reads the first bytes of a file.
func (x *visit) head(name string, n int) (head []byte, err error) {
	f, err := x.sess.Open(x.ctx, name, vfs.OpenRead, vfs.AttrSet{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.CloseContext(x.ctx)) }()
	info, err := f.Stat(x.ctx)
	if err != nil {
		return nil, err
	}
	head = make([]byte, min(int64(n), info.Size))
	got, err := f.ReadAt(head, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return head[:got], err
}

// pictureType is the type of a picture that a browser is trusted with, "" for everything else.
// None of these can hold a program.
func pictureType(head []byte) string {
	switch t := http.DetectContentType(head[:min(len(head), sniffBytes)]); t {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return t
	}
	return ""
}

// isText reports whether bytes are text in UTF-8, the last character of which may be cut off.
func isText(head []byte) bool {
	if bytes.IndexByte(head, 0) >= 0 {
		return false
	}
	for i := 0; i < utf8.UTFMax && len(head) > 0; i++ {
		if utf8.Valid(head) {
			return true
		}
		head = head[:len(head)-1]
	}
	return len(head) == 0
}

// picture answers with the bytes of a picture, and of nothing else.
func (v *viewer) picture(x *visit) error {
	head, err := x.head(x.name.String(), sniffBytes)
	if err != nil {
		return err
	}
	typ := pictureType(head)
	if typ == "" {
		return &vfs.Error{Op: "picture", Name: x.name, Kind: vfs.KindNotExist}
	}
	return x.sendFile(typ, maxPicture)
}

// download answers with the bytes of a file, or a part of them, to be saved.
func (v *viewer) download(x *visit) error {
	x.w.Header().Set("Content-Disposition", disposition(x.name.Base()))
	if err := x.sendFile("application/octet-stream", 0); err != nil {
		x.w.Header().Del("Content-Disposition")
		return err
	}
	return nil
}

// sendFile answers with a file, if it has no more than most bytes; 0 for any.
func (x *visit) sendFile(typ string, most int64) error {
	f, err := x.sess.Open(x.ctx, x.name.String(), vfs.OpenRead, vfs.AttrSet{})
	if err != nil {
		return err
	}
	info, err := f.Stat(x.ctx)
	if err == nil && most > 0 && info.Size > most {
		err = &vfs.Error{Op: "send", Name: x.name, Kind: vfs.KindNotExist}
	}
	if err != nil {
		return errors.Join(err, f.CloseContext(x.ctx))
	}
	x.login.files.Add(1)
	h := x.w.Header()
	h.Set("Content-Type", typ)
	h.Set("Content-Security-Policy", sandboxed)
	h.Set("Last-Modified", info.ModTime.UTC().Format(http.TimeFormat))
	since := time.Time{} // what may change within a second is not gone on with by its time
	if tag := x.validator(&info); tag != "" {
		h.Set("ETag", tag)
		since = info.ModTime
	}
	w := x.patient()
	body := &fileBody{SectionReader: io.NewSectionReader(f, 0, info.Size)}
	http.ServeContent(w, x.r, "", since, body)
	if body.err != nil {
		x.v.log.Error("a download was cut off", "conn", x.login.id, "principal", x.login.user, "path", x.name.String(), "err", body.err)
	}
	if err := f.CloseContext(x.ctx); err != nil {
		x.v.log.Warn("closing a file", "conn", x.login.id, "err", err)
	}
	return nil
}

// validator is what tells versions of a file apart when a download goes on. In a snapshot a name
// stands for the same bytes for ever; elsewhere nothing is promised.
func (x *visit) validator(info *vfs.Info) string {
	p := x.place(x.name)
	if p.snap == "" || p.snap == latestName {
		return ""
	}
	h := fnv.New128a()
	_, _ = fmt.Fprintf(h, "%s\x00%s\x00%d\x00%d", p.mount.Share, x.name.String(), info.Size, info.ModTime.UnixNano()) // never fails
	return fmt.Sprintf("\"%x\"", h.Sum(nil))
}

// fileBody remembers why it could not be read.
type fileBody struct {
	*io.SectionReader
	err error
}

// Read implements io.Reader.
func (b *fileBody) Read(p []byte) (int, error) {
	n, err := b.SectionReader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}
