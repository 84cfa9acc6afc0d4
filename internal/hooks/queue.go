package hooks

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/disk"
)

// Config configures a Queue.
type Config struct {
	Dir    string // of the queue; it is made when it is missing
	Disk   disk.FS
	Hooks  []Hook
	Logger *slog.Logger
	GiveUp time.Duration // after which an event is given up; 72 h
	// MaxBytes is how long the queue may become; 64 MiB, some 200,000 events.
	MaxBytes int64
	Client   *http.Client // nil: one that follows no redirections
	// Pause says how long to wait after so many failures in a row; nil: seconds at first, ten
	// minutes at last.
	Pause func(failures int) time.Duration
	Now   func() time.Time // nil: the clock
}

const (
	defaultGiveUp   = 72 * time.Hour
	defaultMaxBytes = 64 << 20
	queueName       = "queue.log"
	stateName       = "state.json"
	maxState        = 1 << 20
)

// ErrFull means that hooks have not taken anything for so long that the queue is full.
var ErrFull = errors.New("the queue of hooks is full")

// errClosed means that the queue was closed.
var errClosed = errors.New("the queue of hooks is closed")

// Queue is what hooks are still to be told. Safe for concurrent use.
type Queue struct {
	cfg  Config
	file disk.File

	saving sync.Mutex // held while the state is written

	reading sync.RWMutex // held while the file is read, and while it is replaced; before mu

	mu       sync.Mutex // guards what follows
	last     uint64     // number of the newest event
	end      int64      // of the file
	entries  []entry    // that some hook has not taken, and others before them
	done     map[string]uint64
	batch    *batch // being filled
	flushing bool   // somebody writes
	closed   bool
	news     chan struct{} // closed when there is a new event
	dropped  uint64        // events that could not be added
	status   map[string]*Status
}

// entry is an event in the file.
type entry struct {
	seq    uint64
	off, n int64
}

// batch is written and flushed as a whole.
type batch struct {
	buf   bytes.Buffer
	items []entry // off is relative to the batch
	done  chan struct{}
	err   error // valid when done is closed
}

// Status is how a hook is doing.
type Status struct {
	Name    string
	Pending int       // events, wanted or not, that it has not had
	Tries   int       // failed ones in a row
	Error   string    // of the last try, "" when that went well
	Success time.Time // of the last event that was taken since the start
	GivenUp int       // since the start
	Dropped uint64    // that the queue could not take, since the start
}

// state is state.json.
type state struct {
	Version int               `json:"version"`
	Last    uint64            `json:"last"` // number of an event that there was; the next one is higher
	Done    map[string]uint64 `json:"done"` // number of the last event that a hook has had
}

