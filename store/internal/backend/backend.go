package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// The names in a store, as kloset's connectors lay them out.
const (
	ConfigName   = "CONFIG"    // the store's configuration; a store that has it is complete
	PackfilesDir = "packfiles" // packfiles/ab/ab…, by the first byte of the name
	StatesDir    = "states"    // states/ab/ab…
	LocksDir     = "locks"     // locks/ab…
	Buckets      = 256         // below packfiles and states
)

// Bucket returns the directory of the files in dir whose names begin with a byte.
func Bucket(dir string, first byte) string { return fmt.Sprintf("%s/%02x", dir, first) }

// Info describes a file.
type Info struct {
	Name    string // its whole name, as packfiles/ab/ab…
	Size    int64
	ModTime time.Time // by the clock of the machine that it is on
}

// Files are the files of a store. Names are slash-separated, without a leading slash. All
// methods are safe for concurrent use.
type Files interface {
	// Put writes a file, or replaces it, with all of rd. After an error the file is whole, or
	// as it was before. It says how much it has read.
	Put(ctx context.Context, name string, rd io.Reader) (int64, error)
	// Get reads length bytes from offset on, up to the end when length is negative; the file
	// may end before. fs.ErrNotExist comes from here, not from reading.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// Stat describes a file.
	Stat(ctx context.Context, name string) (Info, error)
	// List calls each with the names of the files in dir and below; "" is all. What comes or
	// goes meanwhile may be listed or not. An error of each ends it and is returned. A
	// directory that is not there is empty, or fs.ErrNotExist.
	List(ctx context.Context, dir string, each func(name string) error) error
	// Remove removes a file. Whether one that is not there is fs.ErrNotExist or nil depends
	// on the backend.
	Remove(ctx context.Context, name string) error
}

// Backend is a place for the files of one store.
type Backend interface {
	Files
	// Create lays out an empty store, to which ConfigName is put last. It goes on with what
	// was begun before. Errors: *OccupiedError, ErrOrphaned.
	Create(ctx context.Context) error
	// Sweep removes what Puts have left behind that did not end.
	Sweep(ctx context.Context, now time.Time) error
}

// ErrOrphaned means that a place holds packfiles or states and no configuration: they are
// somebody's, and not to be written over.
var ErrOrphaned = errors.New("it holds packfiles or states but no " + ConfigName)

// OccupiedError says that a place for a new store is used for something else.
type OccupiedError struct {
	Place string
	Name  string // what was found there
}

func (e *OccupiedError) Error() string {
	return fmt.Sprintf("%s is not empty (%q)", e.Place, e.Name)
}

// dirOf returns the directory of a name, "" for one that is at the top.
func dirOf(name string) string { return name[:max(strings.LastIndexByte(name, '/'), 0)] }

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
