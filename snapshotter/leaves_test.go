package snapshotter_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// TestIndexEqualsKloset compares kloset's index of a store as this process has made it
// while it committed, as a cold start makes it, and as kloset itself makes it.
func TestIndexEqualsKloset(t *testing.T) {
	for name, removed := range map[string]bool{"commits": false, "with a snapshot removed": true} {
		t.Run(name, func(t *testing.T) {
			cfg := storetest.Config(t.TempDir())
			st := storetest.Open(t, cfg)
			r := &rig{Snapshotter: newSnapshotter(t, st), t: t, store: st}
			var id snapshotter.ID
			for i := range 20 {
				old := id
				id = r.commit(id, put("/", dir(i)), put("/f", file(uint64(i+100), fmt.Sprint(i))))
				if removed && i == 10 {
					if err := st.Repository().DeleteSnapshot([32]byte(old)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := r.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			cold := cfg
			cold.CacheDir = filepath.Join(t.TempDir(), "cache")
			storetest.Open(t, cold)

			dir := t.TempDir()
			theirs, err := caching.NewSQLState(dir, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Repository().RebuildStateWithCache(theirs); err != nil {
				t.Fatal(err)
			}
			want := indexRows(t, dir)
			for how, cfg := range map[string]store.Config{"warm": cfg, "cold": cold} {
				dirs, err := filepath.Glob(filepath.Join(cfg.CacheDir, caching.CACHE_VERSION, "store", "*"))
				if err != nil || len(dirs) != 1 {
					t.Fatalf("%d indexes, %v", len(dirs), err)
				}
				if d := cmp.Diff(want, indexRows(t, dirs[0])); d != "" {
					t.Errorf("%s index (-kloset +ours):\n%s", how, d)
				}
			}
		})
	}
}

// indexRows lists all that is in an index.
func indexRows(t *testing.T, dir string) (out []string) {
	t.Helper()
	db, err := sqlite.New(dir, "state.db", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, query := range []string{
		"SELECT mac, 0, '', payload FROM states ORDER BY mac",
		"SELECT mac, 0, '', payload FROM packfiles ORDER BY mac",
		"SELECT mac, type, packfile, payload FROM deltas ORDER BY type, mac, packfile",
		"SELECT mac, type, '', payload FROM deleteds ORDER BY type, mac",
	} {
		rows, err := db.Query(query)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var mac, pack string
			var typ int
			var payload []byte
			if err := rows.Scan(&mac, &typ, &pack, &payload); err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%s %d %s %x", mac, typ, pack, payload))
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
	return out
}