// Open opens the queue, or makes it. A hook that it does not know begins with the next event.
func Open(cfg Config) (*Queue, error) {
	if cfg.Dir == "" || cfg.Logger == nil {
		return nil, errors.New("hooks: no directory or no logger")
	}
	if cfg.Disk == nil {
		cfg.Disk = disk.OS{}
	}
	if cfg.GiveUp == 0 {
		cfg.GiveUp = defaultGiveUp
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	if cfg.Pause == nil {
		cfg.Pause = retryPause
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Client == nil {
		var err error
		if cfg.Client, err = NewClient(nil); err != nil {
			return nil, err
		}
	}
	q := &Queue{cfg: cfg, done: map[string]uint64{}, batch: newBatch(), news: make(chan struct{}), status: map[string]*Status{}}
	for i := range cfg.Hooks {
		h := &cfg.Hooks[i]
		if err := h.check(); err != nil {
			return nil, err
		}
		if q.status[h.Name] != nil {
			return nil, fmt.Errorf("hooks: two hooks of the name %s", h.Name)
		}
		q.status[h.Name] = &Status{Name: h.Name}
	}
	if err := q.load(); err != nil {
		return nil, fmt.Errorf("hooks: %w", err)
	}
	return q, nil
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// load reads what an earlier process has left.
func (q *Queue) load() (err error) {
	if err := disk.MkdirDurable(q.cfg.Disk, q.cfg.Dir, 0o700); err != nil {
		return err
	}
	st := state{}
	data, err := disk.ReadFile(q.cfg.Disk, filepath.Join(q.cfg.Dir, stateName), maxState)
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &st); err != nil || st.Version != 1 {
			return fmt.Errorf("%s: not a state of version 1", filepath.Join(q.cfg.Dir, stateName))
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	q.file, err = q.cfg.Disk.OpenFile(filepath.Join(q.cfg.Dir, queueName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, q.file.Close())
		}
	}()
	if err := q.cfg.Disk.SyncDir(q.cfg.Dir); err != nil {
		return err
	}
	q.last = st.Last
	if err := q.scan(); err != nil {
		return err
	}
	for i := range q.cfg.Hooks {
		name := q.cfg.Hooks[i].Name
		if done, ok := st.Done[name]; ok {
			q.done[name] = done
		} else {
			q.done[name] = q.last
		}
	}
	return q.save()
}

// scan finds the events in the file, and cuts off what a crash has left half at its end.
func (q *Queue) scan() error {
	size, err := q.file.Size()
	if err != nil {
		return err
	}
	data := make([]byte, size)
	if size > 0 {
		if _, err := q.file.ReadAt(data, 0); err != nil {
			return err
		}
	}
	last := uint64(0)
	for off := int64(0); ; {
		i := bytes.IndexByte(data[off:], '\n')
		if i < 0 {
			q.end = off
			break
		}
		n := int64(i) + 1
		rec, ok := decode(data[off : off+n])
		if !ok || rec.Seq <= last {
			q.end = off
			break
		}
		q.entries = append(q.entries, entry{rec.Seq, off, n})
		last, off = rec.Seq, off+n
	}
	q.last = max(q.last, last)
	if q.end < size {
		q.cfg.Logger.Warn("the end of the queue of hooks was not written whole and is cut off", "bytes", size-q.end)
		if err := q.file.Truncate(q.end); err != nil {
			return err
		}
		return q.file.Sync()
	}
	return nil
}

// record is a line of the file, behind its checksum.
type record struct {
	Seq   uint64          `json:"seq"`
	Event json.RawMessage `json:"event"`
}

// sumDigits are the digits of the checksum, a blank follows.
const sumDigits = 8

func encode(seq uint64, event []byte) ([]byte, error) {
	data, err := json.Marshal(record{seq, event})
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(data), data), nil
}

func decode(line []byte) (rec record, ok bool) {
	if len(line) < sumDigits+2 || line[sumDigits] != ' ' {
		return rec, false
	}
	sum, err := hex.DecodeString(string(line[:sumDigits]))
	data := line[sumDigits+1 : len(line)-1]
	if err != nil || fmt.Sprintf("%x", sum) != fmt.Sprintf("%08x", crc32.ChecksumIEEE(data)) {
		return rec, false
	}
	return rec, json.Unmarshal(data, &rec) == nil
}

// Wants reports whether any hook wants an event.
func (q *Queue) Wants(e *Event) bool {
	return slices.ContainsFunc(q.cfg.Hooks, func(h Hook) bool { return h.wants(e) })
}

// Add puts an event into the queue, if any hook wants it; it is durable when Add returns nil. Time, and
// an ID that is missing, are filled in. An event that could not be added is lost, and counted.
func (q *Queue) Add(e Event) error {
	if !q.Wants(&e) {
		return nil
	}
	err := q.add(e)
	if err != nil {
		q.mu.Lock()
		q.dropped++
		q.mu.Unlock()
	}
	return err
}

func (q *Queue) add(e Event) error {
	data, err := e.complete(q.cfg.Now())
	if err != nil {
		return err
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return errClosed
	}
	if q.end+int64(q.batch.buf.Len()) >= q.cfg.MaxBytes {
		q.mu.Unlock()
		return ErrFull
	}
	line, err := encode(q.last+1, data)
	if err != nil {
		q.mu.Unlock()
		return err
	}
	q.last++
	b := q.batch
	b.items = append(b.items, entry{q.last, int64(b.buf.Len()), int64(len(line))})
	_, _ = b.buf.Write(line)
	leads := !q.flushing
	q.flushing = true
	q.mu.Unlock()
	if leads {
		q.flush()
	}
	<-b.done
	return b.err
}

// flush writes batches until there is nothing to write.
func (q *Queue) flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.batch.items) > 0 {
		b, off := q.batch, q.end
		q.batch = newBatch()
		q.mu.Unlock()
		_, b.err = q.file.WriteAt(b.buf.Bytes(), off)
		if b.err == nil {
			b.err = q.file.Sync()
		}
		q.mu.Lock()
		if b.err == nil {
			for _, it := range b.items {
				q.entries = append(q.entries, entry{it.seq, off + it.off, it.n})
			}
			q.end = off + int64(b.buf.Len())
			close(q.news)
			q.news = make(chan struct{})
		}
		close(b.done)
	}
	q.flushing = false
}

// Close closes a queue that is not served any more. What hooks have not taken stays.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	q.cfg.Client.CloseIdleConnections()
	return q.file.Close()
}

// Status tells how the hooks are doing, in their order.
func (q *Queue) Status() []Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []Status
	for i := range q.cfg.Hooks {
		st := *q.status[q.cfg.Hooks[i].Name]
		st.Dropped = q.dropped
		for _, e := range q.entries {
			if e.seq > q.done[st.Name] {
				st.Pending++
			}
		}
		list = append(list, st)
	}
	return list
}

