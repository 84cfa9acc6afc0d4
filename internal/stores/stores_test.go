//go:build stores

package stores

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// rig is a gateway with its store on another server.
type rig struct {
	*proctest.Gateway
	t      *testing.T
	server interface {
		Start(ctx context.Context) error
		Stop() error
	}
	proxy *proctest.Proxy // between the two
	at    string          // the store's location
	dir   string          // the store's files, as the server keeps them
	hint  string          // what is said to try while the server is away

	held map[string][]byte // what was acknowledged
	rng  *rand.ChaCha8
}

// each runs a test with each kind of server, at the same time: it waits for most of its time.
func each(t *testing.T, test func(t *testing.T, r *rig)) {
	for name, makeRig := range map[string]func(t *testing.T) *rig{
		"S3":   newS3Rig,
		"SFTP": func(t *testing.T) *rig { return newSFTPRig(t, "native") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, makeRig(t))
		})
	}
}

// eachWay is each, and with connections that the system's ssh makes.
func eachWay(t *testing.T, test func(t *testing.T, r *rig)) {
	each(t, test)
	t.Run("openssh", func(t *testing.T) {
		t.Parallel()
		test(t, newSFTPRig(t, "openssh"))
	})
}

// newRig makes a gateway for a server, with further keys of its store section.
func newRig(t *testing.T, addr string, locate func(addr string) string, keys string) *rig {
	t.Helper()
	r := &rig{t: t, held: make(map[string][]byte), rng: rand.NewChaCha8([32]byte{1})}
	r.proxy = proctest.StartProxy(t, addr)
	r.at = locate(r.proxy.Addr)
	r.Gateway = proctest.NewGateway(t, proctest.Options{
		Store:  fmt.Sprintf(`{ location: "%s", passphrase_file: ./pass, create: true, %s }`, r.at, keys),
		Shares: map[string]string{"main": "{ snapshot: { when: close, quiet: 100ms } }"},
	})
	return r
}

const bucket = "snapgate"

func newS3Rig(t *testing.T) *rig {
	t.Helper()
	server := proctest.StartS3(t)
	r := newRig(t, server.Addr, func(addr string) string { return "s3://" + addr + "/" + bucket + "/pre/fix" },
		fmt.Sprintf("use_tls: false, access_key: %s, secret_key_file: ./secret, timeout: 5s, retries: 1", server.AccessKey))
	r.server, r.dir = server, filepath.Join(server.Dir, bucket, "pre", "fix")
	r.hint = "hint: is the server of store.location up"
	r.write("secret", server.SecretKey+"\n")
	t.Cleanup(func() {
		if strings.Contains(r.Log(), server.SecretKey) {
			t.Error("the log shows the secret key")
		}
	})
	return r
}

func newSFTPRig(t *testing.T, transport string) *rig {
	t.Helper()
	server := proctest.StartSSHD(t)
	dir := filepath.Join(proctest.ShortDir(t), "pre", "fix")
	r := newRig(t, server.Addr, func(addr string) string { return "sftp://" + server.User + "@" + addr + dir },
		fmt.Sprintf("identity_file: %s, known_hosts: ./store_hosts, ssh_config: ./store_ssh, transport: %s, timeout: 5s", server.KeyFile, transport))
	r.server, r.dir, r.hint = server, dir, "hint: "
	r.write("store_hosts", "sshd "+server.HostKey)
	r.write("store_ssh", "HostKeyAlias sshd\nIdentitiesOnly yes\n")
	return r
}

// write writes a file of the gateway.
func (r *rig) write(name, text string) {
	r.t.Helper()
	r.must(os.WriteFile(filepath.Join(r.Dir, name), []byte(text), 0o600))
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) start() {
	r.t.Helper()
	_, err := r.Start(r.t.Context())
	r.must(err)
}

