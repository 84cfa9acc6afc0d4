package vfs

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/memstore"
)

// model is the tree as a map, by the rules of POSIX: what withAttributes reads.
type model map[string]string

func newModel() model {
	return model{attrKey("/"): attrText(snapshotter.Attr{Mode: 0o755}, true)}
}

func (m model) isDir(p string) bool { return p == "/" || m[p] == "dir" }

func (m model) below(p string) []string {
	var out []string
	for q := range m {
		if strings.HasPrefix(q, p+"/") {
			out = append(out, q)
		}
	}
	slices.Sort(out)
	return out
}

// set puts something at a path.
func (m model) set(p, what, attr string) { m[p], m[attrKey(p)] = what, attr }

func (m model) move(p, to string) {
	m.set(to, m[p], m[attrKey(p)])
	m.remove(p)
}

func (m model) remove(p string) {
	delete(m, p)
	delete(m, attrKey(p))
}

// apply carries o out on the model; data is an upload's content.
func (m model) apply(o *op, data string) bool {
	p, to := o.name.String(), o.to.String()
	_, exists := m[p]
	switch o.kind {
	case opPut:
		if !m.isDir(path.Dir(p)) || m[p] == "dir" {
			return false
		}
		m.set(p, data, attrText(o.attr, false))
	case opMkdir:
		if exists || !m.isDir(path.Dir(p)) {
			return false
		}
		m.set(p, "dir", attrText(o.attr, true))
	case opSymlink:
		if exists || !m.isDir(path.Dir(p)) {
			return false
		}
		m.set(p, "-> "+o.target, attrText(o.attr, false))
	case opRemove:
		if !exists || m[p] == "dir" && len(m.below(p)) > 0 {
			return false
		}
		m.remove(p)
	case opLink:
		if _, taken := m[to]; !exists || taken || m[p] == "dir" || strings.HasPrefix(m[p], "->") || !m.isDir(path.Dir(to)) {
			return false
		}
		m.set(to, m[p], m[attrKey(p)])
	case opSetattr:
		if !exists && p != "/" {
			return false
		}
		m[attrKey(p)] = attrText(o.attr, m.isDir(p))
	case opRename:
		return m.rename(p, to)
	}
	return true
}

func (m model) rename(p, to string) bool {
	_, exists := m[p]
	old, taken := m[to]
	switch {
	case !exists, !m.isDir(path.Dir(to)) && p != to, strings.HasPrefix(to, p+"/"):
		return false
	case p == to:
		return true
	case taken && (old == "dir") != (m[p] == "dir"), taken && old == "dir" && len(m.below(to)) > 0:
		return false
	}
	for _, q := range m.below(p) {
		m.move(q, to+strings.TrimPrefix(q, p))
	}
	m.move(p, to)
	return true
}

// bytes is the sum of the sizes of the files.
func (m model) bytes() int64 {
	sum := 0
	for p, what := range m {
		if p[0] == '/' && what != "dir" && !strings.HasPrefix(what, "-> ") {
			sum += len(what)
		}
	}
	return int64(sum)
}

// stored is the model as a snapshot may have it: files that wait for their rename are left
// out, since the head's, if any, show instead.
func stored(tree map[string]string) map[string]string {
	out := maps.Clone(tree)
	for p, v := range tree {
		if strings.HasSuffix(p, ".tmp") && v != "dir" && p[0] == '/' {
			delete(out, p)
			delete(out, attrKey(p))
		}
	}
	return out
}

// randomOp draws an operation over a small name space, so that names meet often.
func randomOp(t *testing.T, s *share, rnd *rand.Rand) (*op, string) {
	name := func() Name {
		n := Root()
		for range 1 + rnd.IntN(3) {
			n = n.Join(string("abcd"[rnd.IntN(4)]))
		}
		if rnd.IntN(8) == 0 {
			n = Name{n.String() + ".tmp"}
		}
		return n
	}
	attr := snapshotter.Attr{
		Mode: fs.FileMode(rnd.IntN(0o1000)), UID: rnd.Uint32N(3), GID: rnd.Uint32N(3),
		ModTime: time.Unix(1e9+rnd.Int64N(1e9), 0).UTC(),
	}
	switch k := rnd.IntN(14); {
	case k < 5:
		data := fmt.Sprintf("%d", rnd.Uint64())
		if rnd.IntN(4) == 0 {
			data = strings.Repeat(data, 30)
		}
		o := put(t, s, name().String(), data)
		o.attr = attr
		return o, data
	case k < 7:
		return &op{kind: opMkdir, name: name(), attr: attr}, ""
	case k < 8:
		return &op{kind: opSymlink, name: name(), target: "x", attr: attr}, ""
	case k < 9:
		return &op{kind: opRemove, name: name()}, ""
	case k < 10:
		return &op{kind: opLink, name: name(), to: name()}, ""
	case k < 12:
		o := &op{kind: opSetattr, name: name(), attr: attr, mask: setMode | setMtime | setUID | setGID, flush: true}
		if rnd.IntN(8) == 0 {
			o.name = Root()
		}
		return o, ""
	default:
		return &op{kind: opRename, name: name(), to: name()}, ""
	}
}