// save writes down how far the hooks are.
func (q *Queue) save() error {
	q.saving.Lock()
	defer q.saving.Unlock()
	q.mu.Lock()
	st := state{Version: 1, Last: q.last, Done: map[string]uint64{}}
	for name, n := range q.done {
		st.Done[name] = n
	}
	q.mu.Unlock()
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return disk.WriteFile(q.cfg.Disk, filepath.Join(q.cfg.Dir, stateName), data, 0o600)
}

// next returns the event that a hook has to be told next, and what it waits for when there is
// none.
func (q *Queue) next(name string) (e entry, ok bool, news <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.entries {
		if e.seq > q.done[name] {
			return e, true, nil
		}
	}
	return entry{}, false, q.news
}

// after returns the event behind a number.
func (q *Queue) after(seq uint64) (e entry, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i, _ := slices.BinarySearchFunc(q.entries, seq+1, func(e entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	if i == len(q.entries) {
		return entry{}, false
	}
	return q.entries[i], true
}

// took notes that a hook has had an event, and empties the file when nothing is left in it.
func (q *Queue) took(name string, seq uint64) error {
	q.mu.Lock()
	q.done[name] = seq
	oldest := seq
	for _, n := range q.done {
		oldest = min(oldest, n)
	}
	keep := 0
	for keep < len(q.entries) && q.entries[keep].seq <= oldest {
		keep++
	}
	q.entries = q.entries[keep:]
	q.mu.Unlock()
	if err := q.save(); err != nil {
		return err
	}
	if err := q.empty(); err != nil {
		return err
	}
	return q.compact()
}

// empty empties the file when nothing is left in it.
func (q *Queue) empty() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) > 0 || len(q.batch.items) > 0 || q.flushing || q.end == 0 || q.closed {
		return nil
	}
	// The state says that all of it was had, so a crash before the file is cut repeats nothing.
	if err := q.file.Truncate(0); err != nil {
		return err
	}
	q.end, q.entries = 0, nil
	return nil
}

// compact writes the file anew, without what was had, when that is most of a file that has become
// long: a hook that is always a little behind must not fill it.
func (q *Queue) compact() (err error) {
	q.mu.Lock()
	if len(q.entries) == 0 || q.flushing || q.closed || q.end < q.cfg.MaxBytes/2 || q.end-q.entries[0].off > q.cfg.MaxBytes/4 {
		q.mu.Unlock()
		return nil
	}
	q.flushing = true // who adds meanwhile waits
	from, n, old := q.entries[0].off, q.end-q.entries[0].off, q.file
	q.mu.Unlock()
	defer q.flush()

	path := filepath.Join(q.cfg.Dir, queueName)
	data := make([]byte, n)
	if _, err := old.ReadAt(data, from); err != nil {
		return err
	}
	if err := disk.WriteFile(q.cfg.Disk, path, data, 0o600); err != nil {
		return err
	}
	file, err := q.cfg.Disk.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		// The old file has lost its name: what is added from now on would be lost with it.
		q.mu.Lock()
		q.closed = true
		q.mu.Unlock()
		return err
	}
	q.reading.Lock()
	q.mu.Lock()
	q.file, q.end = file, n
	for i := range q.entries {
		q.entries[i].off -= from
	}
	q.mu.Unlock()
	q.reading.Unlock()
	return old.Close()
}

// read returns an event and its JSON.
func (q *Queue) read(e entry) (ev Event, body []byte, err error) {
	q.reading.RLock()
	defer q.reading.RUnlock()
	q.mu.Lock()
	i, ok := slices.BinarySearchFunc(q.entries, e.seq, func(e entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	if ok {
		e = q.entries[i] // the file may have been compacted since
	}
	file := q.file
	q.mu.Unlock()
	line := make([]byte, e.n)
	if _, err := file.ReadAt(line, e.off); err != nil {
		return ev, nil, err
	}
	rec, ok := decode(line)
	if !ok {
		return ev, nil, errors.New("the event is damaged")
	}
	return ev, rec.Event, json.Unmarshal(rec.Event, &ev)
}

// Serve tells hooks until ctx ends.
func (q *Queue) Serve(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for i := range q.cfg.Hooks {
		all.Go(func() { q.serve(ctx, &q.cfg.Hooks[i]) })
	}
}

// serve tells one hook.
func (q *Queue) serve(ctx context.Context, h *Hook) {
	for ctx.Err() == nil {
		e, ok, news := q.next(h.Name)
		if !ok {
			select {
			case <-news:
			case <-ctx.Done():
			}
			continue
		}
		if !q.tell(ctx, h, e) {
			return
		}
		if err := q.took(h.Name, e.seq); err != nil {
			q.cfg.Logger.Error("how far a hook is cannot be noted; it will be told again after a restart", "hook", h.Name, "err", err)
		}
	}
}