// put uploads a file, and notes it when that was acknowledged.
func (r *rig) put(name string, size int) error {
	data := make([]byte, size)
	_, _ = r.rng.Read(data)
	c, err := r.Client.Login(r.t.Context(), "alice")
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := c.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	r.held[name] = data
	return nil
}

func (r *rig) read(name string) ([]byte, error) {
	c, err := r.Client.Login(r.t.Context(), "alice")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	f, err := c.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// verify reads all that was acknowledged.
func (r *rig) verify() {
	r.t.Helper()
	for name, want := range r.held {
		got, err := r.read(name)
		if err != nil || !bytes.Equal(got, want) {
			r.t.Errorf("%s: %d bytes, want %d, %v", name, len(got), len(want), err)
		}
	}
}

// commit has the share committed.
func (r *rig) commit() {
	r.t.Helper()
	_, err := r.Command(r.t.Context(), "snapshot", "main")
	r.must(err)
}

// plakar is stock plakar on the store's files. A server of S3 drops directories that become
// empty; plakar's connector for local directories wants them.
func (r *rig) plakar() *proctest.Plakar {
	r.t.Helper()
	for _, sub := range []string{"locks", "packfiles", "states"} {
		r.must(os.MkdirAll(filepath.Join(r.dir, sub), 0o700))
	}
	return proctest.NewPlakar(r.t, r.dir, r.PassFile)
}

// check has stock plakar, a fresh process with a cold cache, check all snapshots.
func (r *rig) check() {
	r.t.Helper()
	p := r.plakar()
	found, err := p.Snapshots(r.t.Context())
	r.must(err)
	if len(found) == 0 {
		r.t.Fatal("plakar sees no snapshot")
	}
	r.must(p.Check(r.t.Context(), found...))
}

// ids returns the identifiers in a list of snapshots.
func ids(list string) []string {
	return regexp.MustCompile(`\b[0-9a-f]{64}\b`).FindAllString(list, -1)
}

func TestServe(t *testing.T) { eachWay(t, testServe) }

func testServe(t *testing.T, r *rig) {
	r.start()
	for i, size := range []int{0, 100, 70_000, 3 << 20, 40 << 20} {
		r.must(r.put(fmt.Sprintf("/file%d", i), size))
	}
	r.commit()
	r.must(r.put("/file1", 200))
	r.commit()
	r.verify()
	before, err := r.Command(t.Context(), "snapshots")
	r.must(err)
	if n := strings.Count(before, "\n"); n < 3 {
		t.Errorf("snapshots:\n%s", before)
	}
	r.must(r.Stop())
	r.check()

	// A command that reads the store itself, and a gateway whose cache is gone.
	after, err := r.Command(t.Context(), "snapshots")
	if err != nil || !slices.Equal(ids(after), ids(before)) {
		t.Errorf("snapshots without a gateway, %v:\n%s\nwith it:\n%s", err, after, before)
	}
	info, err := r.Command(t.Context(), "store", "info")
	if want := "location    " + r.at + "\n"; err != nil || !strings.Contains(info, want) {
		t.Errorf("store info, %v:\n%s", err, info)
	}
	if out, err := r.Command(t.Context(), "store", "check"); err != nil || strings.Count(out, " main good\n") != len(ids(after)) {
		t.Errorf("store check, %v:\n%s", err, out)
	}
	r.must(os.RemoveAll(filepath.Join(r.Dir, "data", "cache")))
	r.start()
	r.verify()
	r.must(r.put("/later", 1000))
	r.commit()
	r.must(r.Stop())
	r.check()
	if strings.Contains(r.Log(), "level=ERROR") {
		t.Errorf("the log has errors")
	}
	if entries, err := os.ReadDir(filepath.Join(r.Dir, "data", "store")); err == nil {
		t.Errorf("a local store was made: %v", entries)
	}
}

// TestKill kills a gateway while it uploads and commits.
func TestKill(t *testing.T) { each(t, testKill) }

func testKill(t *testing.T, r *rig) {
	r.start()
	for round := range 4 {
		killed := make(chan error, 1)
		after := time.Duration(200+150*round) * time.Millisecond
		timer := time.AfterFunc(after, func() { killed <- r.Kill() })
		for i := 0; ; i++ {
			if err := r.put(fmt.Sprintf("/round%d-%d", round, i), 50_000+i*200_000); err != nil {
				break
			}
		}
		r.must(<-killed)
		timer.Stop()
		r.start()
		r.verify()
	}
	r.commit()
	r.verify()
	r.must(r.Stop())
	r.check()
}

// TestAway takes the store away while a gateway runs, and when it starts.
func TestAway(t *testing.T) { eachWay(t, testAway) }

func testAway(t *testing.T, r *rig) {
	r.start()
	r.must(r.put("/stored", 2<<20))
	r.commit()
	for i, trouble := range []proctest.Trouble{
		{Reset: true},
		{Hang: true},
		{Answer: "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
	} {
		r.proxy.Set(trouble)
		r.away(fmt.Sprintf("/during%d", i))
		r.proxy.Set(proctest.Trouble{})
		r.back()
	}

	// Refused, when it starts.
	r.must(r.Stop())
	r.must(r.server.Stop())
	r.proxy.Set(proctest.Trouble{Reset: true})
	r.start()
	if log := r.Log(); !strings.Contains(log, "store is away") {
		t.Error("the log does not say that the store is away")
	}
	r.away("/refused")
	r.must(r.put("/large", 20<<20))
	r.must(r.server.Start(t.Context()))
	r.proxy.Set(proctest.Trouble{})
	r.back()
	r.must(r.Stop())
	r.check()
}

// away uploads, lists and reads while the store is away.
func (r *rig) away(name string) {
	r.t.Helper()
	start := time.Now()
	r.must(r.put(name, 100_000))
	r.must(r.put(name+"-small", 100))
	if took := time.Since(start); took > 10*time.Second {
		r.t.Errorf("uploads took %v", took)
	}
	c, err := r.Client.Login(r.t.Context(), "alice")
	r.must(err)
	defer c.Close()
	entries, err := c.ReadDir("/")
	if err != nil || len(entries) != len(r.held) {
		r.t.Errorf("%d names, want %d, %v", len(entries), len(r.held), err)
	}
	if got, err := r.read(name); err != nil || !bytes.Equal(got, r.held[name]) {
		r.t.Errorf("what is in the spool: %d bytes, %v", len(got), err)
	}
	_, err = r.Command(r.t.Context(), "snapshot", "main")
	if err == nil || !strings.Contains(err.Error(), "store unavailable") || !strings.Contains(err.Error(), r.hint) {
		r.t.Errorf("gateway snapshot while the store is away: %v", err)
	}
}

// back waits until what was uploaded is committed without anybody having asked for it.
func (r *rig) back() {
	r.t.Helper()
	_, err := proctest.Wait(r.t.Context(), time.Minute, func() bool {
		_, err := r.Command(r.t.Context(), "snapshot", "main")
		return err == nil
	})
	r.must(err)
	r.verify()
}

// TestServeLoss removes packfiles from the store under a running gateway: those with metadata
// come back from the local copies, and what cannot come back is named.
func TestServeLoss(t *testing.T) { each(t, testServeLoss) }

func testServeLoss(t *testing.T, r *rig) {
	r.start()
	r.must(r.put("/a", 8<<20))
	r.commit()
	packs, err := filepath.Glob(filepath.Join(r.dir, "packfiles", "*", "*"))
	r.must(err)
	if len(packs) < 2 {
		t.Fatalf("packfiles: %v", packs)
	}
	for _, pack := range packs {
		r.must(os.Remove(pack))
	}
	r.must(r.put("/b", 1000))
	r.commit()
	for _, want := range []string{"was put back from the local copy", "packfiles are missing from the store"} {
		if !strings.Contains(r.Log(), want) {
			t.Errorf("the log does not say: %s", want)
		}
	}
	delete(r.held, "/a") // its content is lost
	r.verify()
	r.must(r.put("/a", 2000))
	r.commit()
	r.verify()
	r.must(r.Stop())
}

// TestRefused starts gateways that do not get in: that is fatal, and says what to do.
func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		secret string
		want   []string
	}{
		"wrong secret": {"wrong-and-secret", []string{"its server refuses access", "hint: are store.access_key"}},
		"no secret":    {"", []string{"no secret key", "hint: see store.secret_key_file"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newS3Rig(t)
			r.write("secret", tt.secret)
			r.refused(tt.want)
			if tt.secret != "" && strings.Contains(r.Log(), tt.secret) {
				t.Error("the log shows the secret")
			}
		})
	}
}

