package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/vfs/internal/journal"
)

// files reads all files of a directory, by name.
func files(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	ents, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string][]byte)
	for _, e := range ents {
		if m[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// restore makes a directory hold exactly files.
func restore(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// twoLives leaves a closed segment with 4 records and one with 3 batches of which the
// first two were durable when the third was written; clean says how it ended.
func twoLives(t testing.TB, cfg journal.Config, clean bool) {
	t.Helper()
	j := open(t, cfg)
	appendOK(t, j, true, "one", "two")
	appendOK(t, j, true, "three", "four")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, cfg)
	appendOK(t, j, true, "five")
	appendOK(t, j, true, "six", "seven")
	appendOK(t, j, true, "eight", "nine")
	if clean {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

var allNine = []string{"1 one", "2 two", "3 three", "4 four", "5 five", "6 six", "7 seven", "8 eight", "9 nine"}

// outcome opens a journal and describes what it holds, or returns the error.
func outcome(t testing.TB, cfg journal.Config) (string, error) {
	t.Helper()
	j, err := journal.Open(cfg)
	if err != nil {
		return "", err
	}
	got := strings.Join(records(t, j), ",")
	return got, nil
}

// TestEveryByteOfACleanJournal changes every byte: it is noticed, or it does not matter.
func TestEveryByteOfACleanJournal(t *testing.T) {
	modes(t, func(t *testing.T, cfg journal.Config) {
		cfg.Disk = unsynced{disk.OS{}}
		twoLives(t, cfg, true)
		good := files(t, cfg.Dir)
		want := strings.Join(allNine, ",")
		noticed := 0
		for name, b := range good {
			path := filepath.Join(cfg.Dir, name)
			for i := range b {
				bad := bytes.Clone(b)
				bad[i] ^= 0x41
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				got, err := outcome(t, cfg)
				if err == nil && got != want {
					t.Fatalf("%s, byte %d: got %s without an error", name, i, got)
				}
				if err != nil {
					noticed++
					if now := files(t, cfg.Dir)[name]; !bytes.Equal(now, bad) {
						t.Fatalf("%s, byte %d: a damaged segment was changed", name, i)
					}
				}
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if noticed < 500 {
			t.Errorf("only %d changed bytes were noticed", noticed)
		}
	})
}

// TestEveryTornLength cuts the newest segment at every length: what is left is a row of
// whole batches, and what a later batch vouches for is not missing silently.
func TestEveryTornLength(t *testing.T) {
	modes(t, func(t *testing.T, cfg journal.Config) {
		cfg.Disk = unsynced{disk.OS{}}
		twoLives(t, cfg, false)
		good := files(t, cfg.Dir)
		newest := filepath.Base(segments(t, cfg)[1])
		allowed := map[string]bool{}
		for _, n := range []int{4, 5, 7, 9} { // the ends of batches
			allowed[strings.Join(allNine[:n], ",")] = true
		}
		seen := map[string]bool{}
		const header = 128
		for n := header; n <= len(good[newest]); n++ {
			cut := map[string][]byte{newest: good[newest][:n]}
			for name, b := range good {
				if name != newest {
					cut[name] = b
				}
			}
			restore(t, cfg.Dir, cut)
			got, err := outcome(t, cfg)
			if err != nil {
				t.Fatalf("cut at %d: %v", n, err)
			}
			if !allowed[got] {
				t.Fatalf("cut at %d: got %s", n, got)
			}
			seen[got] = true
		}
		if len(seen) != len(allowed) {
			t.Errorf("saw %d outcomes, want %d", len(seen), len(allowed))
		}
	})
}

func TestDamage(t *testing.T) {
	find := func(b []byte, frame int) int { // offset of a frame by its magic
		off := 128
		for range frame {
			off += 8
			for !bytes.Equal(b[off:off+4], b[128:132]) {
				off += 8
			}
		}
		return off
	}
	for _, tt := range []struct {
		name   string
		clean  bool
		change func(m map[string][]byte, old, newest string)
		want   string // the records; "damage"
	}{
		{"a synced batch in the middle", false, func(m map[string][]byte, old, newest string) {
			m[newest][find(m[newest], 1)+40] ^= 1
		}, "damage"},
		{"the length of a synced record", false, func(m map[string][]byte, old, newest string) {
			m[newest][find(m[newest], 0)+8] ^= 1
		}, "damage"},
		{"zeros over two synced batches", false, func(m map[string][]byte, old, newest string) {
			clear(m[newest][find(m[newest], 0):find(m[newest], 3)])
		}, "damage"},
		{"the last batch, not closed cleanly", false, func(m map[string][]byte, old, newest string) {
			m[newest][find(m[newest], 3)+40] ^= 1
		}, strings.Join(allNine[:7], ",")},
		{"the last batch, closed cleanly", true, func(m map[string][]byte, old, newest string) {
			m[newest][find(m[newest], 3)+40] ^= 1
		}, "damage"},
		{"zeros after the end", false, func(m map[string][]byte, old, newest string) {
			m[newest] = append(m[newest], make([]byte, 5000)...)
		}, strings.Join(allNine, ",")},
		{"the older segment", false, func(m map[string][]byte, old, newest string) {
			m[old][find(m[old], 3)+40] ^= 1
		}, "damage"},
		{"the older segment's tail", false, func(m map[string][]byte, old, newest string) {
			m[old] = m[old][:find(m[old], 3)]
		}, "damage"},
		{"rubbish after the older segment's end", false, func(m map[string][]byte, old, newest string) {
			m[old] = append(m[old], "rubbish"...)
		}, strings.Join(allNine, ",")},
		{"an older segment emptied", false, func(m map[string][]byte, old, newest string) {
			m[old] = nil
		}, "damage"},
		{"segments swapped", false, func(m map[string][]byte, old, newest string) {
			m[old], m[newest] = m[newest], m[old]
		}, "damage"},
		{"the newest segment's header", false, func(m map[string][]byte, old, newest string) {
			m[newest][30] ^= 1
		}, "damage"},
		{"an unfinished segment", false, func(m map[string][]byte, old, newest string) {
			m["00000000000000ff.wal.tmp"] = []byte("half a header")
		}, strings.Join(allNine, ",")},
		{"other files", false, func(m map[string][]byte, old, newest string) {
			m["lock"], m["0.wal"], m["notes.wal"] = nil, []byte("x"), []byte("y")
		}, strings.Join(allNine, ",")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modes(t, func(t *testing.T, cfg journal.Config) {
				twoLives(t, cfg, tt.clean)
				m := files(t, cfg.Dir)
				names := segments(t, cfg)
				tt.change(m, filepath.Base(names[0]), filepath.Base(names[1]))
				restore(t, cfg.Dir, m)
				got, err := outcome(t, cfg)
				var damage *journal.DamageError
				if errors.As(err, &damage) {
					got, err = "damage", nil
					if damage.Path == "" || !strings.Contains(damage.Error(), damage.Path) {
						t.Errorf("the error does not name the file: %v", damage)
					}
					if now := files(t, cfg.Dir); fmt.Sprint(now) != fmt.Sprint(m) {
						t.Error("a damaged journal was changed")
					}
				}
				if err != nil || got != tt.want {
					t.Errorf("got %s, %v; want %s", got, err, tt.want)
				}
			})
		})
	}
}

// TestMissingSegment takes one segment of three away.
func TestMissingSegment(t *testing.T) {
	for missing, want := range []string{"2,3", "damage", "1,2"} {
		cfg := journal.Config{Disk: disk.OS{}, Dir: t.TempDir()}
		for range 3 {
			j := open(t, cfg)
			appendOK(t, j, true, "x")
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(segments(t, cfg)[missing]); err != nil {
			t.Fatal(err)
		}
		got, err := outcome(t, cfg)
		got = strings.ReplaceAll(got, " x", "")
		if errors.As(err, new(*journal.DamageError)) {
			got = "damage"
		}
		if got != want {
			t.Errorf("without segment %d: got %q, %v; want %q", missing+1, got, err, want)
		}
	}
}

// TestPayloadsDoNotVouch is about a client that uploads what looks like frames: a torn
// tail behind it stays a torn tail.
func TestPayloadsDoNotVouch(t *testing.T) {
	cfg := journal.Config{Disk: disk.OS{}, Dir: t.TempDir()}
	twoLives(t, cfg, true)
	stolen := files(t, cfg.Dir)[filepath.Base(segments(t, cfg)[1])][128:]
	other := journal.Config{Disk: disk.OS{}, Dir: t.TempDir()}
	j := open(t, other)
	appendOK(t, j, true, "good")
	appendOK(t, j, false, "torn", string(stolen))
	path := segments(t, other)[0]
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, []byte("torn"))] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := outcome(t, other); err != nil || got != "1 good" {
		t.Errorf("got %q, %v; want the batch before the torn one", got, err)
	}
}
