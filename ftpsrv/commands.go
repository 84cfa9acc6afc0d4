package ftpsrv

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// spec is a row of the command table.
type spec struct {
	run func(c *conn, cmd command)
	// open: allowed before the login.
	open bool
	// arg: refused without an argument.
	arg  bool
	help string // the syntax, for HELP; "" hides it
}

// maxArg is what fits into a line for the library.
const maxArg = 4000

// commandTable is every command that the server knows.
func commandTable() map[string]spec {
	t := map[string]spec{
		"USER": {run: (*conn).cmdUser, open: true, arg: true, help: "<sp> user name"},
		"PASS": {run: (*conn).cmdPass, open: true, help: "<sp> password"},
		"ACCT": {run: say(codeSuperfluous, "no account is needed"), open: true, help: "<sp> account"},
		"AUTH": {run: (*conn).cmdAuth, open: true, arg: true, help: "<sp> TLS"},
		"PBSZ": {run: (*conn).cmdPbsz, open: true, help: "<sp> 0"},
		"PROT": {run: (*conn).cmdProt, open: true, arg: true, help: "<sp> [ C | P ]"},
		"CCC":  {run: say(codeDenied, "the control connection stays encrypted")},
		"QUIT": {run: (*conn).cmdQuit, open: true, help: ""},
		"NOOP": {run: (*conn).cmdNoop, open: true},
		"SYST": {run: say(codeSystemType, "UNIX Type: L8"), open: true},
		"FEAT": {run: (*conn).cmdFeat, open: true},
		"OPTS": {run: (*conn).cmdOpts, open: true, arg: true, help: "<sp> command [ <sp> options ]"},
		"HELP": {run: (*conn).cmdHelp, open: true, help: "[ <sp> command ]"},
		"CLNT": {run: say(codeOK, "noted"), open: true, help: "<sp> name"},
		"HOST": {run: say(codeParameter, "one server has one name here"), open: true},
		"LANG": {run: (*conn).cmdLang, open: true, help: "[ <sp> EN ]"},
		"REIN": {run: say(codeNotHere, "make a new connection to log in again")},
		"SMNT": {run: say(codeNotHere, "there is nothing to mount")},

		"TYPE": {run: (*conn).cmdType, arg: true, help: "<sp> [ A | I | L 8 ]"},
		"MODE": {run: oneWord("S", "the mode is stream", "only the stream mode (S) is known"), arg: true, help: "<sp> S"},
		"STRU": {run: oneWord("F", "the structure is file", "only the file structure (F) is known"), arg: true, help: "<sp> F"},
		"PASV": {run: (*conn).cmdPasv},
		"EPSV": {run: (*conn).cmdEpsv, help: "[ <sp> 1 | 2 | ALL ]"},
		"PORT": {run: (*conn).cmdPort, arg: true, help: "<sp> h1,h2,h3,h4,p1,p2"},
		"EPRT": {run: (*conn).cmdPort, arg: true, help: "<sp> |protocol|address|port|"},
		"REST": {run: (*conn).cmdRest, arg: true, help: "<sp> offset"},
		"ALLO": {run: (*conn).cmdAllo, arg: true, help: "<sp> bytes [ R bytes ]"},
		"ABOR": {run: (*conn).cmdAbor},

		"STOR": {run: (*conn).cmdStor, arg: true, help: "<sp> path"},
		"APPE": {run: (*conn).cmdStor, arg: true, help: "<sp> path"},
		"STOU": {run: (*conn).cmdStou, help: "[ <sp> path ]"},
		"RETR": {run: (*conn).cmdRetr, arg: true, help: "<sp> path"},
		"LIST": {run: (*conn).cmdList, help: "[ <sp> options ] [ <sp> path ]"},
		"NLST": {run: (*conn).cmdList, help: "[ <sp> options ] [ <sp> path ]"},
		"MLSD": {run: (*conn).cmdList, help: "[ <sp> path ]"},
		"MLST": {run: (*conn).cmdMlst, help: "[ <sp> path ]"},
		"STAT": {run: (*conn).cmdStat, help: "[ <sp> path ]"},

		"CWD":  {run: (*conn).cmdCwd, arg: true, help: "<sp> path"},
		"CDUP": {run: pass("CDUP")},
		"PWD":  {run: pass("PWD")},
		"MKD":  {run: pass("MKD"), arg: true, help: "<sp> path"},
		"RMD":  {run: pass("RMD"), arg: true, help: "<sp> path"},
		"DELE": {run: pass("DELE"), arg: true, help: "<sp> path"},
		"RNFR": {run: (*conn).cmdRnfr, arg: true, help: "<sp> path"},
		"RNTO": {run: (*conn).cmdRnto, arg: true, help: "<sp> path"},
		"SIZE": {run: pass("SIZE"), arg: true, help: "<sp> path"},
		"MDTM": {run: (*conn).cmdMdtm, arg: true, help: "[ <sp> YYYYMMDDhhmmss ] <sp> path"},
		"MFMT": {run: (*conn).cmdMfmt, arg: true, help: "<sp> YYYYMMDDhhmmss <sp> path"},
		"AVBL": {run: pass("AVBL"), help: "[ <sp> path ]"},
		"SITE": {run: (*conn).cmdSite, arg: true, help: "<sp> command; SITE HELP lists them"},
		"HASH": {run: (*conn).cmdHash, arg: true, help: "<sp> path"},
	}
	for alias, verb := range map[string]string{
		"XCWD": "CWD", "XCUP": "CDUP", "XPWD": "PWD", "XMKD": "MKD", "XRMD": "RMD",
	} {
		t[alias] = t[verb]
	}
	for verb := range hashCommands() {
		t[verb] = spec{run: (*conn).cmdHash, arg: true, help: "<sp> path [ <sp> start <sp> end ]"}
	}
	return t
}