// TestRefusedSFTP starts gateways that have seen their store, and do not log in any more.
func TestRefusedSFTP(t *testing.T) {
	for _, transport := range []string{"native", "openssh"} {
		r := newSFTPRig(t, transport)
		r.start()
		r.must(r.Stop())
		known, err := os.ReadFile(filepath.Join(r.Dir, "store_hosts"))
		r.must(err)
		other := proctest.StartSSHD(t)
		for name, tt := range map[string]struct {
			known, key string
			want       []string
		}{
			"unknown host": {want: []string{"host key unknown", "hint: ", "host_key: accept-new"}},
			"changed host": {known: "sshd " + other.HostKey, want: []string{"host key changed", "hint: "}},
			"wrong key":    {known: string(known), key: other.KeyFile, want: []string{"authentication failed", "hint: "}},
		} {
			t.Run(transport+" "+name, func(t *testing.T) {
				r.t = t
				r.write("store_hosts", tt.known)
				if tt.key != "" {
					config, err := os.ReadFile(r.Config)
					r.must(err)
					text := regexp.MustCompile(`identity_file: [^,]*,`).ReplaceAllString(string(config), "identity_file: "+tt.key+",")
					r.must(os.WriteFile(r.Config, []byte(text), 0o600))
					defer func() { r.must(os.WriteFile(r.Config, config, 0o600)) }()
				}
				r.refused(tt.want)
			})
		}
		r.t = t
		r.write("store_hosts", string(known))
		r.start()
		r.must(r.put("/file", 1000))
		r.commit()
		r.must(r.Stop())
	}
}

