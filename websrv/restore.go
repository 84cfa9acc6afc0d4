package websrv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// restoring is the restore of a file of a snapshot into the live tree.
type restoring struct {
	from, to vfs.Name
	old      vfs.Info // what the snapshot has
	mode     fs.FileMode
	now      *vfs.Info // what is there now; nil: no complete file
	partial  *vfs.Info // the user's own unfinished upload of the name, which the restore drops; nil: none
}

// state is a text that changes when what is there does.
func (t *restoring) state() string {
	switch {
	case t.partial != nil:
		return fmt.Sprintf("partial-%d-%d", t.partial.Size, t.partial.ModTime.UnixNano())
	case t.now == nil:
		return "none"
	}
	return fmt.Sprintf("%d-%d-%d-%d", t.now.Type, t.now.Version, t.now.Size, t.now.ModTime.UnixNano())
}

// restoring finds out what a restore would do.
func (x *visit) restoring() (*restoring, error) {
	p := x.place(x.name)
	perms := x.who.Perms
	switch {
	case p.mount == nil || p.snap == "" || p.inMount() == "/":
		return nil, &vfs.Error{Op: "restore", Name: x.name, Kind: vfs.KindNotExist}
	case !perms.Has(vfs.PermRead|vfs.PermHistory) || !perms.Has(vfs.PermCreate) && !perms.Has(vfs.PermOverwrite), x.v.readOnly(p.mount.Share):
		return nil, &vfs.Error{Op: "restore", Name: x.name, Kind: vfs.KindPermission}
	}
	t := &restoring{from: p.name, to: p.live}
	var err error
	if t.old, err = x.sess.Lstat(x.ctx, t.from.String()); err != nil {
		return nil, err
	}
	if t.old.Type != vfs.TypeFile {
		return nil, &vfs.Error{Op: "restore", Name: x.name, Kind: vfs.KindUnsupported}
	}
	if t.mode, err = x.modeOf(&p, t.old.Mode); err != nil {
		return nil, err
	}
	info, err := x.sess.Lstat(x.ctx, t.to.String())
	switch {
	case err == nil && info.Partial:
		t.partial = &info
	case err == nil:
		t.now = &info
	case vfs.KindOf(err) != vfs.KindNotExist && vfs.KindOf(err) != vfs.KindNotDir:
		return nil, err
	}
	return t, nil
}

// modeOf is the mode of a file of a snapshot as it was: a session shows it without the bits for
// writing. Who may not look through snapshots beside the session gets what the session shows, and may
// write it.
func (x *visit) modeOf(p *place, shown fs.FileMode) (fs.FileMode, error) {
	const ownerWrites = 0o200
	if !x.who.Perms.Has(vfs.PermList) {
		return shown | ownerWrites, nil
	}
	r, err := x.reach(p.mount)
	if err != nil {
		return 0, err
	}
	snap, err := r.find(p.snap)
	if err != nil {
		return shown | ownerWrites, nil //nolint:nilerr // the session has found it by another name
	}
	view, err := r.open(x.ctx, snap)
	if err != nil {
		return 0, err
	}
	e, err := view.Lstat(x.ctx, r.path(p.inMount()))
	if errors.Is(err, fs.ErrNotExist) { // behind a symbolic link
		return shown | ownerWrites, nil
	}
	return e.Attr.Mode, err
}

// restorePage asks whether it is meant.
func (v *viewer) restorePage(x *visit) error {
	defer x.limited()()
	if p := x.place(x.name); p.snap == latestName {
		return x.toLatest("restore", &p)
	}
	t, err := x.restoring()
	if err != nil {
		return err
	}
	return x.askRestore(t, http.StatusOK, "")
}

// askRestore shows what a restore would do.
func (x *visit) askRestore(t *restoring, status int, wrong string) error {
	p := x.place(x.name)
	d := struct {
		frame
		tools
		Name, Path, Action, State, Wrong string
		OldSize, OldTime, OldStamp       string
		Exists, IsFile, MayReplace       bool
		Partial                          string // how much there is of an unfinished upload, "" for none
		NowSize, NowTime, NowStamp       string
		Cancel                           string
	}{
		frame: x.v.frame(x.login, "Restore "+shown(t.to.Base())), tools: x.tools(&p, false), Name: shown(t.to.Base()), Path: shown(t.to.String()),
		Action: link("restore", t.from.String()), State: t.state(), Wrong: wrong,
		OldSize: size(t.old.Size), OldTime: clock(t.old.ModTime), OldStamp: stamp(t.old.ModTime), Cancel: link("view", t.from.String()),
	}
	d.Here = "browse"
	if t.now != nil {
		d.Exists, d.IsFile = true, t.now.Type == vfs.TypeFile
		d.MayReplace = d.IsFile && x.who.Perms.Has(vfs.PermOverwrite)
		d.NowSize, d.NowTime, d.NowStamp = size(t.now.Size), clock(t.now.ModTime), stamp(t.now.ModTime)
	}
	if t.partial != nil {
		d.Partial, d.NowTime, d.NowStamp = size(t.partial.Size), clock(t.partial.ModTime), stamp(t.partial.ModTime)
	}
	x.v.send(x.w, x.r, status, "restore", d)
	return nil
}

