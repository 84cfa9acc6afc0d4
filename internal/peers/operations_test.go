//go:build peers

package peers

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// transfer moves one file between the local side and the gateway, both by full name.
type transfer func(e *env, local, remote string) error

// action does something to one or two remote names.
type action func(e *env, from, to string) error

func putWith(up transfer) func(*env) error {
	return func(e *env) error {
		for name, size := range map[string]int{"empty": 0, "small": 1000, "large file": 300_000} {
			local, data := e.file(name, size)
			if err := up(e, local, path.Join(e.dir, name)); err != nil {
				return err
			}
			if err := e.holds(path.Join(e.dir, name), data); err != nil {
				return err
			}
		}
		return nil
	}
}

func getWith(down transfer) func(*env) error {
	return func(e *env) error {
		for name, size := range map[string]int{"empty": 0, "large file": 5 << 20} {
			remote, data := e.remote(name, size)
			local := filepath.Join(e.local, name)
			if err := down(e, local, remote); err != nil {
				return err
			}
			if err := same(local, data); err != nil {
				return err
			}
		}
		return nil
	}
}

func overwriteWith(up transfer) func(*env) error {
	return func(e *env) error {
		remote, _ := e.remote("f", 400_000)
		local, data := e.file("f", 1234)
		if err := up(e, local, remote); err != nil {
			return err
		}
		return e.holds(remote, data)
	}
}

// resumeWith cuts an upload and goes on with it over a connection that does not carry the
// whole file.
func resumeWith(up, again transfer) func(*env) error {
	return func(e *env) error {
		local, data := e.file("f", cutSize)
		remote := path.Join(e.dir, "f")
		e.cut()
		if err := up(e, local, remote); err == nil {
			return errors.New("the client does not notice that its connection was cut")
		}
		if names, err := e.names(); err != nil || names != "" {
			return fmt.Errorf("a cut-off upload is listed: %q, %w", names, err)
		}
		// The server has to notice first that the connection is gone.
		size := int64(0)
		kept := func() bool {
			if info, err := e.see.Stat(remote); err == nil {
				size = info.Size()
			}
			return size > 0
		}
		if _, err := proctest.Wait(e.t.Context(), noticeLimit, kept); err != nil {
			return fmt.Errorf("nothing is kept of a cut-off upload: %w", err)
		}
		e.t.Logf("kept %d bytes of the first %d sent", size, cutAfter)
		e.port = newCutter(e.t, e.g.Client.Addr(), cutSize-size+cutAfter/2).port()
		if err := again(e, local, remote); err != nil {
			return err
		}
		return e.holds(remote, data)
	}
}

func renameWith(move action) func(*env) error {
	return func(e *env) error {
		from, data := e.remote("from", 1000)
		to := path.Join(e.dir, "to")
		if err := move(e, from, to); err != nil {
			return err
		}
		return errors.Join(e.gone(from), e.holds(to, data))
	}
}

func renameOverWith(move action) func(*env) error {
	return func(e *env) error {
		from, data := e.remote("from", 1000)
		to, _ := e.remote("to", 2000)
		if err := move(e, from, to); err != nil {
			return err
		}
		return errors.Join(e.gone(from), e.holds(to, data))
	}
}

// renameOverRefused is for clients that send a plain RENAME, which must not replace.
func renameOverRefused(move action) func(*env) error {
	return func(e *env) error {
		from, data := e.remote("from", 1000)
		to, other := e.remote("to", 2000)
		if err := move(e, from, to); err == nil {
			return errors.New("a plain rename has replaced a file")
		}
		return errors.Join(e.holds(from, data), e.holds(to, other))
	}
}

func mkdirWith(make action) func(*env) error {
	return func(e *env) error {
		dir := path.Join(e.dir, "new dir")
		if err := make(e, dir, ""); err != nil {
			return err
		}
		return e.isDir(dir)
	}
}

func removeWith(rm action) func(*env) error {
	return func(e *env) error {
		remote, _ := e.remote("f", 1000)
		if err := rm(e, remote, ""); err != nil {
			return err
		}
		return e.gone(remote)
	}
}

// symlinkWith makes a link named second that points to first.
func symlinkWith(link action) func(*env) error {
	return func(e *env) error {
		e.remote("target", 1000)
		name := path.Join(e.dir, "link")
		if err := link(e, "target", name); err != nil {
			return err
		}
		return e.pointsTo(name, "target")
	}
}

func abortWith(up transfer) func(*env) error {
	return func(e *env) error {
		remote, old := e.remote("f", 5000)
		local, _ := e.file("f", cutSize)
		for _, name := range []string{remote, path.Join(e.dir, "new")} {
			e.cut()
			if err := up(e, local, name); err == nil {
				return errors.New("the client does not notice that its connection was cut")
			}
		}
		names, err := e.names()
		if err != nil {
			return err
		}
		if names != "f" {
			return fmt.Errorf("after two uploads that were cut off, the directory lists %q", names)
		}
		return e.holds(remote, old)
	}
}

// listWith takes a client's listing of the large directory: one name a line, perhaps with
// more beside it.
func listWith(ls func(e *env, dir string) (string, error)) func(*env) error {
	return func(e *env) error {
		e.user = bob
		out, err := ls(e, manyDir)
		if err != nil {
			return err
		}
		seen := make(map[string]bool)
		for _, field := range strings.Fields(out) {
			if name := path.Base(field); strings.HasPrefix(name, "file-") {
				seen[name] = true
			}
		}
		if len(seen) != manyFiles {
			return fmt.Errorf("%d names are listed, want %d", len(seen), manyFiles)
		}
		return nil
	}
}

func historyWith(down transfer) func(*env) error {
	return func(e *env) error {
		remote, data := e.remote("f", 100_000)
		if err := e.snapshot(); err != nil {
			return err
		}
		local := filepath.Join(e.local, "f")
		if err := down(e, local, path.Join("/.snapshots/latest", remote)); err != nil {
			return err
		}
		return same(local, data)
	}
}

// snapshot has everything committed.
func (e *env) snapshot() error {
	_, err := e.g.Command(e.t.Context(), "snapshot", e.share)
	return err
}

// setAttrWith has the client give a file a mode and, when timed is set, oldTime.
func setAttrWith(set action, mode os.FileMode, timed bool) func(*env) error {
	return func(e *env) error {
		remote, _ := e.remote("f", 1000)
		if err := set(e, remote, ""); err != nil {
			return err
		}
		if timed {
			return e.attrs(remote, mode, oldTime())
		}
		return e.attrs(remote, mode, time.Time{})
	}
}
