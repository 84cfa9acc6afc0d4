package snapshotter

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/store"
)

const (
	// unreadMost is how many files of one run may be unreadable before it gives up.
	unreadMost = 16
	// damageParts is how many parts of a file are named.
	damageParts = 4
)

// read reads back what is planned. What cannot be read is tried again at the end.
func (r *scrubbing) read(ctx context.Context, done map[ledgerKey]bool) error {
	for {
		seen := r.generation()
		plan, err := r.plan(ctx)
		if err != nil {
			return err
		}
		plan = slices.DeleteFunc(plan, func(k ledgerKey) bool { return done[k] })
		r.report.Left = len(plan)
		if len(plan) == 0 {
			break
		}
		for _, k := range plan {
			if err := r.verify(ctx, k); err != nil && !r.aside(ctx, k, err) {
				return err
			}
			done[k] = true
			r.report.Left--
			if err := r.tell(ctx); err != nil {
				return err
			}
			if r.generation() != seen {
				break // what has come goes first
			}
		}
	}
	for k := range maps.Clone(r.unread) {
		delete(r.unread, k)
		if err := r.verify(ctx, k); err != nil && !r.aside(ctx, k, err) {
			return err
		}
	}
	return nil
}

// aside puts a file aside that cannot be read, while the store can be reached. Otherwise it is false: then
// the run ends.
func (r *scrubbing) aside(ctx context.Context, k ledgerKey, cause error) bool {
	if !errors.Is(cause, ErrUnavailable) || len(r.unread) == unreadMost {
		return false
	}
	if r.s.away(ctx) != nil {
		return false
	}
	r.s.log.Warn("a file of the store could not be read", "kind", kindOf(k), "file", hex.EncodeToString(k.mac[:]), "err", cause)
	r.unread[k] = cause
	return true
}

// unreadError names what could not be read; nil when all was.
func (r *scrubbing) unreadError() error {
	keys := slices.SortedFunc(maps.Keys(r.unread), func(a, b ledgerKey) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), slices.Compare(a.mac[:], b.mac[:]))
	})
	if len(keys) == 0 {
		return nil
	}
	r.report.Unread = len(keys)
	files := "1 file"
	if len(keys) > 1 {
		files = fmt.Sprintf("%d files, the first of them", len(keys))
	}
	return fmt.Errorf("%s %w: %s %x, which the next run looks at again: %w", files, ErrUnread, kindOf(keys[0]), keys[0].mac[:], r.unread[keys[0]])
}

// verify reads a file back.
func (r *scrubbing) verify(ctx context.Context, k ledgerKey) error {
	var size int64
	var bad damaged
	var err error
	if k.kind == ledgerState {
		size, bad.text, err = r.verifyState(ctx, k.mac)
	} else {
		size, bad, err = r.verifyPackfile(ctx, k.mac)
	}
	if err != nil {
		return err
	}
	if k.kind == ledgerState {
		r.report.States++
	} else {
		r.report.Packfiles++
	}
	r.report.Bytes += size
	r.state.Read += size
	e := ledgerEntry{r.cfg.Now().UnixNano(), size}
	switch bad.text {
	case "":
		r.mended(k)
	case gone:
		r.mended(k)
		e = ledgerEntry{}
	default:
		r.damaged(k, bad)
		if e.size == 0 {
			e.size = r.size(k)
		}
		if len(r.damage) > r.cfg.damageMost { // which of them are kept changes with what is found
			e.when = suspect
		}
		if err := r.save(ctx); err != nil { // before it counts as read back
			return err
		}
		r.s.failpoint(ScrubFound)
	}
	if err := r.ledger.put(k, e); err != nil {
		return err
	}
	r.s.failpoint(ScrubVerified)
	return nil
}

func (r *scrubbing) verifyState(ctx context.Context, id objects.MAC) (size int64, text string, err error) {
	size, err = r.s.store.VerifyState(ctx, id, r.pace)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, missingText, nil
	case errors.Is(err, store.ErrDamaged):
		return size, "its content is not what was written", nil
	}
	return size, "", err
}

func (r *scrubbing) verifyPackfile(ctx context.Context, mac objects.MAC) (size int64, bad damaged, err error) {
	c, err := r.s.store.VerifyPackfile(ctx, mac, r.pace)
	if err != nil {
		return 0, bad, err
	}
	r.report.Blobs += c.Blobs
	r.state.Blobs += int64(c.Blobs)
	if c.Sound() {
		return c.Bytes, bad, nil
	}
	if c.Missing {
		// Maintenance may have removed it, here or in another process.
		if err := r.refresh(ctx); err != nil {
			return 0, bad, err
		}
		packs, err := r.s.store.PackfilesAdded()
		if err != nil {
			return 0, bad, err
		}
		if _, ok := packs[mac]; !ok {
			return 0, damaged{text: gone}, nil
		}
	}
	// Of one that is missing, there is nothing but its blobs that anybody may need.
	return c.Bytes, damaged{describeCheck(&c), c.Damaged, !c.Missing && (len(c.Parts) > 0 || c.Err != nil)}, nil
}

// describeCheck says what is wrong with a packfile.
func describeCheck(c *store.PackfileCheck) string {
	if c.Missing {
		return missingText
	}
	var parts []string
	if c.Err != nil {
		parts = append(parts, c.Err.Error())
	}
	if n := len(c.Damaged); n > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d blobs are damaged", n, n+c.Blobs))
	}
	if len(c.Parts) > 0 {
		parts = append(parts, strings.Join(c.Parts[:min(len(c.Parts), damageParts)], ", ")+" damaged")
	}
	return strings.Join(parts, "; ")
}

// config reads the store's configuration back.
func (r *scrubbing) config(ctx context.Context) error {
	err := r.s.store.VerifyConfig(ctx)
	switch {
	case err == nil:
		r.mended(configKey())
	case errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrNewerVersion):
		r.damaged(configKey(), damaged{text: err.Error()})
	default:
		return err
	}
	return nil
}
