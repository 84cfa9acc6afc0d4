//go:build stores

package stores

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snapgate/gateway/internal/proctest"
)

// scrubbed reads the store on the server back that was copied to: the server goes away in the middle, cannot
// read a file, and breaks its lines; none of that is damage. What is damaged is repaired from the first store. left are
// packfiles that no state tells of.
func (r *rig) scrubbed(left map[string]bool) {
	r.t.Helper()
	r.stray(left)
	packs := slices.DeleteFunc(r.stored("packfiles"), func(path string) bool { return left[path] })
	files := len(packs) + len(r.stored("states"))
	largest := packs[0]
	for _, path := range packs {
		if size(r, path) > size(r, largest) {
			largest = path
		}
	}
	r.proxy.Set(proctest.Trouble{Total: 5 << 20}) // less than the largest file
	out, err := r.Command(r.t.Context(), "scrub", "--all", "offsite")
	if err == nil || !strings.Contains(err.Error(), "store unavailable") {
		r.t.Errorf("with a server that goes away in the middle: %v\n%s", err, out)
	}
	r.proxy.Set(proctest.Trouble{})
	if !strings.HasPrefix(r.at, "s3:") {
		r.must(os.Rename(largest, largest+".good"))
		r.must(os.Mkdir(largest, 0o700)) // reading it is an error
		out, err := r.Command(r.t.Context(), "scrub", "--all", "offsite")
		if err == nil || !strings.Contains(err.Error(), "1 file could not be read: packfile "+filepath.Base(largest)) || !strings.Contains(out, "nothing is damaged") {
			r.t.Errorf("with a file that the server cannot read: %v\n%s", err, out)
		}
		r.must(os.Remove(largest))
		r.must(os.Rename(largest+".good", largest))
	}
	// Goes on where that was. There is a request for each file, not for each blob, and the index costs some.
	r.proxy.Set(proctest.Trouble{Down: 20 << 20})
	before := r.proxy.Gets()
	if sum := r.scrub("--all"); sum.Damaged != 0 || sum.Unread != 0 || sum.Fresh != files || sum.Packfiles == 0 {
		r.t.Errorf("of %d files over lines that break: %+v", files, sum)
	}
	if gets := r.proxy.Gets() - before; gets > 2*files+10 {
		r.t.Errorf("%d requests for %d files", gets, files)
	}
	r.proxy.Set(proctest.Trouble{})

	// Bits of a packfile and a state, a packfile that is gone, and one that is cut off.
	r.must(r.spoil(largest))
	r.must(r.spoil(r.stored("states")[0]))
	contents := 0
	for _, path := range packs {
		if path == largest || size(r, path) < 1<<20 {
			continue
		}
		if contents++; contents == 1 {
			r.must(os.Remove(path))
		} else if contents == 2 {
			r.must(os.Truncate(path, size(r, path)/2))
		}
	}
	if sum := r.scrub("--all", "--repair", "--from", "default"); contents < 2 || sum.Repaired != 4 || sum.Damaged != 0 {
		r.t.Errorf("repaired from the first store, with %d packfiles of contents: %+v", contents+1, sum)
	}
}

// stray adds a packfile that no state tells of.
func (r *rig) stray(left map[string]bool) {
	r.t.Helper()
	like := r.stored("packfiles")[0]
	data, err := os.ReadFile(like)
	r.must(err)
	path := filepath.Join(filepath.Dir(like), filepath.Base(like)[:2]+strings.Repeat("0", 62))
	r.must(os.WriteFile(path, data, 0o600))
	left[path] = true
}

// scrubSum is what matters of the last line of `gateway scrub --json`.
type scrubSum struct {
	Packfiles, Fresh, Unread, Repaired, Damaged int
}

func (r *rig) scrub(args ...string) (sum scrubSum) {
	r.t.Helper()
	out, err := r.Command(r.t.Context(), "scrub", append(args, "--json", "offsite")...)
	if err != nil {
		r.t.Errorf("scrub %s: %v\n%s", args, err, out)
		return sum
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	r.must(json.Unmarshal([]byte(lines[len(lines)-1]), &sum))
	return sum
}

// list lists the files of the store on the server.
func (r *rig) list(kind string) []string {
	r.t.Helper()
	list, err := filepath.Glob(filepath.Join(r.dir, kind, "*", "*"))
	r.must(err)
	return slices.DeleteFunc(list, func(path string) bool { return strings.HasPrefix(filepath.Base(path), "tmp.") })
}

// stored is list for what must be there.
func (r *rig) stored(kind string) []string {
	r.t.Helper()
	list := r.list(kind)
	if len(list) == 0 {
		r.t.Fatalf("there are no %s", kind)
	}
	return list
}

func stat(r *rig, path string) os.FileInfo {
	r.t.Helper()
	fi, err := os.Stat(path)
	r.must(err)
	return fi
}

func size(r *rig, path string) int64 { return stat(r, path).Size() }

// spoil changes a byte in the middle of a file.
func (r *rig) spoil(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o600)
}
