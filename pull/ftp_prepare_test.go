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
			r := h.remote(t, func(c *FTPConfig) { c.Connections, c.patience = 1, 20*time.Millisecond })
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
