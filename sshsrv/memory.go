package sshsrv

import "sync"

// memory knows the limits of what clients hold, hands out the buffers for the data of READ and WRITE requests, and counts what
// clients hold. A request that finds the memory used up is not refused: its channel goes on
// with one request at a time (see shim.reserve), so that nobody waits for anybody else.
type memory struct {
	inAll, perUser int64 // bytes
	channels       int   // of one user
	handles        int   // of one session

	mu     sync.Mutex // guards what follows; a leaf
	used   int64
	byUser map[string]*userMemory
	free   [bufferKinds][]*buffer // given back
	idle   int                    // bytes of free
}

// userMemory is what one user holds.
type userMemory struct {
	bytes    int64
	channels int
}

const (
	defaultTransferMemory = 256 << 20
	// userMemoryPart of the memory for all is what one user gets when nothing else is set.
	userMemoryPart      = 4
	defaultUserChannels = 256
	// maxIdle is how many bytes of buffers are kept for the next requests. The garbage
	// collector would empty a sync.Pool more often than is good for a busy server.
	maxIdle = 16 << 20
)

// bufferKinds is how many sizes of buffers there are.
const bufferKinds = 5

// bufferSizes are for small files, for the 32 KiB and 64 KiB that most clients ask for, and
// for the longest packet. Each is a little more than the data.
func bufferSizes() [bufferKinds]int {
	return [...]int{4 << 10, 40 << 10, 72 << 10, 136 << 10, maxPacket}
}

// buffer holds the reply to a READ, head and data, or the data of a WRITE.
type buffer struct {
	b    []byte
	kind int // index of bufferSizes
}

func newMemory(l Limits) *memory {
	return &memory{
		inAll: l.TransferMemory, perUser: l.UserTransferMemory, channels: l.UserChannels, handles: l.Handles,
		byUser: make(map[string]*userMemory),
	}
}

// bufferKind returns the kind of the smallest buffer for n bytes, and its size. Nothing
// longer than maxPacket is asked for.
func bufferKind(n int) (kind, size int) {
	sizes := bufferSizes()
	for kind, size = range sizes {
		if n <= size {
			break
		}
	}
	return kind, size
}

// reserve counts bytes for a user; it is false when they are not to be had, but for what a
// channel must have.
func (m *memory) reserve(user string, bytes int64, must bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.user(user)
	if !must && (m.used+bytes > m.inAll || u.bytes+bytes > m.perUser) {
		m.tidy(user, u)
		return false
	}
	m.used += bytes
	u.bytes += bytes
	return true
}

// release takes back what reserve counted.
func (m *memory) release(user string, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.user(user)
	m.used -= bytes
	u.bytes -= bytes
	m.tidy(user, u)
}

// enterChannel counts a channel of a user; it is false when there are too many.
func (m *memory) enterChannel(user string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.user(user)
	if u.channels >= m.channels {
		m.tidy(user, u)
		return false
	}
	u.channels++
	return true
}

func (m *memory) leaveChannel(user string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.user(user)
	u.channels--
	m.tidy(user, u)
}

func (m *memory) user(name string) *userMemory {
	u := m.byUser[name]
	if u == nil {
		u = &userMemory{}
		m.byUser[name] = u
	}
	return u
}

// tidy forgets a user who holds nothing.
func (m *memory) tidy(name string, u *userMemory) {
	if *u == (userMemory{}) {
		delete(m.byUser, name)
	}
}

// get returns a buffer of a kind, one that was given back when there is one.
func (m *memory) get(kind int) *buffer {
	m.mu.Lock()
	n := len(m.free[kind])
	if n == 0 {
		m.mu.Unlock()
		return &buffer{b: make([]byte, bufferSizes()[kind]), kind: kind}
	}
	defer m.mu.Unlock()
	b := m.free[kind][n-1]
	m.free[kind][n-1] = nil
	m.free[kind] = m.free[kind][:n-1]
	m.idle -= len(b.b)
	return b
}

func (m *memory) put(b *buffer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.idle+len(b.b) > maxIdle {
		return
	}
	m.idle += len(b.b)
	m.free[b.kind] = append(m.free[b.kind], b)
}
