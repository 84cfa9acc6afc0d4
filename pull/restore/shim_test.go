package restore_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
)

// plainServer is OpenSSH's server as an older or another one would be: without extensions, and, when
// reversed is set, with the arguments of SYMLINK as the draft has them.
type plainServer struct {
	dial     func(context.Context) (io.ReadWriteCloser, error)
	reversed bool
	wg       sync.WaitGroup
}

func (p *plainServer) open(ctx context.Context) (io.ReadWriteCloser, error) {
	server, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	p.wg.Go(func() {
		relay(far, server, func(typ byte, body []byte) []byte {
			if typ == 2 { // VERSION
				return body[:4]
			}
			return body
		})
	})
	p.wg.Go(func() {
		relay(server, far, func(typ byte, body []byte) []byte {
			if typ != 20 || !p.reversed { // SYMLINK
				return body
			}
			first := 8 + binary.BigEndian.Uint32(body[4:])
			return append(append(append([]byte(nil), body[:4]...), body[first:]...), body[4:first]...)
		})
	})
	return near, nil
}

// relay passes packets on, as change has them: the type, and what comes after it.
func relay(dst io.WriteCloser, src io.Reader, change func(typ byte, body []byte) []byte) {
	defer dst.Close()
	var head [5]byte
	for {
		if _, err := io.ReadFull(src, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(src, body); err != nil {
			return
		}
		body = change(head[4], body)
		binary.BigEndian.PutUint32(head[:], uint32(len(body)+1))
		if _, err := dst.Write(append(head[:], body...)); err != nil {
			return
		}
	}
}

// A server without posix-rename refuses to replace, and one without lsetstat cannot set times of
// links: files are replaced all the same. Links come out right in whatever order their arguments
// are taken.
func TestPlainServers(t *testing.T) {
	for _, reversed := range []bool{false, true} {
		name := "OpenSSH's order"
		if reversed {
			name = "the draft's order"
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dest")
			p := &plainServer{dial: dialOpenSSH(t), reversed: reversed}
			tr := house().links()
			write(t, filepath.Join(dir, "small"), "an older one")
			if err := os.Symlink("elsewhere", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			// What a restore that was killed has left, of the same directory by another name.
			if err := os.Symlink("/elsewhere/.snapgate-order-a", filepath.Join(dir, ".snapgate-order-b")); err != nil {
				t.Fatal(err)
			}
			// And one that was killed after it had moved an old file aside.
			target := openSFTP(t, dir, p.open)
			if _, err := try(t, losing{target}, tree{}.dir("/", 0o755).file("/small", "hello\n")); err != nil {
				t.Fatal(err)
			}
			temp, err := filepath.Glob(filepath.Join(dir, ".small.*.part"))
			if err != nil || len(temp) != 1 {
				t.Fatalf("%q, %v", temp, err)
			}
			write(t, filepath.Join(dir, filepath.Base(pull.AsideName(temp[0]))), "left")
			write(t, filepath.Join(dir, "small"), "an older one")
			report := run(t, target, tr, func(c *restore.Config) { c.Verify = true })
			clean(t, report)
			differences(t, describe(t, dir), tr.describe())
			if c := report.Counts(); c.Replaced != 2 {
				t.Errorf("counts %+v", c)
			}
			for _, line := range describe(t, dir) {
				if strings.Contains(line, "snapgate") {
					t.Errorf("left behind: %s", line)
				}
			}
		})
	}
}
