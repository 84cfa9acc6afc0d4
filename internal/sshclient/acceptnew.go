package sshclient

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"
)

// acceptNew adds the key of a hop to its first known_hosts file, which is made (0600, its
// directory 0700) when missing. The file is locked and the decision taken again under the
// lock: of two connections that see two keys, one is refused.
func (d *Dialer) acceptNew(h *hop, key ssh.PublicKey) error {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	if len(h.knownHosts) == 0 {
		e := configError("no known_hosts file to add the key of %s to", h)
		e.Hint = "name one with known_hosts, or take UserKnownHostsFile none out of ssh_config"
		return e
	}
	file := h.knownHosts[0]
	d.appendMu.Lock()
	defer d.appendMu.Unlock()
	added, err := h.append(file, key)
	if err != nil {
		if KindOf(err) != KindOther {
			return err
		}
		return configError("adding to known_hosts: %w", err)
	}
	if added {
		d.log.Warn("new host key is trusted from now on", "host", h.String(), "fingerprint", ssh.FingerprintSHA256(key), "file", file)
	}
	return nil
}

// append adds a line for the hop unless it is there by now.
func (h *hop) append(file string, key ssh.PublicKey) (added bool, err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return false, err
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // and releases the lock
	if err := lockFile(f, lockLimit); err != nil {
		return false, fmt.Errorf("locking %s: %w", file, err)
	}
	known, err := h.readKnownHosts()
	if err != nil {
		return false, err
	}
	if err := known.verify(h, key); KindOf(err) != KindHostKeyUnknown || err == nil {
		return false, err
	}
	line, err := h.newLine(f, key)
	if err != nil {
		return false, err
	}
	// One write: another program that does not lock sees a whole line or none.
	if _, err := f.WriteString(line); err != nil {
		return false, err
	}
	return true, syncFile(f)
}

// syncFile makes what was written durable. /dev/null cannot, which is there to keep no key, and
// some network file systems do it on their own terms.
func syncFile(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

const (
	// lockLimit bounds waiting for another process that appends: that takes milliseconds.
	lockLimit = 10 * time.Second
	// lockEvery is how often the lock is tried.
	lockEvery = 10 * time.Millisecond
)

// lockFile locks a file against other processes and other descriptors of this one, until it
// is closed. Waiting in the kernel could not be given up.
func lockFile(f *os.File, limit time.Duration) error {
	for end := time.Now().Add(limit); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		held := errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR)
		if !held || time.Now().After(end) {
			return err
		}
		<-time.After(lockEvery)
	}
}

// newLine is the line to append to f, which may lack its last newline.
func (h *hop) newLine(f *os.File, key ssh.PublicKey) (string, error) {
	name := h.knownName()
	if h.hashKnownHosts {
		name = knownhosts.HashHostname(name)
	}
	line := name + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + "\n"
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return line, err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, info.Size()-1); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if last[0] != '\n' {
		line = "\n" + line
	}
	return line, nil
}