// say is a command that is always answered in the same way.
func say(code int, text string) func(*conn, command) {
	return func(c *conn, _ command) { c.ctl.reply(code, text) }
}

// cmdNoop answers a NOOP, and those that came right behind it.
func (c *conn) cmdNoop(cmd command) {
	n := 1
	if cmd.more != nil {
		n += int(cmd.more.Swap(noMore))
	}
	const piece = 1000
	for ; n > 0; n -= piece {
		c.ctl.write(strings.Repeat(fmt.Sprintf("%d ok\r\n", codeOK), min(n, piece)))
	}
}

// oneWord is a command of which one argument is known.
func oneWord(word, yes, no string) func(*conn, command) {
	return func(c *conn, cmd command) {
		if !strings.EqualFold(strings.TrimSpace(cmd.arg), word) {
			c.ctl.reply(codeParameter, no)
			return
		}
		c.ctl.reply(codeOK, yes)
	}
}

// pass is a command that the library does.
func pass(verb string) func(*conn, command) {
	return func(c *conn, cmd command) {
		c.engine.push(&exchange{verb: verb, arg: cmd.arg, asked: verb, path: cmd.arg})
	}
}

// handle does a command, or queues what the library does of it.
func (c *conn) handle(cmd command) {
	c.seq = cmd.seq
	s, known := c.server.commands[cmd.verb]
	switch {
	case cmd.verb == "":
		c.ctl.reply(codeUnknown, "no command")
	case !known:
		c.log.Debug("unknown command", "op", clip(cmd.verb))
		c.ctl.reply(codeUnknown, clip(cmd.verb)+": unknown command")
	case c.sess == nil && !s.open:
		c.ctl.reply(codeNotLoggedIn, "log in with USER and PASS first")
	case s.arg && cmd.arg == "":
		c.ctl.reply(codeSyntax, cmd.verb+": an argument is missing")
	case len(cmd.arg) > maxArg:
		c.ctl.reply(codeBadName, "the path is too long")
	default:
		s.run(c, cmd)
	}
	if cmd.verb != "REST" && cmd.verb != "TYPE" && cmd.verb != "PASV" && cmd.verb != "EPSV" &&
		cmd.verb != "PORT" && cmd.verb != "EPRT" && cmd.verb != "ALLO" && cmd.verb != "NOOP" {
		c.offset = 0 // REST is for the next transfer (RFC 3659 section 5)
	}
}

// cmdFeat lists the extensions (RFC 2389).
func (c *conn) cmdFeat(command) {
	lines := []string{"extensions:"}
	if c.tls != nil {
		lines = append(lines, "AUTH TLS", "PBSZ", "PROT")
	}
	lines = append(lines,
		"AVBL", "CLNT", "EPRT", "EPSV", "HASH "+hashList(c.hash), "MDTM", "MFMT",
		"MLST "+c.facts.feature(), "REST STREAM", "SIZE", "TVFS", "UTF8",
	)
	lines = append(lines, slices.Sorted(maps.Keys(hashCommands()))...)
	c.ctl.reply(codeSystem, append(lines, "end")...)
}

