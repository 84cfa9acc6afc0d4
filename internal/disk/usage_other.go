//go:build !linux && !darwin && !freebsd

package disk

// Usage reports the space of the file system that holds path.
func Usage(path string) (Space, error) { return Space{}, ErrUnsupported }
