package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// The exit statuses.
const (
	statusOK      = 0
	statusFailure = 1
	statusUsage   = 2
	statusPartial = 3 // import, pull, restore, sync, get, find, history: something was left out; status: something is wrong
)

// hintedError is an error with what to try.
type hintedError struct {
	err  error
	hint string // one line each
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// usage is an error in how the command was called.
type usage struct {
	err  error
	hint string
}

func (e *usage) Error() string { return e.err.Error() }
func (e *usage) Unwrap() error { return e.err }

func usageError(c *cobra.Command, err error) *usage {
	prefix := "" // report starts with the program's name
	if c.HasParent() {
		prefix = strings.TrimPrefix(c.CommandPath(), "gateway ") + ": "
	}
	return &usage{
		err:  fmt.Errorf("%s%w", prefix, err),
		hint: fmt.Sprintf("see: %s --help", c.CommandPath()),
	}
}

var (
	// errNoCommand ends a call without a command; the help was printed.
	errNoCommand = errors.New("no command")
	// errPartial ends an import that left files out; they were printed.
	errPartial = errors.New("some files were left out")
)

// exitError is the exit status of a command that the running gateway has run; what it had to say was
// printed.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// report prints an error as "gateway: what: why" and "hint: what to try", and returns the
// exit status.
func (p *program) report(err error) int {
	var list config.Errors
	var u *usage
	var exit exitError
	switch {
	case errors.As(err, &exit):
		return int(exit)
	case errors.Is(err, errNoCommand):
		return statusUsage
	case errors.Is(err, errPartial), errors.Is(err, errUnhealthy):
		p.say(err.Error(), hintFor(err))
		return statusPartial
	case errors.As(err, &list):
		for _, e := range list {
			p.say(e.Error(), e.Hint)
		}
		return statusFailure
	case errors.As(err, &u):
		p.say(u.Error(), u.hint)
		return statusUsage
	}
	p.say(err.Error(), hintFor(err))
	return statusFailure
}

// say prints one error, which may have a text of a server in it. Nothing can be done when standard error is closed.
func (p *program) say(text, hint string) {
	_, _ = fmt.Fprintf(p.stderr, "gateway: %s\n", escaped([]byte(strings.ReplaceAll(text, "\n", "; "))))
	for line := range strings.Lines(hint) {
		_, _ = fmt.Fprintf(p.stderr, "hint: %s\n", escaped([]byte(strings.TrimSuffix(line, "\n"))))
	}
}

// hintFor says what to try about an error: what comes with it, or else what is known
// about its kind.
func hintFor(err error) string {
	var h *hintedError
	var remote *control.RemoteError
	var network *net.OpError
	var ref *snapref.Error
	var unread *store.UnreadCopiesError
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.As(err, &ref):
		return ref.Hint
	case errors.As(err, &remote):
		return remote.Hint
	case errors.As(err, &unread):
		return "put the packfile back, make the copy readable, or run gateway scrub --repair --from STORE; if the disk of the copy is bad for good and there is nothing to repair from, remove the copy: then what was in it counts as lost"
	case store.Hint(err) != "":
		return store.Hint(err)
	case errors.As(err, &network) && errors.Is(err, fs.ErrPermission):
		return "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE: give it, or change listen in the configuration"
	}
	// The first that fits: what is unavailable may look missing from here.
	for _, k := range []struct {
		kind error
		hint string
	}{
		{store.ErrCredentials, "set store.access_key with secret_key_file or secret_key_env, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or make ~/.aws/credentials, or take the role of the machine with store.credentials: iam"},
		{config.ErrSecretKey, "see store.secret_key_file and secret_key_env in the configuration"},
		{store.ErrRefused, "are store.access_key and its secret right, and may they list, read, write and delete in the bucket? on an SFTP server: may the account make files and directories in store.location's directory?"},
		{store.ErrServer, "is the server of store.location up, and can it be reached from here? in S3 see store.use_tls, ca_file and region, too"},
		{vfs.ErrBaseGone, "start once with: gateway serve --leave-out-damaged, which names in the log what must be uploaded again"},
		{vfs.ErrBaseLost, "put the packfiles back, or run gateway scrub --repair --from STORE; without a copy start once with: gateway serve --leave-out-damaged, which names in the log what must be uploaded again"},
		{syscall.ENOSPC, "the disk is full: make room"},
		{syscall.EDQUOT, "a quota of the file system is used up, of its user, directory or dataset: make room, or have it raised"},
		{syscall.EROFS, "the file system is read-only: mount it for writing, or change data_dir or store.location"},
		{fs.ErrPermission, "run the gateway as the user that owns this file, or give the file to that user"},
		{config.ErrPassphrase, "see store.passphrase_file, passphrase_env and passphrase_command in the configuration"},
		{snapshotter.ErrMaintaining, "wait for its end; gateway jobs tells whether the running gateway does it"},
		{snapshotter.ErrForgotten, "gateway scrub reads all of it back, and finds out what is damaged; with the name of the store, unless it is the one that is served"},
		{snapshotter.ErrDoubt, "gateway store check and plakar check tell which snapshots are whole; restore the store's files from a copy, or remove those that cannot be read (gateway scrub --give-up)"},
		{snapshotter.ErrReadable, "only a snapshot is given up whose header a scrub has found damaged or missing (gateway scrub --all), and of which nobody has a copy; gateway prune removes what retention does not keep"},
		{disk.ErrLocked, "another gateway runs on this data_dir: stop it, or give this one another data_dir"},
		{store.ErrUnavailable, "is the store's disk mounted, and may the gateway read and write it?"},
		{store.ErrWrongPassphrase, "check store.passphrase_file (or _env, _command) and store.plaintext; without the passphrase the store was made with nobody can open it"},
		{store.ErrNotExist, "is the store's disk mounted, and store.location right? for the first start, store.create: true makes a store there, as does " + createHint},
		{store.ErrNewerVersion, "use a newer gateway"},
		{vfs.ErrUploadDamaged, "look at the disk of data_dir and put the file back; when that is impossible, start once with: gateway serve --leave-out-damaged, which names in the log what is lost"},
		{store.ErrDamaged, "restore the store's files from a copy; plakar check tells which snapshots are whole"},
		{store.ErrMadeTwice, "run it again: it opens the one that is there"},
		{store.ErrReplaced, "put the store back that was here, or start with a new data_dir when nothing waits in this one"},
		{store.ErrLocked, "another process maintains the store, or writes to it while it is to be maintained: wait for its end; a lock that it left behind expires after 10 minutes"},
		{control.ErrNoServer, "start one with: gateway serve -c FILE"},
		{syscall.EADDRINUSE, "another program has that port, perhaps another gateway: stop it, or change listen in the configuration"},
		{syscall.EADDRNOTAVAIL, "this machine does not have that address: change listen in the configuration"},
		{context.Canceled, ""},
	} {
		if errors.Is(err, k.kind) {
			return k.hint
		}
	}
	return ""
}

func joinOr(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ", ")
}