// modelRun is a share beside its model.
type modelRun struct {
	*testing.T
	rnd    *rand.Rand
	dir    string
	repo   *memRepository
	sys    *System
	s      *share
	m      model
	states []map[string]string // what a snapshot may show, in order
	gate   *memstore.Gate      // holds a commit back
	commit chan error
}

// A random history, with commits, crashes and restarts in between, gives what the model
// says: in the live tree always, and in each snapshot but for names that wait for a rename.
// Commits take their time: operations, crashes and restarts fall into them.
func TestShareModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := &modelRun{
				T: t, rnd: rand.New(rand.NewPCG(seed, 1)),
				dir: t.TempDir(), repo: newMemRepository(), m: newModel(),
			}
			r.open()
			for step := range 150 {
				r.step(step)
				if diff := cmp.Diff(map[string]string(r.m), withAttributes(t, r.s)); diff != "" {
					t.Fatalf("step %d: live tree differs (-want +got):\n%s", step, diff)
				}
				want(t, fmt.Sprintf("step %d: bytes of the live tree", step), r.s.current().bytes(), r.m.bytes())
			}
			r.finish()
			closeSystem(t, r.sys)
			r.snapshots()
		})
	}
}

func (r *modelRun) open() {
	r.sys = openTestSystem(r.T, r.dir, r.repo)
	r.s = testShare(r.T, r.sys)
	r.states = append(r.states, stored(r.m))
}

func (r *modelRun) step(step int) {
	switch r.rnd.IntN(40) {
	case 0:
		r.finish()
		if id := commitShare(r.T, r.s); !id.IsZero() {
			if diff := cmp.Diff(stored(r.m), stored(viewWithAttributes(r.T, r.repo, id))); diff != "" {
				r.Fatalf("step %d: snapshot differs (-want +got):\n%s", step, diff)
			}
		}
	case 1:
		r.crash()
		r.open()
	case 2:
		r.finish()
		closeSystem(r.T, r.sys)
		r.open()
	case 3, 4:
		r.hold()
	case 5:
		r.finish()
	default:
		o, data := randomOp(r.T, r.s, r.rnd)
		before := maps.Clone(r.m)
		ok := r.m.apply(o, data)
		if err := r.s.do(r.Context(), o); ok != (err == nil) {
			r.Fatalf("step %d: %v %v %v: err = %v, model says %v\nin %v", step, o.kind, o.name, o.to, err, ok, before)
		}
		r.states = append(r.states, stored(r.m))
	}
}

// hold begins a commit and leaves it in the middle.
func (r *modelRun) hold() {
	if r.gate != nil {
		return
	}
	r.gate, r.commit = r.repo.Block(), make(chan error, 1)
	go func(sys *System, done chan<- error) {
		_, err := sys.Commit(context.Background(), "s")
		done <- err
	}(r.sys, r.commit)
	select {
	case <-r.gate.Entered():
	case err := <-r.commit: // there was nothing to commit
		r.commit <- err
	}
}

// finish lets the commit that is held come to its end.
func (r *modelRun) finish() {
	if r.gate == nil {
		return
	}
	r.gate.Release()
	if err := <-r.commit; err != nil {
		r.Fatal(err)
	}
	r.gate = nil
}

// crash kills the process, in the middle of a commit when one is held: before its snapshot
// is there, or just after.
func (r *modelRun) crash() {
	died := fmt.Errorf("the process died here")
	if r.gate != nil && r.rnd.IntN(2) == 0 {
		r.repo.FailAfterCommit(died)
		r.gate.Release()
		<-r.commit
		r.gate = nil
	}
	crash(r.T, r.sys)
	if r.gate != nil {
		<-r.commit
		r.gate.Release()
		r.gate = nil
	}
	r.repo.FailAfterCommit(nil)
}

// snapshots checks that each snapshot shows a moment of the history, in order.
func (r *modelRun) snapshots() {
	list, err := r.repo.Snapshots(r.Context(), "s")
	if err != nil {
		r.Fatal(err)
	}
	slices.SortFunc(list, func(a, b snapshotter.Snapshot) int { return int(a.Sequence) - int(b.Sequence) })
	at := 0
	for i, snap := range list {
		if want := uint64(i + 1); snap.Sequence != want {
			r.Errorf("snapshot %d has number %d", want, snap.Sequence)
		}
		got := stored(viewWithAttributes(r.T, r.repo, snap.ID))
		for at < len(r.states) && !maps.Equal(got, r.states[at]) {
			at++
		}
		if at == len(r.states) {
			r.Fatalf("snapshot %d shows no moment of the history after the one before:\n%v", snap.Sequence, got)
		}
	}
}
