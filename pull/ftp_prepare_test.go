package pull

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// The port for the next transfer is asked for together with the last command of the one before,
// when somebody waits for the connection. Servers that do not take that have every file read all
// the same, and are not asked so again.
func TestFTPPreparesTransfers(t *testing.T) {
	const files = 12
	for name, tt := range map[string]struct {
		house *ftpHouse
		ahead bool // more often than once a connection
	}{
		"takes it":     {&ftpHouse{mlsd: true}, true},
		"loses it":     {&ftpHouse{mlsd: true, oneByOne: true}, false},
		"refuses it":   {&ftpHouse{mlsd: true, noAhead: true}, true},
		"has no MLST":  {&ftpHouse{}, false},
		"has no EPSV":  {&ftpHouse{mlsd: true, noEPSV: true}, false},
		"has PASV and": {&ftpHouse{mlsd: true, noEPSV: true, oneByOne: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := tt.house
			h.dir = t.TempDir()
			for i := range files {
				path := filepath.Join(h.dir, fmt.Sprint(i))
				if err := os.WriteFile(path, fmt.Append(nil, "content ", i), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(path, then, then); err != nil {
					t.Fatal(err)
				}
			}
			h.start(t)
			r := h.remote(t, impatient(h))
			for range 2 {
				var all sync.WaitGroup
				for i := range files {
					want := fmt.Sprint("content ", i)
					c := &file{r: r, retry: quick, path: fmt.Sprint("/", i), seen: Entry{
						Type: File, Size: int64(len(want)), ModTime: then, Precision: time.Second,
					}}
					all.Go(func() {
						if got, err := c.whole(t.Context()); err != nil || string(got) != want {
							t.Errorf("%s: %q, %v", c.path, got, err)
						}
					})
				}
				all.Wait()
			}
			if n := h.ahead.Load(); n > 1 != tt.ahead {
				t.Errorf("%d commands were sent ahead", n)
			}
		})
	}
}

// impatient makes one connection, which does not wait long for what is lost.
func impatient(h *ftpHouse) func(*FTPConfig) {
	return func(c *FTPConfig) {
		if c.Connections = 1; h.oneByOne {
			c.patience = 20 * time.Millisecond
		}
	}
}

// What is left to do with a file that was written is asked for together, and so is its name. Servers
// that do not take that have every file written all the same, and are not asked so again.
func TestFTPFinishesTogether(t *testing.T) {
	const files = 6
	for name, tt := range map[string]struct {
		house *ftpHouse
		trips int // of the last file
	}{
		"takes it":    {&ftpHouse{mlsd: true}, 5}, // EPSV, STOR, its end, and twice several
		"has no MLST": {&ftpHouse{}, 5},
		"has no EPSV": {&ftpHouse{mlsd: true, noEPSV: true}, 5},
		"loses it":    {&ftpHouse{mlsd: true, oneByOne: true}, 8},
		"refuses it":  {&ftpHouse{mlsd: true, noAhead: true}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			h := tt.house
			h.dir = t.TempDir()
			h.start(t)
			r := h.remote(t, impatient(h))
			ctx := t.Context()
			write := func(i int) error {
				temp, path, text := fmt.Sprint("/temp", i), fmt.Sprint("/", i), fmt.Sprint("content ", i)
				return quick.Do(ctx, func() (bool, error) {
					w, err := r.Create(ctx, temp, 0)
					if err != nil {
						return false, err
					}
					defer w.Abort()
					err = w.Write(ctx, []byte(text))
					if err == nil {
						err = w.Finish(ctx, Attributes{Mode: 0o640, HasMode: true, ModTime: then})
					}
					if err == nil {
						err = r.Rename(ctx, temp, path)
					}
					return false, err
				})
			}
			before := 0
			for i := range files {
				if i == files-1 {
					before = h.trips()
				}
				if err := write(i); err != nil {
					t.Fatal(err)
				}
			}
			trips := h.trips() - before
			for i := range files {
				path := filepath.Join(h.dir, fmt.Sprint(i))
				data, err := os.ReadFile(path)
				if want := fmt.Sprint("content ", i); string(data) != want || err != nil {
					t.Errorf("%d: %q, %v, want %q", i, data, err, want)
				}
				fi, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if fi.Mode() != 0o640 || !fi.ModTime().Equal(then) {
					t.Errorf("%d: %v, %v", i, fi.Mode(), fi.ModTime())
				}
			}
			if trips != tt.trips {
				t.Errorf("a file costs %d round trips, want %d", trips, tt.trips)
			}
		})
	}
}
