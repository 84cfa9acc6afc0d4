//go:build peers

package peers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// sshArgs are what every program of OpenSSH gets.
func (e *env) sshArgs() []string {
	return []string{"-F", e.g.Client.SSHConfig, "-o", fmt.Sprintf("Port=%d", e.port)}
}

// sftpBatch runs OpenSSH's sftp on a list of commands; it stops at the first that fails.
func (e *env) sftpBatch(commands ...string) (string, error) {
	args := append(e.sshArgs(), "-q", "-b", "-", e.user+"@gateway")
	return e.run(strings.Join(commands, "\n")+"\n", nil, "sftp", args...)
}

func opensshSFTP() client {
	command := func(format string) action {
		return func(e *env, from, to string) error {
			args := []any{from, to}
			_, err := e.sftpBatch(fmt.Sprintf(format, args[:strings.Count(format, "%")]...))
			return err
		}
	}
	up := func(e *env, local, remote string) error { return command(`put "%s" "%s"`)(e, local, remote) }
	again := func(e *env, local, remote string) error { return command(`reput "%s" "%s"`)(e, local, remote) }
	down := func(e *env, local, remote string) error { return command(`get "%s" "%s"`)(e, remote, local) }
	return client{name: "OpenSSH sftp", program: "sftp", cells: map[operation]cell{
		put: can(putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume: does("by reput", resumeWith(up, again)), rename: can(renameWith(command(`rename "%s" "%s"`))),
		renameOver: does("by posix-rename@openssh.com", renameOverWith(command(`rename "%s" "%s"`))),
		setAttr: does("put -p and chmod", setAttrWith(func(e *env, remote, _ string) error {
			_, err := e.sftpBatch(fmt.Sprintf("put -p %s %s", e.agedFile("f", 0o640), remote), "chmod 600 "+remote)
			return err
		}, 0o600, true)),
		mkdir: can(mkdirWith(command(`mkdir "%s"`))), remove: can(removeWith(command(`rm "%s"`))),
		symlink: can(symlinkWith(command(`symlink "%s" "%s"`))), abort: can(abortWith(up)),
		list:    can(listWith(func(e *env, dir string) (string, error) { return e.sftpBatch("ls -1 " + dir) })),
		history: can(historyWith(down)),
	}}
}

func opensshSCP() client {
	scp := func(e *env, args ...string) error {
		_, err := e.run("", nil, "scp", append(append(e.sshArgs(), "-q"), args...)...)
		return err
	}
	up := func(e *env, local, remote string) error { return scp(e, local, e.user+"@gateway:"+remote) }
	down := func(e *env, local, remote string) error { return scp(e, e.user+"@gateway:"+remote, local) }
	no := cannot("scp only copies")
	return client{name: "OpenSSH scp", program: "scp", cells: map[operation]cell{
		put: does("over SFTP, which is scp's default since OpenSSH 9.0", putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume: no, rename: no, renameOver: no,
		setAttr: does("scp -p", setAttrWith(func(e *env, remote, _ string) error {
			return scp(e, "-p", e.agedFile("f", 0o640), e.user+"@gateway:"+remote)
		}, 0o640, true)),
		mkdir: does("scp -r", mkdirWith(func(e *env, dir, _ string) error {
			local := filepath.Join(e.local, "new dir")
			if err := os.Mkdir(local, 0o755); err != nil {
				return err
			}
			return scp(e, "-r", local, e.user+"@gateway:"+e.dir)
		})),
		remove: no, symlink: cannot("scp follows links"), abort: can(abortWith(up)), list: no, history: can(historyWith(down)),
	}}
}

// mounted runs do with the gateway's tree mounted at a directory.
func (e *env) mounted(do func(mnt string) error) error {
	mnt, err := os.MkdirTemp(e.local, "mnt")
	if err != nil {
		return err
	}
	args := append(e.sshArgs(), "-f", e.user+"@gateway:/", mnt)
	cmd := exec.Command("sshfs", args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	isMounted := func() bool {
		var here, above syscall.Stat_t
		return syscall.Stat(mnt, &here) == nil && syscall.Stat(e.local, &above) == nil && here.Dev != above.Dev
	}
	_, err = proctest.Wait(e.t.Context(), time.Minute, isMounted)
	if err == nil {
		err = do(mnt)
	}
	// A broken mount is unmounted as well; that of a dead sshfs only lazily.
	if _, stop := e.run("", nil, "fusermount3", "-u", "-z", mnt); stop != nil {
		err = errors.Join(err, stop)
	}
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		_ = cmd.Process.Kill()
		<-done
		err = errors.Join(err, errors.New("sshfs does not end"))
	}
	if err != nil {
		return fmt.Errorf("%w\nsshfs: %s", err, out.String())
	}
	return nil
}

// sshfs uses the mount through programs of their own: one that hangs can be killed.
func sshfs() client {
	in := func(name string, args ...string) func(e *env, first, second string) error {
		return func(e *env, first, second string) error {
			return e.mounted(func(mnt string) error {
				names := strings.NewReplacer("LOCAL", first, "REMOTE", mnt+second, "FROM", mnt+first, "TO", mnt+second, "TEXT", first)
				var full []string
				for _, a := range args {
					full = append(full, names.Replace(a))
				}
				_, err := e.run("", nil, name, full...)
				return err
			})
		}
	}
	up := transfer(in("cp", "LOCAL", "REMOTE"))
	down := transfer(in("cp", "REMOTE", "LOCAL"))
	again := func(e *env, local, remote string) error {
		return e.mounted(func(mnt string) error {
			_, err := e.run("", nil, "sh", "-ec", `have=$(stat -c %s "$2"); test "$have" -gt 0; tail -c +$((have + 1)) "$1" >>"$2"`, "sh", local, mnt+remote)
			return err
		})
	}
	return client{name: "sshfs", program: "sshfs", cells: map[operation]cell{
		put: can(putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume: does("by appending to what stat shows", resumeWith(up, again)),
		rename: can(renameWith(action(in("mv", "-n", "FROM", "TO")))), renameOver: can(renameOverWith(action(in("mv", "-f", "FROM", "TO")))),
		setAttr: can(setAttrWith(func(e *env, remote, _ string) error {
			return e.mounted(func(mnt string) error {
				name := mnt + remote
				_, err := e.run("", nil, "sh", "-ec", `chmod 604 "$1"; touch -d 2021-03-04T05:06:07Z "$1"`, "sh", name)
				return err
			})
		}, 0o604, true)),
		mkdir: can(mkdirWith(action(in("mkdir", "FROM")))), remove: can(removeWith(action(in("rm", "FROM")))),
		symlink: can(symlinkWith(action(in("ln", "-s", "TEXT", "TO")))), abort: can(abortWith(up)),
		list: can(listWith(func(e *env, dir string) (out string, err error) {
			err = e.mounted(func(mnt string) error {
				out, err = e.run("", nil, "ls", mnt+dir)
				return err
			})
			return out, err
		})),
		history: can(historyWith(down)),
	}}
}

func lftp() client {
	run := func(e *env, commands string) (string, error) {
		setup := fmt.Sprintf(`set sftp:connect-program "ssh -a -x %s"; set net:max-retries 1; set net:reconnect-interval-base 1; set net:timeout 20; set cmd:fail-exit yes; set sftp:auto-confirm yes; open -u %s,none sftp://gateway; `,
			strings.Join(e.sshArgs(), " "), e.user)
		return e.run("", nil, "lftp", "--norc", "-c", setup+commands)
	}
	command := func(format string) action {
		return func(e *env, from, to string) error {
			args := []any{from, to}
			_, err := run(e, fmt.Sprintf(format, args[:strings.Count(format, "%")]...))
			return err
		}
	}
	up := transfer(command(`put "%s" -o "%s"`))
	again := transfer(command(`put -c "%s" -o "%s"`))
	down := func(e *env, local, remote string) error { return command(`get "%s" -o "%s"`)(e, remote, local) }
	return client{name: "lftp", program: "lftp", cells: map[operation]cell{
		put: can(putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume: does("by put -c", resumeWith(up, again)), rename: can(renameWith(command(`mv "%s" "%s"`))),
		renameOver: refused("the client sends a plain rename, which never replaces a file", renameOverRefused(command(`mv "%s" "%s"`))),
		setAttr: does("put sets the time; chmod", setAttrWith(func(e *env, remote, _ string) error {
			_, err := run(e, fmt.Sprintf("put %s -o %s; chmod 640 %s", e.agedFile("f", 0o600), remote, remote))
			return err
		}, 0o640, true)),
		mkdir: can(mkdirWith(command(`mkdir "%s"`))), remove: can(removeWith(command(`rm "%s"`))),
		symlink: can(symlinkWith(command(`ln -s "%s" "%s"`))), abort: can(abortWith(up)),
		list:    can(listWith(func(e *env, dir string) (string, error) { return run(e, "cls -1 "+dir) })),
		history: can(historyWith(down)),
	}}
}
