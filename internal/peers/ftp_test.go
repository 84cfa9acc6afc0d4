//go:build peers

package peers

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

func ftpClients() []client {
	return []client{
		ftpLftp(clear), ftpLftp(explicit), ftpCurl(clear), ftpCurl(explicit), ftpCurl(implicit), ncftp(), tnftp(),
		ftplib(clear), ftplib(explicit), ftpWget(clear), ftpWget(explicit), ftpRclone(clear), ftpRclone(explicit),
	}
}

// mode is how an FTP connection is encrypted.
type mode string

const (
	clear    mode = ""
	explicit mode = "TLS"
	implicit mode = "implicit TLS"
)

// row is the beginning of a client's row.
func (m mode) row(name, program string) client {
	c := client{name: strings.TrimSpace(name + " " + string(m)), program: program, logins: "ftps"}
	if m == clear {
		c.logins = "ftp"
	}
	return c
}

// ftpPort is the gateway's port for a mode.
func (e *env) ftpPort(m mode) int {
	if m == implicit {
		return e.g.FTP.ImplicitPort
	}
	return e.g.FTP.Port
}

// ftpURL is the URL of a remote name, without user and password.
func (e *env) ftpURL(m mode, scheme, remote string) string {
	u := url.URL{Scheme: scheme, Host: fmt.Sprintf("127.0.0.1:%d", e.ftpPort(m)), Path: remote}
	return u.String()
}

// fixed is an action by a command of a client's own language, in which <1> and <2> stand
// for the names.
func fixed(run func(e *env, commands string) (string, error), format string) action {
	return func(e *env, from, to string) error {
		_, err := run(e, strings.NewReplacer("<1>", quote(from), "<2>", quote(to)).Replace(format))
		return err
	}
}

// download is fixed for transfers from the gateway.
func (a action) download() transfer {
	return func(e *env, local, remote string) error { return a(e, remote, local) }
}

