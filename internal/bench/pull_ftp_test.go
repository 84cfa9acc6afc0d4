//go:build bench

package bench

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// The ports of data connections: what TLS says of them cannot be changed on the way, so the far end listens on the same
// ones, at another address. They are below those that the system gives out.
const (
	firstPassive = 20_000
	lastPassive  = 20_255
	farAddress   = "127.0.0.2"
)

// farFTP is farLink to an FTP server whose data connections use the passive ports: they go the long way as well. It
// listens at farAddress; clients have to use EPSV.
func farFTP(t *testing.T, port int) int {
	t.Helper()
	serve := func(at string, connect func(near net.Conn, addr string)) int {
		ln, err := net.Listen("tcp", net.JoinHostPort(farAddress, at))
		if err != nil {
			t.Fatal(err)
		}
		there := ln.Addr().(*net.TCPAddr).Port
		if at == "0" {
			at = strconv.Itoa(port)
		}
		accept(t, ln, func(near net.Conn) { connect(near, net.JoinHostPort("127.0.0.1", at)) })
		return there
	}
	for passive := firstPassive; passive <= lastPassive; passive++ {
		serve(strconv.Itoa(passive), func(near net.Conn, addr string) { both(near, arriving(addr)) })
	}
	return serve("0", carry)
}

// arriving is a connection to addr as its server sees it: it has it when the three packets of TCP have come the long way.
func arriving(addr string) net.Conn {
	due := time.Now().Add(3 * roundTrip / 2)
	return &arrival{dial: sync.OnceValues(func() (net.Conn, error) {
		<-time.After(time.Until(due))
		return net.Dial("tcp", addr)
	})}
}

// arrival is a net.Conn, of which only what late uses can be called.
type arrival struct {
	net.Conn
	dial func() (net.Conn, error)
}

func (a *arrival) Read(p []byte) (int, error) {
	nc, err := a.dial()
	if err != nil {
		return 0, err
	}
	return nc.Read(p)
}

func (a *arrival) Write(p []byte) (int, error) {
	nc, err := a.dial()
	if err != nil {
		return 0, err
	}
	return nc.Write(p)
}

func (a *arrival) Close() error {
	nc, err := a.dial()
	if err != nil {
		return err
	}
	return nc.Close()
}

// TestPullFTP pulls small files over FTP, without and with TLS, from a gateway, beside rclone sync and restic
// backup, and restores them to it, beside rclone copy.
func TestPullFTP(t *testing.T) {
	const few = 200
	files := 2000
	if full() {
		files = 20_000
	}
	src := proctest.NewGateway(t, proctest.Options{Parent: disk, FTP: true, PassivePorts: fmt.Sprintf("%d-%d", firstPassive, lastPassive),
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
	far := farFTP(t, src.FTP.Port)
	for i, l := range []struct {
		name, host string
		port       int
		tls        string
		rclone     []string
	}{
		{"loopback", "127.0.0.1", src.FTP.Port, "tls: off", nil},
		{"50 ms", farAddress, far, "tls: off", nil},
		{"50 ms, TLS", farAddress, far, "tls_insecure_no_verify: true", []string{"--ftp-explicit-tls", "--ftp-no-check-certificate"}},
	} {
		t.Run(l.name, func(t *testing.T) {
			settings := func(dir string) string {
				return fmt.Sprintf("{ location: %q, port: %d, %s, password_file: %q }", "ftp://"+alice+"@"+l.host+dir, l.port, l.tls, secret)
			}
			rclone := func(args ...string) {
				args = append(args, l.rclone...)
				run(t, "rclone", append(args, "--config", "/dev/null", "--ftp-host", l.host, "--ftp-port", strconv.Itoa(l.port),
					"--ftp-user", alice, "--ftp-pass", obscured.Stdout[:len(obscured.Stdout)-1], "--quiet")...)
			}
			var pull, copied, restored, plain times
			back := fmt.Sprint("/back", i)
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
