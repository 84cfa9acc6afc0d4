package websrv

import (
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
		c.Viewer.Verification = func() []Verification { return known }
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
	for _, user := range []string{"stranger", "drop"} {
		b := s.as(user)
		page = b.want("/verification")
		contains(t, page, "No damage is known that concerns your files.")
		lacks(t, page, ".txt", "c0ffee", "Found")
		lacks(t, b.want("/"), "damaged")
	}
	page = s.as("ops").want("/verification")
	contains(t, page, "c0ffee", "3 blobs are not what they were", "nobody has &lt;it&gt;", "main:/docs/&lt;b&gt;.txt", "main:/secret.txt", "gateway scrub --repair")
	contains(t, s.as("ops").want("/"), "something is damaged in the store")

	var many []snapshotter.Use
	for range usesMost + 5 {
		many = append(many, use("/"+strings.Repeat("x", 10), "content"))
	}
	known[0].State.Damage[0].Uses = many
	contains(t, s.as("alice").want("/verification"), "And 5 more")
}