// restore puts a file of a snapshot into the live tree. What is there, an unfinished upload too,
// is replaced only when the form says so, and a file only if it still is what the form was about when
// the new version takes its place.
func (v *viewer) restore(x *visit) error {
	defer x.limited()()
	if p := x.place(x.name); p.snap == latestName {
		return x.toLatest("restore", &p)
	}
	t, err := x.restoring()
	if err != nil {
		return err
	}
	replace := x.r.PostForm.Get("replace") == "yes"
	switch {
	case x.r.PostForm.Get("state") != t.state():
		return x.askRestore(t, http.StatusConflict, "What is there has changed in the meantime. Please look again.")
	case t.now != nil && t.now.Type != vfs.TypeFile: // a link would lead elsewhere
		return x.askRestore(t, http.StatusConflict, "")
	case t.now != nil && !replace:
		return x.askRestore(t, http.StatusConflict, "There is a file of that name. Say that you want to replace it.")
	case t.partial != nil && !replace:
		return x.askRestore(t, http.StatusConflict, "There is an unfinished upload of that name. Say that you want to drop it.")
	}
	published, err := x.putBack(t)
	if !published && slices.Contains([]vfs.Kind{vfs.KindChanged, vfs.KindExist, vfs.KindIsDir}, vfs.KindOf(err)) { // somebody was quicker
		if t, err = x.restoring(); err != nil {
			return err
		}
		return x.askRestore(t, http.StatusConflict, "What is there has changed in the meantime. Please look again.")
	}
	if !published {
		return err
	}
	x.login.saved.Add(1)
	v.log.Info("restored", "conn", x.login.id, "principal", x.login.user, "from", t.from.String(), "to", t.to.String())
	if err != nil {
		v.log.Warn("what was restored is in no snapshot yet", "conn", x.login.id, "to", t.to.String(), "err", err)
		v.fail(x.w, x.r, x.login, http.StatusGatewayTimeout, "The file is back, and not yet in a snapshot, which takes long. Nothing needs to be done again.")
		return nil
	}
	http.Redirect(x.w, x.r, query(link("view", t.to.String()), "restored", "1"), http.StatusSeeOther)
	return nil
}

// putBack makes the file anew, of the bytes that the store has. An error of what is published means that
// no snapshot has it yet.
func (x *visit) putBack(t *restoring) (published bool, err error) {
	if err := x.directories(t.to.Parent()); err != nil {
		return false, err
	}
	from, err := x.sess.Open(x.ctx, t.from.String(), vfs.OpenRead, vfs.AttrSet{})
	if err != nil {
		return false, err
	}
	defer func() {
		if err := from.CloseContext(x.ctx); err != nil {
			x.v.log.Warn("closing a file", "conn", x.login.id, "err", err)
		}
	}()
	flag := vfs.OpenWrite | vfs.OpenCreate | vfs.OpenExclusive
	if t.now != nil {
		flag = vfs.OpenWrite | vfs.OpenCreate | vfs.OpenTruncate
	}
	mode, mtime := t.mode, t.old.ModTime
	to, err := x.sess.Open(x.ctx, t.to.String(), flag, vfs.AttrSet{Mode: &mode})
	if err != nil {
		return false, err
	}
	if err = to.PublishOver(t.now); err == nil {
		err = x.sess.CopyData(x.ctx, from, 0, 0, to, 0)
	}
	if err == nil {
		err = to.SetAttr(x.ctx, vfs.AttrSet{Mode: &mode, ModTime: &mtime})
	}
	if err != nil {
		return false, errors.Join(err, to.Abort())
	}
	// What has begun is brought to its end, whether anybody waits for the answer or not.
	// But when nobody waits, as when the gateway ends, it is not waited for a snapshot that has it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), publishTimeout)
	defer cancel()
	defer context.AfterFunc(x.r.Context(), cancel)()
	_ = http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(publishTimeout + writeTimeout))
	err = to.CloseContext(ctx)
	return err == nil || to.Published(), err
}

// publishTimeout is how long the end of a restore may take, with a commit where the share wants it.
const publishTimeout = 5 * time.Minute

// directories makes the directories that a file is to be in, where they are missing.
func (x *visit) directories(dir vfs.Name) error {
	_, err := x.sess.Stat(x.ctx, dir.String())
	if err == nil || vfs.KindOf(err) != vfs.KindNotExist || dir.IsRoot() {
		return err
	}
	if err := x.directories(dir.Parent()); err != nil {
		return err
	}
	if err := x.sess.Mkdir(x.ctx, dir.String(), vfs.AttrSet{}); err != nil && vfs.KindOf(err) != vfs.KindExist {
		return err
	}
	return nil
}
