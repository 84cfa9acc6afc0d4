package websrv

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// Everybody is told of the damage that concerns what they see, and of nothing else.
func TestVerification(t *testing.T) {
	var known []Verification
	s := startSite(t, func(c *Config) {
		c.Viewer.Operator = func(user string) bool { return user == "ops" }
		c.Viewer.Verification = func(others bool) []Verification {
			if !others {
				return known[:min(len(known), 1)]
			}
			return known
		}
	})
	s.user("ops", vfs.PermReadOnly, at("/", "other", "/"))
	s.user("part", vfs.PermReadOnly, at("/", "main", "/docs"))
	s.user("stranger", vfs.PermReadOnly, at("/", "other", "/"))
	s.user("drop", vfs.PermUploadOnly, at("/", "main", "/"))
	s.put("/docs/<b>.txt", "letter")
	s.put("/secret.txt", "plans")
	first := s.commit()
	s.put("/else.txt", "")
	s.commit()
	list, err := s.snaps.Snapshots(t.Context(), "main")
	if err != nil || len(list) != 2 {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	for _, user := range []string{"alice", "ops"} {
		b := s.as(user)
		lacks(t, b.want("/"), "/verification")
		contains(t, b.want("/verification"), "Nothing is known of it.")
	}

	now := s.clock.read()
	state := snapshotter.ScrubState{
		Store: "id", Files: 2000, Fresh: 1999, Unread: 3, Last: now.Add(-time.Hour), Oldest: now.Add(-29 * 24 * time.Hour),
		Began: now.Add(-72 * time.Hour), Whole: now.Add(-70 * time.Hour), Repaired: now.Add(-5 * time.Hour), RepairedFiles: 4,
	}
	known = []Verification{{Store: "default", State: state, Every: 30 * 24 * time.Hour, Next: now.Add(time.Hour), Running: "5 GiB so far"},
		{Store: "offsite", Others: true, State: snapshotter.ScrubState{Store: "id", Files: 1, Fresh: 1}}}
	page := s.as("alice").want("/verification")
	contains(t, page, "99 % in the last 30 days", "some of it is new", "29 days ago", "2 days ago", "1 hour ago", "Next run", "No damage is known that concerns your files.")
	lacks(t, page, "2,000", "2000", "1999", "offsite", "5 GiB", "Last repair")
	page = s.as("ops").want("/verification")
	contains(t, page, "1999 of 2,000 files", "3 files are new", "Store offsite", "5 GiB so far", "Last repair", "4 files", "No damage is known.")
	contains(t, s.as("alice").want("/"), `href="/verification"`, "99 % in the last 30 days")
	known[0].State.Files, known[0].State.Fresh = 0, 0
	contains(t, s.as("alice").want("/"), "nothing is stored yet")

	newest, oldest := list[0], list[1]
	use := func(path, what string) snapshotter.Use {
		return snapshotter.Use{
			Share: "main", Path: path, What: what, Size: 6, Snapshots: 2,
			First: oldest.ID, FirstTime: oldest.Time, Last: newest.ID, LastTime: newest.Time,
		}
	}
	known[0].State.Damage = []snapshotter.Damage{
		{Kind: snapshotter.DamagedPackfile, File: "c0ffee", Text: "3 blobs are not what they were", Found: now.Add(-2 * time.Hour), Blobs: 3, Repair: "nobody has <it>",
			Uses: []snapshotter.Use{use("/docs/<b>.txt", "content"), use("/secret.txt", "content"), use("/", "directory"), use("", "header")}},
	}
	page = s.as("alice").want("/verification")
	contains(t, page, "that concerns your files", "/docs/&lt;b&gt;.txt", "content, 6 B, in 2 snapshots", "/secret.txt",
		`href="/history/docs/%3Cb%3E.txt"`, "/browse/.snapshots/"+first, "directory, in 2 snapshots")
	lacks(t, page, "c0ffee", "3 blobs", "nobody has", "gateway scrub")
	contains(t, s.as("alice").want("/"), "something that concerns your files is damaged")
	page = s.as("part").want("/verification")
	contains(t, page, "/&lt;b&gt;.txt", "what leads to your files")
	lacks(t, page, "/docs/", "secret", "c0ffee", "directory")
	if n := strings.Count(page, "what leads to your files"); n != 1 {
		t.Errorf("what leads to the files is told %d times", n)
	}
	const concern, unsure = "No damage is known that concerns your files.", "whether it concerns your files is not known"
	b := s.as("stranger")
	page = b.want("/verification")
	contains(t, page, concern)
	lacks(t, page, unsure, ".txt", "c0ffee", "Found")
	lacks(t, b.want("/"), "damage")
	b = s.as("drop") // nobody looks for it, as it may not
	page = b.want("/verification")
	contains(t, page, "There is damage in the store; "+unsure)
	lacks(t, page, concern, ".txt", "c0ffee", "Found")
	contains(t, b.want("/"), "there is damage in the store; "+unsure)
	page = s.as("ops").want("/verification")
	contains(t, page, "c0ffee", "3 blobs are not what they were", "nobody has &lt;it&gt;", "main:/docs/&lt;b&gt;.txt", "main:/secret.txt", "gateway scrub --repair")
	contains(t, s.as("ops").want("/"), "something is damaged in the store")

	var many []snapshotter.Use
	for range usesMost + 5 {
		many = append(many, use("/"+strings.Repeat("x", 10), "content"))
	}
	known[0].State.Damage[0].Uses = many
	contains(t, s.as("alice").want("/verification"), "And 5 more")

	// What is not listed, or of nobody known, may be anybody's.
	b = s.as("stranger")
	listed, packfile := []snapshotter.Use{use("/secret.txt", "content")}, snapshotter.DamagedPackfile
	for name, tt := range map[string]struct {
		state  snapshotter.ScrubState
		unsure bool
	}{
		"all of it is another's":   {snapshotter.ScrubState{Damage: []snapshotter.Damage{{Kind: packfile, Blobs: 1, Uses: listed}}}, false},
		"nothing needs it":         {snapshotter.ScrubState{Damage: []snapshotter.Damage{{Kind: packfile}}}, false},
		"files are not listed":     {snapshotter.ScrubState{More: 98765}, true},
		"uses are not listed":      {snapshotter.ScrubState{Damage: []snapshotter.Damage{{Kind: packfile, Blobs: 1, Uses: listed, More: 98765}}}, true},
		"uses are not known":       {snapshotter.ScrubState{Damage: []snapshotter.Damage{{Kind: packfile, Blobs: 1}}}, true},
		"a state of no snapshot":   {snapshotter.ScrubState{Damage: []snapshotter.Damage{{Kind: snapshotter.DamagedState}}}, true},
		"a snapshot of what share": {snapshotter.ScrubState{Damage: []snapshotter.Damage{{Kind: snapshotter.DamagedState, Uses: []snapshotter.Use{{What: "state"}}}}}, true},
	} {
		known[0].State = tt.state
		known[0].State.Store, known[0].State.Files = "id", 1
		page, line := b.want("/verification"), b.want("/")
		if got := strings.Contains(page, unsure); got != tt.unsure || strings.Contains(page, concern) == got || strings.Contains(line, unsure) != got {
			t.Errorf("%s: that it is not known is told: %v, want %v\n%s", name, got, tt.unsure, page)
		}
		lacks(t, page+line, "secret", "98765", "98,765")
	}

	// Of a store that cannot be asked it is not said that all is well.
	known[0].State = snapshotter.ScrubState{Store: "id", Files: 1, Fresh: 1}
	known[1] = Verification{Store: "offsite", Others: true, Err: errors.New("no <such> luck")}
	b = s.as("ops")
	page = b.want("/verification")
	contains(t, page, "Store offsite", "What is known of it could not be read: no &lt;such&gt; luck")
	lacks(t, page, "Nothing was read back yet", "gateway scrub")
	contains(t, b.want("/"), "what is known of store offsite could not be read")
	lacks(t, s.as("alice").want("/"), "offsite", "could not be read")
}
