package snapshotter

import "context"

// What a Difference amounts to, as programs read it.
const (
	Added      = "added"
	Gone       = "removed"
	Changed    = "changed"    // other bytes, another target, another kind
	Attributes = "attributes" // the same bytes
)

// Amounts tells what a difference amounts to; "" for one that nobody wants to see, as that of a
// directory's time. Files with other bytes may have to be told apart by their hashes.
func (s *Snapshotter) Amounts(ctx context.Context, d Difference) (string, error) {
	switch {
	case d.Was == nil:
		return Added, nil
	case d.Now == nil:
		return Gone, nil
	case d.Was.Kind != d.Now.Kind || d.Was.Target != d.Now.Target || d.Was.Size != d.Now.Size:
		return Changed, nil
	case d.Was.Kind == Dir && d.Was.Attr.Mode == d.Now.Attr.Mode && d.Was.Attr.UID == d.Now.Attr.UID && d.Was.Attr.GID == d.Now.Attr.GID:
		return "", nil
	case d.Was.Object == d.Now.Object:
		return Attributes, nil
	}
	was, err := s.Hash(ctx, d.Was.Object)
	if err != nil {
		return "", err
	}
	now, err := s.Hash(ctx, d.Now.Object)
	if err != nil {
		return "", err
	}
	switch {
	case was != now:
		return Changed, nil
	case d.Was.Attr == d.Now.Attr:
		return "", nil
	}
	return Attributes, nil
}

// What happened to an entry that a Query is about, between two snapshots.
const (
	Appeared = "appeared"
	Altered  = "changed"
	Vanished = "vanished"
)

// Event tells what a difference is to whoever looks for q, and of which entry; "" for nothing. Other
// attributes than a query asks for are nothing.
func (s *Snapshotter) Event(ctx context.Context, q *Query, d Difference) (string, *Entry, error) {
	switch before, after := d.Was != nil && q.Matches(d.Path, *d.Was), d.Now != nil && q.Matches(d.Path, *d.Now); {
	case d.Path == q.Path, !before && !after:
		return "", nil, nil
	case !before:
		return Appeared, d.Now, nil
	case !after:
		return Vanished, d.Was, nil
	}
	change, err := s.Amounts(ctx, d)
	if err != nil || change != Changed {
		return "", nil, err
	}
	return Altered, d.Now, nil
}