// cmdOpts sets options (RFC 2389 section 4).
func (c *conn) cmdOpts(cmd command) {
	what, value, _ := strings.Cut(strings.TrimSpace(cmd.arg), " ")
	value = strings.TrimSpace(value)
	switch strings.ToUpper(what) {
	case "UTF8", "UTF-8":
		if strings.EqualFold(value, "OFF") {
			c.ctl.reply(codeParameter, "names are UTF-8, always")
			return
		}
		c.ctl.reply(codeOK, "names are UTF-8, always")
	case "MLST":
		c.facts.choose(value)
		c.ctl.reply(codeOK, strings.TrimSpace("MLST OPTS "+c.facts.String()))
	case "HASH":
		c.optsHash(value)
	default:
		c.ctl.reply(codeSyntax, clip(what)+": no such option")
	}
}

// cmdHelp is RFC 959's HELP.
func (c *conn) cmdHelp(cmd command) {
	verb := strings.ToUpper(strings.TrimSpace(cmd.arg))
	switch s, known := c.server.commands[verb]; {
	case verb == "SITE":
		c.siteHelp()
	case verb == "":
		names := slices.Sorted(maps.Keys(c.server.commands))
		lines := []string{"commands:"}
		for row := range slices.Chunk(names, 8) {
			var b strings.Builder
			for _, name := range row {
				fmt.Fprintf(&b, "%-9s", name)
			}
			lines = append(lines, strings.TrimRight(b.String(), " "))
		}
		c.ctl.reply(codeHelp, append(lines, "HELP command tells more")...)
	case known:
		c.ctl.reply(codeHelp, strings.TrimSpace("syntax: "+verb+" "+s.help))
	default:
		c.ctl.reply(codeSyntax, clip(verb)+": unknown command")
	}
}

// cmdLang is RFC 2640's LANG.
func (c *conn) cmdLang(cmd command) {
	if lang := strings.ToUpper(cmd.arg); lang != "" && lang != "EN" && !strings.HasPrefix(lang, "EN-") {
		c.ctl.reply(codeParameter, "only EN is spoken")
		return
	}
	c.ctl.reply(codeOK, "EN is spoken")
}

// cmdType takes every type that is sent in the wild. None changes a byte.
func (c *conn) cmdType(cmd command) {
	switch t := strings.ToUpper(strings.ReplaceAll(cmd.arg, " ", "")); t {
	case "I", "L8", "L", "IN":
		c.asciiType = false
		c.ctl.reply(codeOK, "the type is binary")
	case "A", "AN", "AT", "AC", "L7":
		c.asciiType = true
		c.ctl.reply(codeOK, "the type is ASCII; files are sent as they are")
	default:
		c.ctl.reply(codeParameter, "the types A, I and L 8 are known")
	}
}

// cmdQuit ends the connection.
func (c *conn) cmdQuit(command) {
	c.ctl.reply(codeGoodbye, "goodbye")
	c.failed.Store(true)
}

// cmdAbor has nothing to do any more: readAhead has cut the transfer off, and the
// transfer's own reply has been sent (RFC 959 section 4.1.3).
func (c *conn) cmdAbor(command) {
	c.closeData()
	c.ctl.reply(codeClosingData, "no transfer is under way")
}

// cmdCwd changes the working directory. "~" is the root, as after the login.
func (c *conn) cmdCwd(cmd command) {
	arg := cmd.arg
	if arg == "~" || strings.HasPrefix(arg, "~/") {
		arg = "/" + strings.TrimPrefix(arg[1:], "/")
	}
	c.engine.push(&exchange{verb: "CWD", arg: arg, asked: "CWD", path: cmd.arg})
}

// cmdRnfr names what is to be renamed (RFC 959 section 4.1.3): a link itself, not what it
// points to.
func (c *conn) cmdRnfr(cmd command) {
	c.renames = ""
	from := c.absolute(cmd.arg)
	if _, err := c.sess.Lstat(c.ctx, from); err != nil {
		c.fail(cmd.verb, cmd.arg, err)
		return
	}
	c.renames = from
	c.ctl.reply(codePending, "send RNTO with the new name")
}

// cmdRnto renames, once for each RNFR. It replaces a file, as all common servers do.
func (c *conn) cmdRnto(cmd command) {
	from := c.renames
	c.renames = ""
	if from == "" {
		c.ctl.reply(codeSequence, "send RNFR first")
		return
	}
	if err := c.sess.Rename(c.ctx, from, c.absolute(cmd.arg), true); err != nil {
		c.fail(cmd.verb, cmd.arg, err)
		return
	}
	c.ctl.reply(codeDone, "renamed to "+cmd.arg)
}
