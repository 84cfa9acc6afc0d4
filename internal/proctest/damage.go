package proctest

import (
	"errors"
	"os"
)

// FlipLargest flips a bit in the middle of the largest of some files. In the packfile of a content that is larger than
// all else in it, that is a bit of the content.
func FlipLargest(paths []string) error {
	var largest string
	size := int64(0)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() > size {
			largest, size = path, info.Size()
		}
	}
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, size/2)
	b[0] ^= 1
	if err == nil {
		_, err = f.WriteAt(b, size/2)
	}
	return errors.Join(err, f.Close())
}
