package pull

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// fakeRemote is a Remote in memory that fails where a test wants it to.
type fakeRemote struct {
	caps Capabilities

	// list, when it is not nil, stands in for the listing of a directory.
	list func(ctx context.Context, path string, each func(Entry) error) (done bool, err error)
	// opened, when it is not nil, is called before a file is opened, and may fail it.
	opened func(path string, offset int64) error
	// reader, when it is not nil, wraps what Open returns.
	reader func(path string, offset int64, r io.Reader) io.Reader

	mu    sync.Mutex // guards nodes
	nodes map[string]fakeNode

	opens, lists, stats atomic.Int64
	// away, when it is not nil, says that the connection is lost for good, for a path.
	away func(path string) bool
}

type fakeNode struct {
	Entry
	data string
}

func newFake() *fakeRemote {
	f := &fakeRemote{
		nodes: map[string]fakeNode{},
		caps:  Capabilities{Mode: true, Owner: true, Symlinks: true, RawNames: true, Precision: time.Second, Parallel: 8},
	}
	f.dir("/")
	return f
}

func (f *fakeRemote) put(path string, n fakeNode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n.Name = base(path)
	if path == "/" {
		n.Name = "/"
	}
	if n.ModTime.IsZero() {
		n.ModTime, n.Precision = then, time.Second
	}
	f.nodes[path] = n
}

func (f *fakeRemote) dir(path string) {
	f.put(path, fakeNode{Entry: Entry{Type: Dir, Mode: 0o755, HasMode: true}})
}

func (f *fakeRemote) file(path, data string) {
	f.put(path, fakeNode{Entry: Entry{Type: File, Size: int64(len(data)), Mode: 0o644, HasMode: true}, data: data})
}

func (f *fakeRemote) link(path, target string) {
	f.put(path, fakeNode{Entry: Entry{Type: Symlink, Target: target, Mode: 0o777, HasMode: true}})
}

func (f *fakeRemote) remove(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.nodes {
		if p == path || strings.HasPrefix(p, path+"/") {
			delete(f.nodes, p)
		}
	}
}

func (f *fakeRemote) node(op, path string) (fakeNode, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.nodes[path]
	if !ok {
		return n, fail(op, path, KindNotFound, nil)
	}
	return n, nil
}

func (f *fakeRemote) Lstat(ctx context.Context, path string) (Entry, error) {
	f.stats.Add(1)
	if f.away != nil && f.away(path) {
		return Entry{}, fail("stat", path, KindConnection, nil)
	}
	n, err := f.node("stat", path)
	if err == nil {
		err = ctx.Err()
	}
	return n.Entry, err
}

func (f *fakeRemote) ReadDir(ctx context.Context, path string, each func(Entry) error) error {
	f.lists.Add(1)
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.list != nil {
		if done, err := f.list(ctx, path, each); done || err != nil {
			return err
		}
	}
	if _, err := f.node("list", path); err != nil {
		return err
	}
	f.mu.Lock()
	var out []Entry
	for p, n := range f.nodes { // in no order
		if p != "/" && child(p[:max(strings.LastIndexByte(p, '/'), 1)], n.Name) == p && p[:max(strings.LastIndexByte(p, '/'), 1)] == path {
			out = append(out, n.Entry)
		}
	}
	f.mu.Unlock()
	for _, e := range out {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeRemote) Open(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	f.opens.Add(1)
	if f.away != nil && f.away(path) {
		return nil, fail("open", path, KindConnection, nil)
	}
	if f.opened != nil {
		if err := f.opened(path, offset); err != nil {
			return nil, err
		}
	}
	n, err := f.node("open", path)
	if err != nil {
		return nil, err
	}
	data := n.data[min(offset, int64(len(n.data))):]
	var r io.Reader = bytes.NewReader([]byte(data[:min(length, int64(len(data)))]))
	if f.reader != nil {
		r = f.reader(path, offset, r)
	}
	return io.NopCloser(r), ctx.Err()
}

func (f *fakeRemote) Readlink(_ context.Context, path string) (string, error) {
	n, err := f.node("readlink", path)
	return n.Target, err
}

func (f *fakeRemote) Capabilities(context.Context) (Capabilities, error) { return f.caps, nil }
func (f *fakeRemote) Close() error                                       { return nil }
