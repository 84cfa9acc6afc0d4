package snapshotter

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
)

// notRegular is the content type that kloset gives to what is no regular file.
const notRegular = "application/x-not-regular-file"

// fileSummary is what an entry that is no directory adds to the summary of its directory.
func fileSummary(e *storedEntry) *vfs.FileSummary {
	f := &vfs.FileSummary{
		Chunks: e.Chunks, Mode: e.FileInfo.Lmode, ModTime: e.FileInfo.LmodTime.Unix(),
		ContentType: e.ContentType, Entropy: e.Entropy,
	}
	if e.FileInfo.Lmode.IsRegular() {
		f.Size = uint64(e.FileInfo.Lsize)
	}
	if e.HasObject() {
		f.Objects = 1
	}
	return f
}

// typeKey is the key of an entry in the index of content types.
func typeKey(contentType, path string) string {
	typ, _, _ := strings.Cut(contentType, ";")
	return "/" + typ + path
}

// summary returns the summary of a directory of the base.
func (h *head) summary(s *Snapshotter, dir string) (*vfs.Summary, error) {
	mac, ok, err := h.summaries.find(s, dir)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: no summary of %q: %w", errInconsistent, dir, fs.ErrNotExist)
	}
	if sum, ok := s.summaries.Get(mac); ok {
		return sum, nil
	}
	sum, err := s.readSummary(mac)
	if err == nil {
		s.summaries.Add(mac, sum)
	}
	return sum, err
}

// readSummary reads a summary.
func (s *Snapshotter) readSummary(mac objects.MAC) (*vfs.Summary, error) {
	data, err := s.blob(resources.RT_VFS_SUMMARY, mac)
	if err != nil {
		return nil, readError("summary", err)
	}
	sum, err := vfs.SummaryFromBytes(data)
	if err != nil {
		return nil, readError("summary", err)
	}
	return sum, nil
}

// putSummary puts a summary that is complete.
func (c *increment) putSummary(dir string, sum *vfs.Summary) error {
	data, err := sum.ToBytes()
	if err != nil {
		return err
	}
	mac := c.w.computeMAC(data)
	c.w.put(resources.RT_VFS_SUMMARY, mac, data)
	c.s.summaries.Add(mac, sum)
	c.summaries.set(dir, mac)
	return nil
}