// refused starts a gateway, which must end and say why.
func (r *rig) refused(want []string) {
	r.t.Helper()
	before := len(r.Log())
	_, err := r.Start(r.t.Context())
	if !errors.Is(err, proctest.ErrEnded) {
		r.t.Fatalf("start: %v", err)
	}
	for _, text := range want {
		if !strings.Contains(r.Log()[before:], text) {
			r.t.Errorf("the log does not say %q", text)
		}
	}
}

// TestServeGateway has the store of one gateway on another one.
func TestServeGateway(t *testing.T) {
	server := proctest.NewGateway(t, proctest.Options{})
	if _, err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, server.Client.Addr(), func(addr string) string { return "sftp://alice@" + addr + "/store" },
		fmt.Sprintf("ssh_config: %s, timeout: 10s", filepath.Join(server.Dir, "ssh_config")))
	r.start()
	r.must(r.put("/small", 100))
	r.must(r.put("/large", 5<<20))
	r.commit()
	r.must(r.Stop())
	r.must(server.Stop())
	if _, err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.must(os.RemoveAll(filepath.Join(r.Dir, "data", "cache")))
	r.start()
	r.verify()
	r.must(r.Stop())
	if out, err := r.Command(t.Context(), "store", "check"); err != nil || !strings.Contains(out, " main good\n") {
		t.Errorf("store check, %v:\n%s", err, out)
	}
}
