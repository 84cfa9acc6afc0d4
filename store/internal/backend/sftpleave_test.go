package backend_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/store/internal/backend"
	"github.com/snapgate/gateway/store/storetest"
)

// leaveSilence is how long a server may be silent that is left.
const leaveSilence = 2 * time.Second

// newLeft makes a store on a server in a bubble, whose time is virtual, over one connection.
func newLeft(t *testing.T, d *pipeDialer, root string) *backend.SFTP {
	t.Helper()
	b := backend.NewSFTP(backend.SFTPConfig{Dialer: d, Root: root, Token: "token", Timeout: time.Hour, Connections: 1})
	t.Cleanup(func() { _ = b.Close() })
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// held makes a call whose requests wait on the server until release is called, and returns when it waits.
func (d *pipeDialer) held(call func() error) (release func(), result <-chan error) {
	hold, done := make(chan struct{}), make(chan error, 1)
	d.hold.Store(&hold)
	go func() { done <- call() }()
	synctest.Wait()
	d.hold.Store(nil) // of others that come now
	return func() { close(hold) }, done
}

// connections is how many were made.
func (d *pipeDialer) connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

// TestCutOff: a call is cut off, and made again, that waits for longer than a server may be silent, and not one that has just begun on a
// connection from which nothing has come for long, as nothing was asked.
func TestCutOff(t *testing.T) {
	for name, tt := range map[string]struct {
		waits time.Duration
		cut   bool
	}{
		"just begun": {waits: 10 * time.Millisecond},
		"silent":     {waits: leaveSilence, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "store")
			synctest.Test(t, func(t *testing.T) {
				d := newPipeDialer(t)
				b := newLeft(t, d, root)
				time.Sleep(time.Hour)
				release, result := d.held(func() error {
					return b.List(t.Context(), backend.LocksDir, func(string) error { return nil })
				})
				time.Sleep(tt.waits)
				before := d.connections()
				b.CutOff(leaveSilence)
				synctest.Wait()
				release()
				err := <-result
				if cut := d.connections() > before; err != nil || cut != tt.cut {
					t.Errorf("a call that waits for %s ends with %v, cut off: %v, want %v", tt.waits, err, cut, tt.cut)
				}
			})
		})
	}
}

// TestCutOffCleansUp: that a call was cut off keeps no others from being tried, which clean up; that there is no server does.
func TestCutOffCleansUp(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	synctest.Test(t, func(t *testing.T) {
		d := newPipeDialer(t)
		left := newLeft(t, d, root)
		b := backend.NewFailFast(left, 2*time.Second)
		lock := storetest.FileName(backend.LocksDir, 1)
		if err := backend.PutBytes(t.Context(), b, lock, []byte("x")); err != nil {
			t.Fatal(err)
		}
		release, result := d.held(func() error {
			return backend.PutBytes(t.Context(), b, storetest.FileName(backend.PackfilesDir, 1), []byte("x"))
		})
		defer release()
		left.CutOff(0)
		if err := <-result; err == nil {
			t.Error("a call was not cut off")
		}
		if err := b.Remove(t.Context(), lock); err != nil {
			t.Errorf("what cleans up: %v", err)
		}
		if _, err := left.Stat(t.Context(), lock); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what was removed: %v, want %v", err, fs.ErrNotExist)
		}
		d.trouble(true, 0, 0)
		stat := func() error {
			_, err := b.Stat(t.Context(), lock)
			return err
		}
		if err := stat(); err == nil || errors.Is(err, backend.ErrNotTried) {
			t.Errorf("when the connection has ended: %v", err)
		}
		if err := stat(); !errors.Is(err, errNoServer) || errors.Is(err, backend.ErrNotTried) {
			t.Errorf("when there is no server: %v, want %v", err, errNoServer)
		}
		if err := stat(); !errors.Is(err, backend.ErrNotTried) {
			t.Errorf("when that is known: %v, want %v", err, backend.ErrNotTried)
		}
	})
}

