package sshsrv

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/snapgate/gateway/vfs"
)

// opensshServer is where Debian, Ubuntu and Fedora have it.
func opensshServer(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/libexec/sftp-server"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("OpenSSH's sftp-server is not installed")
	}
	t.Skip("OpenSSH's sftp-server is not installed")
	return ""
}

// startOpenSSH runs OpenSSH's server in a directory of its own and speaks to it.
func startOpenSSH(t *testing.T) *raw {
	t.Helper()
	cmd := exec.Command(opensshServer(t), "-u", "022", "-d", t.TempDir())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := newRaw(t, struct {
		io.Reader
		io.Writer
	}{out, in})
	t.Cleanup(func() {
		in.Close()
		for range c.packets { // ends with the process
		}
		_ = cmd.Wait()
	})
	return c
}

// deviation is a difference from OpenSSH's server that is meant. docs/PROTOCOL.md lists
// them by these names.
type deviation struct {
	openssh, ours string
	name          string // of its row in docs/PROTOCOL.md
}

// script runs requests on both servers and compares what they answer.
type script struct {
	t             *testing.T
	openssh, ours *raw
	deviations    map[string]deviation // by step
	used          map[string]bool
	handles       map[string][2]string
}

// step sends one request. The body may name handles with h.
func (s *script) step(name string, typ byte, body func(e *encoder, h func(string) string)) {
	s.t.Helper()
	s.compare(name, func(c *raw, h func(string) string) (string, string) {
		a := c.ask(typ, func(e *encoder) { body(e, h) })
		return outcome(a), a.handle
	})
}

func (s *script) compare(name string, do func(c *raw, h func(string) string) (got, handle string)) {
	s.t.Helper()
	pick := func(i int) func(string) string {
		return func(n string) string {
			if h, ok := s.handles[n]; ok {
				return h[i]
			}
			return n
		}
	}
	want, h0 := do(s.openssh, pick(0))
	got, h1 := do(s.ours, pick(1))
	if h0 != "" || h1 != "" {
		s.handles[name] = [2]string{h0, h1}
	}
	if d, ok := s.deviations[name]; ok {
		s.used[name] = true
		if d.openssh != want || d.ours != got {
			s.t.Errorf("%s: OpenSSH %s, ours %s; documented: %s, %s", name, want, got, d.openssh, d.ours)
		}
		return
	}
	if got != want {
		s.t.Errorf("%s: %s, OpenSSH's answer is %s", name, got, want)
	}
}

// outcome is what must be the same. Of attributes these are type, mode, the size of what
// is no directory, and times that were set by the test (below 2^30).
func outcome(a answer) string {
	switch a.typ {
	case fxpStatus:
		return fmt.Sprintf("status %d", a.status)
	case fxpHandle:
		return "handle"
	case 103:
		return fmt.Sprintf("data %q", a.data)
	case fxpAttrs:
		return attrsOutcome(a.attrs)
	case fxpName:
		return fmt.Sprintf("names %q", a.names)
	case fxpExtReply:
		return fmt.Sprintf("reply of %d bytes", len(a.rest))
	default:
		return fmt.Sprintf("type %d", a.typ)
	}
}

func attrsOutcome(a wireAttrs) string {
	s := fmt.Sprintf("flags %x mode %o", a.flags, a.mode)
	if a.mode&0o170000 != wireDir {
		s += fmt.Sprintf(" size %d", a.size)
	}
	if a.mtime < 1<<30 {
		s += fmt.Sprintf(" mtime %d", a.mtime)
	}
	return s
}

func (s *script) path(name string, typ byte, path string) {
	s.t.Helper()
	s.step(name, typ, func(e *encoder, _ func(string) string) { e.string(path) })
}

func (s *script) stat(path string) { s.t.Helper(); s.path("stat "+path, fxpStat, path) }

func (s *script) two(name string, typ byte, a, b string) {
	s.t.Helper()
	s.step(name, typ, func(e *encoder, _ func(string) string) { e.string(a).string(b) })
}

