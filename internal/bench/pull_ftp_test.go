//go:build bench

package bench

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// passivePort is where a reply to EPSV has the port of a data connection (RFC 2428 section 3).
var passivePort = regexp.MustCompile(`(?m)^229 .*\(\|\|\|(\d+)\|\)`)

// farFTP is farLink to an FTP server: its data connections go the long way as well. Clients have
// to use EPSV, without TLS. Each control connection has one port for its data connections: thousands of
// ports that were used a minute ago make the system's search for a free one expensive.
func farFTP(t *testing.T, port int) int {
	t.Helper()
	at := func(port string) string { return net.JoinHostPort("127.0.0.1", port) }
	return listen(t, func(near net.Conn) {
		data, err := net.Listen("tcp", at("0"))
		if err != nil {
			t.Error(err)
			_ = near.Close()
			return
		}
		var target atomic.Value // of the next data connection
		var all sync.WaitGroup
		all.Go(func() {
			for {
				conn, err := data.Accept()
				if err != nil {
					return
				}
				to := target.Load().(string)
				all.Go(func() { carry(conn, to, func(data []byte) []byte { return data }) })
			}
		})
		carry(near, at(strconv.Itoa(port)), func(said []byte) []byte {
			return passivePort.ReplaceAllFunc(said, func(reply []byte) []byte {
				target.Store(at(string(passivePort.FindSubmatch(reply)[1])))
				return fmt.Appendf(nil, "229 the long way (|||%d|)", data.Addr().(*net.TCPAddr).Port)
			})
		})
		_ = data.Close()
		all.Wait()
	})
}

// TestPullFTP pulls small files over FTP without TLS from a gateway, beside rclone sync and restic
// backup, and restores them to it, beside rclone copy.
func TestPullFTP(t *testing.T) {
	const few = 200
	files := 2000
	if full() {
		files = 20_000
	}
	src := proctest.NewGateway(t, proctest.Options{Parent: disk, FTP: true,
		Extra: "limits: { connections_per_address: 1000, connections_per_user: 1000, handshakes: 1000, handshakes_per_address: 1000 }\n"})
	if _, err := src.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	local := shm(t, "many")
	small(t, local, files, 4<<10)
	part := shm(t, "part")
	small(t, part, few, 4<<10)
	g := &server{name: "gateway", config: src.Client.SSHConfig, user: alice}
	g.sftp(t, "put -r "+local+" /many", "put -r "+part+" /part")
	secret := filepath.Join(t.TempDir(), "password")
	write(t, secret, src.Client.Password)
	obscured, err := proctest.Run(t.Context(), limit, "", nil, "rclone", "obscure", src.Client.Password)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []link{{"loopback", src.FTP.Port}, {"50 ms", farFTP(t, src.FTP.Port)}} {
		t.Run(l.name, func(t *testing.T) {
			settings := func(dir string) string {
				return fmt.Sprintf("{ location: %q, port: %d, tls: off, password_file: %q }", "ftp://"+alice+"@127.0.0.1"+dir, l.port, secret)
			}
			rclone := func(args ...string) {
				run(t, "rclone", append(args, "--config", "/dev/null", "--ftp-host", "127.0.0.1", "--ftp-port", strconv.Itoa(l.port),
					"--ftp-user", alice, "--ftp-pass", obscured.Stdout[:len(obscured.Stdout)-1], "--quiet")...)
			}
			var pull, copied, restored, plain times
			back := fmt.Sprint("/back", l.port)
			p := puller(t, settings("/many"), settings(back))
			pull = append(pull, seconds(func() { command(t, p, "pull", "--quiet", "peer") }))
			there := filepath.Join(t.TempDir(), "there")
			copied = append(copied, seconds(func() {
				rclone("sync", ":ftp:/part", there)
				restic(t, there)
			}))
			restored = append(restored, seconds(func() { command(t, p, "restore", "--quiet", "peer", "--to", "back") }))
			plain = append(plain, seconds(func() { rclone("copy", there, ":ftp:"+back+"-part") }))
			tell(t, "pull of %d files of 4 KiB over FTP, %s: %.2f s (%.0f files/s), rclone sync and restic backup of %d files %.2f s, ratio %.2f; restore %.2f s (%.0f files/s), rclone copy of %d %.2f s, ratio %.2f",
				files, l.name, pull.median(), float64(files)/pull.median(), few, copied.median(), rate(pull, files, copied, few),
				restored.median(), float64(files)/restored.median(), few, plain.median(), rate(restored, files, plain, few))
		})
	}
}
