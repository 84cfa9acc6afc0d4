package restore

import (
	"context"
	"slices"
	"time"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
)

// withinTimes is a Source whose times the destination can have: others become the nearest, so that what
// is there is compared with what was to be set. The report tells of them.
type withinTimes struct {
	Source
	caps   pull.Capabilities
	report *Report
}

func (s withinTimes) Lstat(ctx context.Context, path string) (snapshotter.Entry, error) {
	e, err := s.Source.Lstat(ctx, path)
	if err != nil {
		return e, err
	}
	return s.within(e), nil
}

func (s withinTimes) ReadDir(ctx context.Context, path, after string, n int) ([]snapshotter.Entry, error) {
	list, err := s.Source.ReadDir(ctx, path, after, n)
	list = slices.Clone(list) // it may be a view's own
	for i, e := range list {
		list[i] = s.within(e)
	}
	return list, err
}

// stands reports whether a time that the destination has may stand for others, which it cannot have: then it does
// not tell versions of a file apart.
func (r *run) stands(t time.Time) bool {
	t = t.Truncate(time.Second)
	return !r.caps.Latest.IsZero() && (!t.After(r.caps.Earliest) || !t.Before(r.caps.Latest))
}

func (s withinTimes) within(e snapshotter.Entry) snapshotter.Entry {
	const day = "2006-01-02"
	switch t := e.Attr.ModTime; {
	case t.Before(s.caps.Earliest):
		e.Attr.ModTime = s.caps.Earliest
		s.report.cannotHave("times before " + s.caps.Earliest.Format(day))
	case t.Truncate(time.Second).After(s.caps.Latest):
		e.Attr.ModTime = s.caps.Latest
		s.report.cannotHave("times after " + s.caps.Latest.Format(day))
	}
	return e
}
