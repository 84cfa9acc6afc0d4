package sshsrv

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
)

func TestMemoryIsShared(t *testing.T) {
	m := newMemory(Limits{TransferMemory: 100, UserTransferMemory: 60, UserChannels: 2})
	steps := []struct {
		name  string
		user  string
		bytes int64
		must  bool
		want  bool
	}{
		{"within the share", "a", 60, false, true},
		{"beyond the share", "a", 1, false, false},
		{"what a channel must have", "a", 1, true, true},
		{"another user", "b", 39, false, true},
		{"beyond what there is for all", "b", 1, false, false},
		{"a third user", "c", 1, false, false},
	}
	for _, s := range steps {
		if got := m.reserve(s.user, s.bytes, s.must); got != s.want {
			t.Errorf("%s: %v, want %v", s.name, got, s.want)
		}
	}
	for range 2 {
		if !m.enterChannel("a") {
			t.Error("a channel is refused")
		}
	}
	if m.enterChannel("a") {
		t.Error("a third channel of a user is served")
	}
	if !m.enterChannel("b") {
		t.Error("a channel of another user is refused")
	}
	m.release("a", 61)
	m.release("b", 39)
	for _, user := range []string{"a", "a", "b"} {
		m.leaveChannel(user)
	}
	if m.used != 0 || len(m.byUser) != 0 {
		t.Errorf("left behind: %d bytes, %d users", m.used, len(m.byUser))
	}
}

func TestBuffersAreKeptWithinBounds(t *testing.T) {
	m := newMemory(Limits{})
	var all []*buffer
	for range 2 * maxIdle / maxPacket {
		all = append(all, m.get(bufferKinds-1))
	}
	for _, b := range all {
		m.put(b)
	}
	if m.idle != maxIdle {
		t.Errorf("%d bytes are kept, want %d", m.idle, maxIdle)
	}
	if b := m.get(bufferKinds - 1); m.idle != maxIdle-len(b.b) {
		t.Error("a buffer is made though one is free")
	}
}

func TestBufferHoldsEveryTransfer(t *testing.T) {
	for _, n := range []int{0, 1, 4 << 10, 4<<10 + 1, dataHead + 32<<10, dataHead + 64<<10, dataHead + maxTransfer, maxPacket} {
		if _, size := bufferKind(n); size < n || n > 64<<10 && size > 4*n {
			t.Errorf("%d bytes for %d", size, n)
		}
	}
}

// sharedRig is one of several channels with a common memory.
func sharedRig(t *testing.T, mem *memory, f file) (client net.Conn) {
	t.Helper()
	client, server := net.Pipe()
	h := &handler{
		ctx: context.Background(), log: slog.New(slog.DiscardHandler), count: &counters{},
		open: func(context.Context, string, vfs.OpenFlag, vfs.AttrSet) (file, error) { return f, nil },
	}
	h.shim = newShim(server, h, mem)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		_ = h.run()
	}()
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	return client
}

func (m *memory) inUse() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// Clients that ask for much and take no answers hold what they may, and one request for
// each channel. When they take them, each gets all, and nothing stays counted.
func TestHeldAnswersAreBounded(t *testing.T) {
	const (
		channels = 20
		requests = 30
		share    = 2 << 20
	)
	mem := newMemory(Limits{TransferMemory: 4 * share, UserTransferMemory: share, UserChannels: channels})
	clients := make([]net.Conn, channels)
	var sent sync.WaitGroup
	for i := range clients {
		c := sharedRig(t, mem, nothing{size: 1 << 30})
		clients[i] = c
		for _, p := range [][]byte{
			newPacket(fxpInit).uint32(3).packet(),
			newPacket(fxpOpen).uint32(1).string("/f").uint32(fxfRead).uint32(0).packet(),
		} {
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
			if _, err := readPacket(c); err != nil {
				t.Fatal(err)
			}
		}
		sent.Go(func() {
			for id := range uint32(requests) {
				p := newPacket(fxpRead).uint32(id).string("1").uint64(uint64(id) * maxTransfer).uint32(maxTransfer).packet()
				if _, err := c.Write(p); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	const bound = share + channels*maxPacket
	// Each has at least the request that it must have, and the share is used up.
	for deadline := time.Now().Add(patience); mem.inUse() < share && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	for range 1000 {
		runtime.Gosched()
		if used := mem.inUse(); used > bound {
			t.Fatalf("%d bytes are held, want at most %d", used, bound)
		}
	}
	var taken sync.WaitGroup
	for _, c := range clients {
		taken.Go(func() {
			for id := range uint32(requests) {
				p, err := readPacket(c)
				if err != nil {
					t.Error(err)
					return
				}
				if a := parseAnswer(p); a.typ != fxpData || a.id != id || len(a.data) != maxTransfer {
					t.Errorf("type %d, id %d, %d bytes", a.typ, a.id, len(a.data))
				}
			}
		})
	}
	taken.Wait()
	sent.Wait()
	for deadline := time.Now().Add(patience); mem.inUse() > 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes stay counted", mem.inUse())
		}
	}
}

// What a session holds goes back when its client is gone in the middle of it.
func TestMemoryOfLostClients(t *testing.T) {
	mem := newTestMemory(t)
	f := newFakeFile("")
	c := sharedRig(t, mem, f)
	r := newRaw(t, c)
	handle := r.open("/f", fxfRead|fxfWrite|fxfCreate)
	p := newPacket(fxpWrite).uint32(9).string(handle).uint64(0).string("half of it").packet()
	if _, err := c.Write(p[:len(p)-3]); err != nil {
		t.Fatal(err)
	}
	c.Close()
	f.wantEnd(t, 0, 1)
	if used := mem.inUse(); used != 0 {
		t.Errorf("%d bytes stay counted", used)
	}
}

// Idle sessions keep next to nothing of what their transfers needed.
func TestMemoryOfIdleSessions(t *testing.T) {
	const (
		sessions = 40
		limit    = 16 << 20
	)
	mem := newTestMemory(t)
	before := heap()
	data := string(make([]byte, maxTransfer))
	for range sessions {
		c := sharedRig(t, mem, nothing{size: 1 << 30})
		r := newRaw(t, c)
		handle := r.open("/f", fxfRead|fxfWrite|fxfCreate)
		const requests = 32 // 8 MiB
		go func() {
			for i := range uint32(requests) {
				e := newPacket(fxpWrite).uint32(100 + i)
				writeBody(handle, uint64(i)*maxTransfer, data)(e)
				_, _ = c.Write(e.packet()) // the answer would be missing
			}
		}()
		for i := range uint32(requests) {
			r.wantStatus(r.answer(100+i), statusOK)
		}
		go func() {
			for i := range uint32(requests) {
				_, _ = c.Write(newPacket(fxpRead).uint32(200 + i).string(handle).uint64(uint64(i) * maxTransfer).uint32(maxTransfer).packet())
			}
		}()
		for i := range uint32(requests) {
			if a := r.answer(200 + i); len(a.data) != maxTransfer {
				t.Fatalf("%d bytes", len(a.data))
			}
		}
		r.wantStatus(r.ask(fxpClose, closeBody(handle)), statusOK)
	}
	if grown := heap() - before; grown > limit {
		t.Errorf("%d idle sessions hold %d KiB, want at most %d KiB", sessions, grown>>10, limit>>10)
	}
}

// heap is what is reachable.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
