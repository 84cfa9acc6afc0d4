//go:build peers

package peers

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

func psftp() client {
	run := func(e *env, commands string) (string, error) {
		script := filepath.Join(e.local, "script")
		if err := os.WriteFile(script, []byte(commands+"\n"), 0o600); err != nil {
			return "", err
		}
		args := []string{"-batch", "-P", fmt.Sprint(e.port), "-l", e.user, "-pw", e.g.Client.Password, "-b", script}
		for _, f := range e.g.Client.Fingerprints() {
			args = append(args, "-hostkey", f)
		}
		return e.run("", nil, "psftp", append(args, "127.0.0.1")...)
	}
	command := func(format string) action {
		return func(e *env, from, to string) error {
			args := []any{from, to}
			_, err := run(e, fmt.Sprintf(format, args[:strings.Count(format, "%")]...))
			return err
		}
	}
	up := transfer(command(`put "%s" "%s"`))
	again := transfer(command(`reput "%s" "%s"`))
	down := func(e *env, local, remote string) error { return command(`get "%s" "%s"`)(e, remote, local) }
	return client{name: "PuTTY psftp", program: "psftp", cells: map[operation]cell{
		put: does("with a password", putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume: does("by reput", resumeWith(up, again)), rename: can(renameWith(command(`mv "%s" "%s"`))),
		renameOver: refused("the client sends a plain rename, which never replaces a file", renameOverRefused(command(`mv "%s" "%s"`))),
		setAttr:    does("chmod; psftp cannot set times", setAttrWith(command(`chmod 640 "%s"`), 0o640, false)),
		mkdir:      can(mkdirWith(command(`mkdir "%s"`))), remove: can(removeWith(command(`del "%s"`))),
		symlink: cannot("psftp has no command for it"), abort: can(abortWith(up)),
		list:    can(listWith(func(e *env, dir string) (string, error) { return run(e, "ls "+dir) })),
		history: can(historyWith(down)),
	}}
}

func rclone() client {
	run := func(e *env, args ...string) (string, error) {
		common := []string{"--config", "/dev/null", "--retries", "1", "--low-level-retries", "1", "--contimeout", "10s", "--timeout", "20s"}
		return e.run("", nil, "rclone", append(common, args...)...)
	}
	at := func(e *env, remote string) string {
		return fmt.Sprintf(":sftp,host=127.0.0.1,port=%d,user=%s,key_file=%s:%s", e.port, e.user, e.g.Client.KeyFile, remote)
	}
	up := func(e *env, local, remote string) error {
		_, err := run(e, "copyto", local, at(e, remote))
		return err
	}
	down := func(e *env, local, remote string) error {
		_, err := run(e, "copyto", at(e, remote), local)
		return err
	}
	move := func(e *env, from, to string) error {
		_, err := run(e, "moveto", at(e, from), at(e, to))
		return err
	}
	one := func(verb string) action {
		return func(e *env, name, _ string) error {
			_, err := run(e, verb, at(e, name))
			return err
		}
	}
	return client{name: "rclone", program: "rclone", cells: map[operation]cell{
		put: can(putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume: cannot("rclone sends a file from its start"), rename: can(renameWith(move)), renameOver: can(renameOverWith(move)),
		setAttr: does("the time; rclone cannot set modes over SFTP", setAttrWith(func(e *env, remote, _ string) error {
			return up(e, e.agedFile("f", 0o644), remote)
		}, 0o644, true)),
		mkdir: can(mkdirWith(one("mkdir"))), remove: can(removeWith(one("deletefile"))), symlink: cannot("rclone makes no links over SFTP"),
		abort: can(abortWith(up)), list: can(listWith(func(e *env, dir string) (string, error) { return run(e, "lsf", at(e, dir)) })),
		history: can(historyWith(down)),
	}}
}

// paramikoPython is Debian's Python, which has Debian's paramiko.
const paramikoPython = "/usr/bin/python3"

func paramiko() client {
	run := func(e *env, args ...string) (string, error) {
		script, err := filepath.Abs("testdata/paramiko_client.py")
		if err != nil {
			return "", err
		}
		full := append([]string{script, fmt.Sprint(e.port), e.user, e.g.Client.KeyFile, strings.Join(e.g.Client.Fingerprints(), ",")}, args...)
		return e.run("", []string{"PYTHONDONTWRITEBYTECODE=1"}, paramikoPython, full...)
	}
	verb := func(name string) action {
		return func(e *env, from, to string) error {
			_, err := run(e, name, from, to)
			return err
		}
	}
	up, again, down := transfer(verb("put")), transfer(verb("resume")), transfer(verb("get"))
	return client{name: "paramiko", program: paramikoPython, cells: map[operation]cell{
		put: can(putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume: does("by opening for appending", resumeWith(up, again)), rename: can(renameWith(verb("rename"))),
		renameOver: does("by posix_rename", renameOverWith(verb("posix_rename"))),
		setAttr:    does("utime and chmod", setAttrWith(verb("setattr"), 0o604, true)),
		mkdir:      can(mkdirWith(verb("mkdir"))), remove: can(removeWith(verb("remove"))), symlink: can(symlinkWith(verb("symlink"))),
		abort: can(abortWith(up)), list: can(listWith(func(e *env, dir string) (string, error) { return run(e, "list", dir) })),
		history: can(historyWith(down)),
	}}
}

// restic keeps a repository on the gateway: its operations are those of a repository.
func restic() client {
	run := func(e *env, args ...string) (string, error) {
		ssh := fmt.Sprintf("sftp.command=ssh %s %s@gateway -s sftp", strings.Join(e.sshArgs(), " "), e.user)
		return e.run("", []string{"RESTIC_PASSWORD=secret"}, "restic", append([]string{"--no-cache", "-o", ssh}, args...)...)
	}
	repo := func(e *env) string { return "sftp:" + e.user + "@gateway:" + path.Join(e.dir, "repo") }
	// backup saves two versions of a directory and has restic check all that it wrote.
	backup := func(e *env) (data []byte, err error) {
		source := filepath.Join(e.local, "source")
		if err := os.Mkdir(source, 0o755); err != nil {
			return nil, err
		}
		if _, err := run(e, "-r", repo(e), "init"); err != nil {
			return nil, err
		}
		for range 2 {
			_, data = e.file("source/f", 3<<20)
			if _, err := run(e, "-r", repo(e), "backup", source); err != nil {
				return nil, err
			}
		}
		_, err = run(e, "-r", repo(e), "check", "--read-data")
		return data, err
	}
	restore := func(e *env, from string, data []byte, args ...string) error {
		out := filepath.Join(e.local, "out")
		if _, err := run(e, append(args, "-r", from, "restore", "latest", "--target", out)...); err != nil {
			return err
		}
		return same(filepath.Join(out, e.local, "source/f"), data)
	}
	internal := cannot("restic names its files itself")
	return client{name: "restic", program: "restic", cells: map[operation]cell{
		put: does("restic init, two backups, check --read-data", func(e *env) error {
			_, err := backup(e)
			return err
		}),
		get: does("restic restore", func(e *env) error {
			data, err := backup(e)
			if err != nil {
				return err
			}
			return restore(e, repo(e), data)
		}),
		overwrite: internal, resume: internal, rename: internal, renameOver: internal, setAttr: internal, mkdir: internal,
		remove: does("restic forget --prune", func(e *env) error {
			if _, err := backup(e); err != nil {
				return err
			}
			if _, err := run(e, "-r", repo(e), "forget", "--keep-last", "1", "--prune"); err != nil {
				return err
			}
			_, err := run(e, "-r", repo(e), "check", "--read-data")
			return err
		}),
		symlink: internal,
		abort: does("a backup whose connection is cut, then unlock, check and another backup", func(e *env) error {
			if _, err := backup(e); err != nil {
				return err
			}
			source := filepath.Join(e.local, "source")
			e.file("source/g", 3*cutSize)
			e.cut()
			if _, err := run(e, "-r", repo(e), "backup", source); err == nil {
				return errors.New("restic does not notice that its connection was cut")
			}
			e.mend()
			for _, args := range [][]string{{"unlock"}, {"check", "--read-data"}, {"backup", source}, {"check", "--read-data"}} {
				if _, err := run(e, append([]string{"-r", repo(e)}, args...)...); err != nil {
					return err
				}
			}
			return nil
		}),
		list: internal,
		history: does("restic --no-lock restore of a repository as it was", func(e *env) error {
			data, err := backup(e)
			if err != nil {
				return err
			}
			if err := e.snapshot(); err != nil {
				return err
			}
			old := "sftp:" + e.user + "@gateway:" + path.Join("/.snapshots/latest", e.dir, "repo")
			return restore(e, old, data, "--no-lock")
		}),
	}}
}