func (s *script) ext(name, ext string, args ...string) {
	s.t.Helper()
	s.step(name, fxpExtended, func(e *encoder, h func(string) string) {
		e.string(ext)
		for _, a := range args {
			e.string(h(a))
		}
	})
}

func (s *script) open(name, path string, pflags uint32) {
	s.t.Helper()
	s.step(name, fxpOpen, func(e *encoder, _ func(string) string) { e.string(path).uint32(pflags).uint32(0) })
}

func (s *script) handle(name string, typ byte, handle string) {
	s.t.Helper()
	s.step(name, typ, func(e *encoder, h func(string) string) { e.string(h(handle)) })
}

func (s *script) read(name, handle string, off uint64, n uint32) {
	s.t.Helper()
	s.step(name, fxpRead, func(e *encoder, h func(string) string) { e.string(h(handle)).uint64(off).uint32(n) })
}

func (s *script) write(name, handle string, off uint64, data string) {
	s.t.Helper()
	s.step(name, fxpWrite, func(e *encoder, h func(string) string) { e.string(h(handle)).uint64(off).string(data) })
}

func (s *script) attrs(name string, typ byte, target string, a wireAttrs) {
	s.t.Helper()
	s.step(name, typ, func(e *encoder, h func(string) string) { wire(e.string(h(target)), a) })
}

// wire writes attributes.
func wire(e *encoder, a wireAttrs) {
	e.uint32(a.flags)
	if a.flags&attrSize != 0 {
		e.uint64(a.size)
	}
	if a.flags&attrUIDGID != 0 {
		e.uint32(a.uid).uint32(a.gid)
	}
	if a.flags&attrPermissions != 0 {
		e.uint32(a.mode)
	}
	if a.flags&attrTimes != 0 {
		e.uint32(a.atime).uint32(a.mtime)
	}
}

// put makes a file.
func (s *script) put(path, data string) {
	s.t.Helper()
	name := "put " + path
	s.open(name, path, fxfWrite|fxfCreate|fxfTrunc)
	s.write(name+": write", name, 0, data)
	s.handle(name+": close", fxpClose, name)
}

// get reads a file.
func (s *script) get(name, path string) {
	s.t.Helper()
	s.open(name, path, fxfRead)
	s.read(name+": read", name, 0, 1000)
	s.handle(name+": close", fxpClose, name)
}

// list reads a directory to its end and compares what is in it.
func (s *script) list(name, path string) {
	s.t.Helper()
	s.path(name, fxpOpendir, path)
	s.compare(name+": entries", func(c *raw, h func(string) string) (string, string) {
		var all []string
		for {
			a := c.ask(fxpReaddir, func(e *encoder) { e.string(h(name)) })
			if a.typ != fxpName {
				slices.Sort(all)
				return fmt.Sprintf("%q, then %s", all, outcome(a)), ""
			}
			all = append(all, a.names...)
		}
	})
	s.handle(name+": once more", fxpReaddir, name)
	s.handle(name+": close", fxpClose, name)
}

// TestAgainstOpenSSH sends the same requests to OpenSSH's sftp-server and to ours. Paths
// are relative: the one starts in a directory, the other at its root.
func TestAgainstOpenSSH(t *testing.T) {
	for name, run := range map[string]func(*script){
		"open": scriptOpen, "io": scriptIO, "attributes": scriptAttributes, "directories": scriptDirectories,
		"rename": scriptRename, "links": scriptLinks, "paths": scriptPaths, "extensions": scriptExtensions,
		"open files": scriptOpenFiles,
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{
				t: t, openssh: startOpenSSH(t), ours: newRaw(t, serveSession(t, newSystem(t), "alice", vfs.PermFull)),
				deviations: deviations(), used: map[string]bool{}, handles: map[string][2]string{},
			}
			run(s)
		})
	}
}

// Every deviation that the differential test allows is told to users.
func TestDeviationsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for step, d := range deviations() {
		if !strings.Contains(string(doc), "| "+d.name+" |") {
			t.Errorf("docs/PROTOCOL.md has no row %q (step %q)", d.name, step)
		}
	}
}
