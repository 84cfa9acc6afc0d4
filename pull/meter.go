package pull

import (
	"context"
	"io"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// meterBurst is the most that is read at once under a limit, in bytes.
const meterBurst = 64 << 10

// meter is a Remote that counts the bytes of contents that are read, and may limit them, all
// connections taken together.
type meter struct {
	Remote
	limit  *rate.Limiter // nil for none
	report *Report
}

func newMeter(r Remote, bandwidth int64, report *Report) *meter {
	m := &meter{Remote: r, report: report}
	if bandwidth > 0 {
		m.limit = rate.NewLimiter(rate.Limit(bandwidth), int(min(bandwidth, meterBurst)))
	}
	return m
}

// Open implements Remote.
func (m *meter) Open(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	m.report.current.Store(&path)
	rd, err := m.Remote.Open(ctx, path, offset, length)
	if err != nil {
		return nil, err
	}
	r := &meteredReader{ReadCloser: rd, ctx: ctx, limit: m.limit, moved: &m.report.moved}
	switch rd := rd.(type) {
	case Ranger:
		return meteredRanger{r, rd}, nil
	case Stater:
		return meteredStater{r, rd}, nil
	}
	return r, nil
}

type meteredReader struct {
	io.ReadCloser
	ctx   context.Context //nolint:containedctx // that of Open, which the reader keeps to
	limit *rate.Limiter
	moved *atomic.Int64
}

func (r *meteredReader) Read(p []byte) (int, error) {
	if r.limit == nil {
		n, err := r.ReadCloser.Read(p)
		r.moved.Add(int64(n))
		return n, err
	}
	n, err := r.ReadCloser.Read(p[:min(len(p), r.limit.Burst())])
	r.moved.Add(int64(n))
	if n > 0 {
		if werr := r.limit.WaitN(r.ctx, n); werr != nil && err == nil {
			err = werr
		}
	}
	return n, err
}

// meteredRanger is a meteredReader of a Ranger.
type meteredRanger struct {
	*meteredReader
	Ranger
}

// meteredStater is a meteredReader of a Stater.
type meteredStater struct {
	*meteredReader
	Stater
}