// TestCutOffSilentCleansUp: that keeps no others from being tried either when there is patience left. The call is one that cannot be
// made again.
func TestCutOffSilentCleansUp(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	synctest.Test(t, func(t *testing.T) {
		left := newLeft(t, newPipeDialer(t), root)
		b := backend.NewFailFast(left, time.Hour)
		more, result := make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := b.Put(t.Context(), storetest.FileName(backend.PackfilesDir, 1), readerFunc(func(p []byte) (int, error) {
				<-more
				return len(p), nil
			}))
			result <- err
		}()
		synctest.Wait()
		time.Sleep(leaveSilence)
		left.CutOff(leaveSilence)
		close(more)
		if err := <-result; err == nil {
			t.Error("a call was not cut off")
		}
		if err := backend.PutBytes(t.Context(), b, storetest.FileName(backend.LocksDir, 1), nil); err != nil {
			t.Errorf("what cleans up: %v", err)
		}
	})
}

// slowEnds is a server whose connections take a second to end, as processes do.
type slowEnds struct{ *pipeDialer }

func (d slowEnds) Dial(ctx context.Context) (*backend.SFTPLink, error) {
	link, err := d.pipeDialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	hangUp := link.HangUp
	link.HangUp = func() error {
		time.Sleep(time.Second)
		return hangUp()
	}
	return link, nil
}

// TestEndsBeside ends three connections, by CutOff and by Close: beside each other, and nobody who has another waits for that.
func TestEndsBeside(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	synctest.Test(t, func(t *testing.T) {
		d := newPipeDialer(t)
		newLeft(t, d, root)
		for name, end := range map[string]func(*backend.SFTP) error{
			"cut off": func(b *backend.SFTP) error { b.CutOff(0); return nil },
			"close":   (*backend.SFTP).Close,
		} {
			b := backend.NewSFTP(backend.SFTPConfig{Dialer: slowEnds{d}, Root: root, Token: "token", Timeout: time.Hour})
			more := make(chan struct{})
			var puts sync.WaitGroup
			for i := range 3 { // each on a connection that is not in use
				puts.Go(func() {
					_, err := b.Put(t.Context(), storetest.FileName(backend.PackfilesDir, uint64(i)), readerFunc(func([]byte) (int, error) {
						<-more
						return 0, io.EOF
					}))
					if err == nil {
						t.Errorf("%s: put over a connection that has ended", name)
					}
				})
				synctest.Wait()
			}
			took := make(chan time.Duration, 1)
			began := time.Now()
			go func() {
				if err := end(b); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				took <- time.Since(began)
			}()
			synctest.Wait() // all that are ended are being hung up
			if _, err := b.Stat(t.Context(), "nothing"); !errors.Is(err, fs.ErrNotExist) || time.Since(began) > 0 {
				t.Errorf("%s: a call meanwhile: %v, after %s", name, err, time.Since(began))
			}
			if d := <-took; d != time.Second {
				t.Errorf("%s: took %s", name, d)
			}
			close(more)
			puts.Wait()
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestLeave: what is under way ends, and of a server that was left nothing is asked, over a connection that is there neither.
func TestLeave(t *testing.T) {
	for name, underWay := range map[string]bool{"idle": false, "under way": true} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "store")
			synctest.Test(t, func(t *testing.T) {
				d := newPipeDialer(t)
				b := newLeft(t, d, root)
				list := func() error { return b.List(t.Context(), backend.LocksDir, func(string) error { return nil }) }
				if err := list(); err != nil {
					t.Fatal(err)
				}
				result := make(<-chan error)
				if underWay {
					var release func()
					release, result = d.held(list)
					defer release()
				}
				b.Leave()
				if underWay && <-result == nil {
					t.Error("a call that was under way was answered")
				}
				if err := list(); err == nil {
					t.Error("a server that was left is asked")
				}
			})
		})
	}
}