func ftpLftp(m mode) client {
	args := func(e *env, commands string) program {
		setup := fmt.Sprintf(`set ssl:ca-file %s; set ftp:ssl-force yes; set ftp:ssl-protect-data yes; `, e.g.FTP.Certificate)
		if m == clear {
			setup = `set ftp:ssl-allow no; `
		}
		setup += fmt.Sprintf(`set net:max-retries 1; set net:timeout 20; set cmd:fail-exit yes; set xfer:clobber yes; open -p %d -u %s,%s ftp://127.0.0.1; `,
			e.ftpPort(m), e.user, quote(e.g.Client.Password))
		return program{name: "lftp", args: []string{"--norc", "-c", setup + commands}}
	}
	run := func(e *env, commands string) (string, error) { return e.start(args(e, commands), "") }
	do := func(format string) action { return fixed(run, format) }
	up, down := transfer(do(`put <1> -o <2>`)), do(`get <1> -o <2>`).download()
	again := func(e *env, local, remote string, _ int64) error { return do(`put -c <1> -o <2>`)(e, local, remote) }
	in := func(e *env, remote string) program { return args(e, "put /dev/stdin -o "+quote(remote)) }
	c := m.row("lftp", "lftp")
	c.cells = map[operation]cell{
		put: can(putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume: does("put -c", resumeKilled(in, again)), resumeGet: does("get -c", resumeGetWith(do(`get -c <1> -o <2>`).download())),
		rename: can(renameWith(do(`mv <1> <2>`))), renameOver: can(renameOverWith(do(`mv <1> <2>`))),
		setAttr: does("put sets the time, by MFMT; chmod", setAttrWith(func(e *env, remote, _ string) error {
			_, err := run(e, fmt.Sprintf("put %s -o %s; chmod 640 %s", e.agedFile("f", 0o600), remote, remote))
			return err
		}, 0o640, true)),
		mkdir: can(mkdirWith(do(`mkdir <1>`))), remove: can(removeWith(do(`rm <1>`))),
		trees: does("mirror -R and mirror, with --delete and --parallel=4", treesWith(
			transfer(do(`mirror -R --delete --parallel=4 <1> <2>`)), do(`mirror --delete --parallel=4 <1> <2>`).download(), true)),
		abort: can(killWith(in)), history: can(historyWith(down)),
		list: can(listWith(func(e *env, dir string) (string, error) { return run(e, "cls -1 "+dir) })),
	}
	return c
}

func ftpCurl(m mode) client {
	args := func(e *env, remote string, more ...string) program {
		scheme := "ftp"
		common := []string{"-q", "-sS", "--user", e.user + ":" + e.g.Client.Password, "--connect-timeout", "10"}
		switch m {
		case explicit:
			common = append(common, "--ssl-reqd", "--cacert", e.g.FTP.Certificate)
		case implicit:
			scheme = "ftps"
			common = append(common, "--cacert", e.g.FTP.Certificate)
		}
		return program{name: "curl", args: append(append(common, more...), e.ftpURL(m, scheme, remote))}
	}
	up := func(more ...string) transfer {
		return func(e *env, local, remote string) error {
			_, err := e.start(args(e, remote, append(more, "-T", local)...), "")
			return err
		}
	}
	down := func(more ...string) transfer {
		return func(e *env, local, remote string) error {
			_, err := e.start(args(e, remote, append(more, "-o", local)...), "")
			return err
		}
	}
	do := func(commands ...string) action {
		return func(e *env, from, to string) error {
			more := []string{"--head"} // nothing is transferred
			for _, c := range commands {
				more = append(more, "-Q", strings.NewReplacer("<1>", from, "<2>", to).Replace(c))
			}
			_, err := e.start(args(e, "/", more...), "")
			return err
		}
	}
	again := func(e *env, local, remote string, _ int64) error { return up("-C", "-")(e, local, remote) }
	in := func(e *env, remote string) program { return args(e, remote, "-T", "-") }
	c := m.row("curl", "curl")
	c.cells = map[operation]cell{
		put: can(putWith(up())), get: can(getWith(down())), overwrite: can(overwriteWith(up())),
		resume: does("-C -", resumeKilled(in, again)), resumeGet: does("-C -", resumeGetWith(down("-C", "-"))),
		rename: does("-Q", renameWith(do("RNFR <1>", "RNTO <2>"))), renameOver: does("-Q", renameOverWith(do("RNFR <1>", "RNTO <2>"))),
		setAttr: does("-Q with SITE CHMOD and MFMT", setAttrWith(do("SITE CHMOD 640 <1>", "MFMT 20210304050607 <1>"), 0o640, true)),
		mkdir: does("--ftp-create-dirs, and -Q", func(e *env) error {
			local, data := e.file("f", 1000)
			remote := path.Join(e.dir, "one/two three/f")
			return errors.Join(up("--ftp-create-dirs")(e, local, remote), e.holds(remote, data), mkdirWith(do("MKD <1>"))(e))
		}),
		remove: does("-Q", removeWith(do("DELE <1>"))), trees: cannot("curl transfers files that are named"),
		abort: can(killWith(in)), history: can(historyWith(down())),
		list: does("--list-only", listWith(func(e *env, dir string) (string, error) {
			return e.start(args(e, dir+"/", "--list-only"), "")
		})),
	}
	return c
}

func ncftp() client {
	args := func(e *env, name string, more ...string) program {
		common := []string{"-u", e.user, "-p", e.g.Client.Password, "-P", fmt.Sprint(e.ftpPort(clear))}
		return program{name: name, args: append(common, more...)}
	}
	run := func(e *env, commands string) (string, error) {
		return e.start(args(e, "ncftp", "127.0.0.1"), commands+"\nquit\n")
	}
	do := func(format string) action { return fixed(run, format) }
	up := func(e *env, local, remote string) error {
		_, err := e.start(args(e, "ncftpput", "-C", "127.0.0.1", local, remote), "")
		return err
	}
	again := func(e *env, local, remote string, _ int64) error {
		_, err := e.start(args(e, "ncftpput", "-z", "-s", "127.0.0.1", path.Dir(remote), local), "")
		return err
	}
	down := func(more ...string) transfer {
		return func(e *env, local, remote string) error {
			_, err := e.start(args(e, "ncftpget", append(more, "-C", "127.0.0.1", remote, local)...), "")
			return err
		}
	}
	regain := func(e *env, local, remote string) error {
		_, err := e.start(args(e, "ncftpget", "-z", "127.0.0.1", filepath.Dir(local), remote), "")
		return err
	}
	in := func(e *env, remote string) program { return args(e, "ncftpput", "-c", "127.0.0.1", remote) }
	c := clear.row("ncftp", "ncftpput")
	c.cells = map[operation]cell{
		put: does("ncftpput", putWith(up)), get: does("ncftpget", getWith(down())), overwrite: does("ncftpput", overwriteWith(up)),
		resume: does("ncftpput -z -s; without -s, sendfile sends the file from its start", resumeKilled(in, again)), resumeGet: does("ncftpget -z", resumeGetWith(regain)),
		rename: can(renameWith(do(`rename <1> <2>`))), renameOver: can(renameOverWith(do(`rename <1> <2>`))),
		setAttr: does("ncftpput sets the time; chmod", setAttrWith(func(e *env, remote, _ string) error {
			return errors.Join(up(e, e.agedFile("f", 0o600), remote), do("chmod 640 <1>")(e, remote, ""))
		}, 0o640, true)),
		mkdir: can(mkdirWith(do(`mkdir <1>`))), remove: can(removeWith(do(`rm <1>`))),
		trees: does("ncftpput -R and ncftpget -R", treesWith(func(e *env, local, remote string) error {
			_, err := e.start(args(e, "ncftpput", "-R", "127.0.0.1", path.Dir(remote), local), "")
			return err
		}, func(e *env, local, remote string) error {
			_, err := e.start(args(e, "ncftpget", "-Z", "-R", "127.0.0.1", filepath.Dir(local), remote), "")
			return err
		}, false)),
		abort: does("ncftpput -c", killWith(in)), history: can(historyWith(down())),
		list: does("ncftpls", listWith(func(e *env, dir string) (string, error) {
			return e.start(args(e, "ncftpls", "-1", "ftp://127.0.0.1"+dir+"/"), "")
		})),
	}
	return c
}

func tnftp() client {
	run := func(e *env, commands string) (string, error) {
		script := fmt.Sprintf("open 127.0.0.1 %d\nuser %s %s\n%s\nquit\n", e.ftpPort(clear), e.user, quote(e.g.Client.Password), commands)
		return e.start(program{name: "tnftp", args: []string{"-n", "-i", "-V"}}, script)
	}
	do := func(format string) action { return fixed(run, format) }
	up, down := transfer(do(`put <1> <2>`)), do(`get <1> <2>`).download()
	again := func(e *env, local, remote string, kept int64) error {
		return do(fmt.Sprintf("restart %d\nput <1> <2>", kept))(e, local, remote)
	}
	in := func(e *env, remote string) program {
		u := url.URL{Scheme: "ftp", User: url.UserPassword(e.user, e.g.Client.Password), Host: fmt.Sprintf("127.0.0.1:%d", e.ftpPort(clear)), Path: remote}
		return program{name: "tnftp", args: []string{"-V", "-u", u.String(), "-"}}
	}
	c := clear.row("tnftp", "tnftp")
	c.cells = map[operation]cell{
		put: can(putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume: does("restart, put", resumeKilled(in, again)), resumeGet: does("reget", resumeGetWith(do(`reget <1> <2>`).download())),
		rename: can(renameWith(do(`rename <1> <2>`))), renameOver: can(renameOverWith(do(`rename <1> <2>`))),
		setAttr: does("chmod; tnftp cannot set times", setAttrWith(do("chmod 640 <1>"), 0o640, false)),
		mkdir:   can(mkdirWith(do(`mkdir <1>`))), remove: can(removeWith(do(`delete <1>`))),
		trees: cannot("tnftp transfers files that are named"), abort: does("tnftp -u", killWith(in)), history: can(historyWith(down)),
		list: does("nlist", listWith(func(e *env, dir string) (string, error) { return run(e, "nlist "+dir) })),
	}
	return c
}

func ftplib(m mode) client {
	args := func(e *env, more ...string) (program, error) {
		script, err := filepath.Abs("testdata/ftplib_client.py")
		ca := e.g.FTP.Certificate
		if m == clear {
			ca = ""
		}
		common := []string{script, fmt.Sprint(e.ftpPort(m)), ca, e.user, e.g.Client.Password}
		return program{name: paramikoPython, vars: []string{"PYTHONDONTWRITEBYTECODE=1"}, args: append(common, more...)}, err
	}
	run := func(e *env, more ...string) (string, error) {
		p, err := args(e, more...)
		if err != nil {
			return "", err
		}
		return e.start(p, "")
	}
	verb := func(name string) action {
		return func(e *env, from, to string) error {
			_, err := run(e, name, from, to)
			return err
		}
	}
	up := transfer(verb("put"))
	down := transfer(verb("get"))
	by, again := "STOR after REST", verb("restart")
	if m != clear {
		by, again = "APPE", verb("append")
	}
	in := func(e *env, remote string) program {
		p, err := args(e, "stream", remote)
		if err != nil {
			e.t.Fatal(err)
		}
		return p
	}
	c := m.row("Python ftplib", paramikoPython)
	c.cells = map[operation]cell{
		put: can(putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)),
		resume:    does(by, resumeKilled(in, func(e *env, local, remote string, _ int64) error { return again(e, local, remote) })),
		resumeGet: can(resumeGetWith(transfer(verb("reget")))),
		rename:    can(renameWith(verb("rename"))), renameOver: can(renameOverWith(verb("rename"))),
		setAttr: does("SITE CHMOD and MFMT", setAttrWith(verb("setattr"), 0o640, true)),
		mkdir:   can(mkdirWith(verb("mkdir"))), remove: can(removeWith(verb("remove"))), trees: cannot("ftplib is a library for single files"),
		abort: can(killWith(in)), history: can(historyWith(down)),
		list: does("MLSD and NLST", listWith(func(e *env, dir string) (string, error) { return run(e, "list", dir) })),
	}
	return c
}

func ftpWget(m mode) client {
	run := func(e *env, remote string, more ...string) (string, error) {
		scheme := "ftp"
		common := []string{"--no-config", "-nv", "--user=" + e.user, "--password=" + e.g.Client.Password, "--tries=1", "--timeout=20"}
		if m != clear {
			scheme = "ftps"
			common = append(common, "--ca-certificate="+e.g.FTP.Certificate)
		}
		return e.start(program{name: "wget", args: append(append(common, more...), e.ftpURL(m, scheme, remote))}, "")
	}
	down := func(more ...string) transfer {
		return func(e *env, local, remote string) error {
			_, err := run(e, remote, append(more, "-O", local)...)
			return err
		}
	}
	regain := func(e *env, local, remote string) error {
		_, err := run(e, remote, "--continue", "-P", filepath.Dir(local))
		return err
	}
	file := regexp.MustCompile(`>(file-\d+)<`)
	no := cannot("wget only downloads")
	c := m.row("wget", "wget")
	c.cells = map[operation]cell{
		put: no, get: can(getWith(down())), overwrite: no, resume: no, resumeGet: does("--continue", resumeGetWith(regain)),
		rename: no, renameOver: no, setAttr: no, mkdir: no, remove: no, abort: no, history: can(historyWith(down())),
		trees: does("-r, downloading", treesWith(upTree, func(e *env, local, remote string) error {
			_, err := run(e, remote+"/", "-r", "-nH", "--cut-dirs=2", "--restrict-file-names=nocontrol", "-P", local)
			return err
		}, false)),
		list: can(listWith(func(e *env, dir string) (string, error) {
			page, err := run(e, dir+"/", "-O", "-")
			var names []string
			for _, found := range file.FindAllStringSubmatch(page, -1) {
				names = append(names, found[1])
			}
			return strings.Join(names, "\n"), err
		})),
	}
	return c
}

func ftpRclone(m mode) client {
	args := func(e *env, more ...string) program {
		common := []string{"--config", "/dev/null", "--retries", "1", "--low-level-retries", "1", "--contimeout", "10s", "--timeout", "20s",
			"--transfers", "2", "--checkers", "2", "--buffer-size", "0"}
		return program{name: "rclone", vars: []string{"SSL_CERT_FILE=" + e.g.FTP.Certificate}, args: append(common, more...)}
	}
	run := func(e *env, more ...string) (string, error) { return e.start(args(e, more...), "") }
	var password string // as rclone wants it
	at := func(e *env, remote string) string {
		if password == "" {
			out, err := run(e, "obscure", e.g.Client.Password)
			if err != nil {
				e.t.Fatal(err)
			}
			password = strings.TrimSpace(out)
		}
		return fmt.Sprintf(":ftp,host=127.0.0.1,port=%d,user=%s,pass=%s,explicit_tls=%t:%s", e.ftpPort(m), e.user, password, m != clear, remote)
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
	all := func(e *env, from, to string, words ...[]string) error {
		for _, w := range words {
			if _, err := run(e, append(w, from, to)...); err != nil {
				return err
			}
		}
		return nil
	}
	sync := []string{"sync", "--create-empty-src-dirs"}
	whole := cannot("rclone transfers a file from its start")
	c := m.row("rclone", "rclone")
	c.cells = map[operation]cell{
		put: can(putWith(up)), get: can(getWith(down)), overwrite: can(overwriteWith(up)), resume: whole, resumeGet: whole,
		rename: does("moveto", renameWith(move)), renameOver: does("moveto", renameOverWith(move)),
		setAttr: does("the time, by MFMT; rclone cannot set modes over FTP", setAttrWith(func(e *env, remote, _ string) error {
			return up(e, e.agedFile("f", 0o644), remote)
		}, 0o644, true)),
		mkdir: can(mkdirWith(one("mkdir"))), remove: does("deletefile", removeWith(one("deletefile"))),
		trees: does("copy, sync and check --download, and sync back", treesWith(
			func(e *env, local, remote string) error {
				return all(e, local, at(e, remote), []string{"copy"}, sync, []string{"check", "--download"})
			},
			func(e *env, local, remote string) error { return all(e, at(e, remote), local, sync) }, true)),
		abort: does("rcat", killWith(func(e *env, remote string) program { return args(e, "rcat", at(e, remote)) })),
		list:  can(listWith(func(e *env, dir string) (string, error) { return run(e, "lsf", at(e, dir)) })), history: can(historyWith(down)),
	}
	return c
}
