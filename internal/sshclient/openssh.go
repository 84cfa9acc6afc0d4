package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/sftp"
)

// process is an ssh of the system with a session of SFTP on its standard input and output.
type process struct {
	c       *Client
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *os.File
	stderr  tail
	output  head        // what came where SFTP should
	running atomic.Bool // its session was had
	closing atomic.Bool // we end it
	exited  chan struct{}
}

// dialOpenSSH starts the first process, since only a session shows whether the login works.
func (d *Dialer) dialOpenSSH(ctx context.Context) (*Client, error) {
	c := d.newProcesses()
	limit := pick(d.cfg.LoginTimeout, DefaultLoginTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &stageTimeout{stage: "login", limit: limit})
	defer cancel()
	first, err := c.startProcess(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.first = first
	return c, nil
}

// newProcesses makes a Client of the openssh transport, without a process yet.
func (d *Dialer) newProcesses() *Client {
	return &Client{d: d, ended: make(chan struct{}), processes: map[*process]bool{}}
}

// sshArgs are the arguments of ssh(1). Nothing secret is ever among them: other users of the
// machine can read them.
func (d *Dialer) sshArgs() ([]string, error) {
	cfg := &d.cfg
	jumps, err := parseJumps(cfg.Jump)
	if err != nil {
		return nil, configError("jump: %w", err)
	}
	args, err := d.sshOptions(jumpHost{user: cfg.User, host: cfg.Host, port: cfg.Port}, jumps)
	if err == nil && len(jumps) == 0 && cfg.Jump != "" {
		args = append(args, "-o", "ProxyJump=none")
	}
	return append(args, "-s", "--", cfg.Host, "sftp"), err
}

// proxyCommand is the ProxyCommand that goes through jump hosts, for a shell. With ProxyJump ssh would give them
// none of the options.
func (d *Dialer) proxyCommand(jumps []jumpHost) (string, error) {
	last := len(jumps) - 1
	args, err := d.sshOptions(jumps[last], jumps[:last])
	words := []string{"ssh"}
	for _, arg := range args {
		words = append(words, shellWord(arg))
	}
	return strings.Join(append(words, "-W", "'[%h]:%p'", "--", shellWord(jumps[last].host)), " "), err
}

// shellWord is an argument as a ProxyCommand has it. There are backslashes and no quotes, since ssh looks for a quote
// that is not closed before it gives the command to the shell.
func shellWord(arg string) string {
	var b strings.Builder
	for _, c := range []byte(strings.ReplaceAll(arg, "%", "%%")) {
		plain := c >= 0x80 || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || strings.IndexByte("%+,-./:=@_", c) >= 0
		if !plain {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// sshOptions are the options for the server, or a jump host, that is reached through jumps.
func (d *Dialer) sshOptions(to jumpHost, jumps []jumpHost) ([]string, error) {
	cfg := &d.cfg
	// ssh takes the rest of the line for the value of RemoteCommand and ProxyCommand, so quotes
	// would be part of it.
	args := []string{"-x", "-a", "-T", "-o", "RemoteCommand=none"}
	if len(cfg.Files) == 1 {
		args = append(args, "-F", d.local.tilde(cfg.Files[0]))
	}
	var bad error
	check := func(key, v string) {
		if strings.ContainsAny(v, "\r\n\x00") {
			bad = configError("%s: %q has a line break", key, v)
		}
	}
	set := func(key string, values ...string) {
		for i, v := range values {
			check(key, v)
			values[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
		}
		args = append(args, "-o", key+"="+strings.Join(values, " "))
	}
	for _, file := range cfg.Files {
		check("ssh_config", file)
	}
	set("BatchMode", "yes") // never a question
	set("LogLevel", "ERROR")
	set("ClearAllForwardings", "yes")
	set("PermitLocalCommand", "no")
	set("ForkAfterAuthentication", "no")
	set("StdinNull", "no")
	if to.port != 0 {
		set("Port", strconv.Itoa(to.port))
	}
	if to.user != "" {
		set("User", to.user)
	}
	if len(jumps) > 0 {
		command, err := d.proxyCommand(jumps)
		if err != nil {
			return nil, err
		}
		args = append(args, "-o", "ProxyUseFdpass=no", "-o", "ProxyCommand="+command)
	}
	for _, file := range cfg.IdentityFiles {
		set("IdentityFile", strings.ReplaceAll(file, "%", "%%"))
	}
	for _, file := range cfg.Certificates {
		set("CertificateFile", strings.ReplaceAll(file, "%", "%%"))
	}
	if cfg.Agent != "" {
		set("IdentityAgent", cfg.Agent)
	}
	if len(cfg.KnownHosts) > 0 {
		set("UserKnownHostsFile", append([]string(nil), cfg.KnownHosts...)...)
		set("GlobalKnownHostsFile", "none")
	}
	switch cfg.HostKeys {
	case Strict:
		set("StrictHostKeyChecking", "yes")
	case AcceptNew:
		set("StrictHostKeyChecking", "accept-new")
	case Insecure:
		set("StrictHostKeyChecking", "no")
		set("UserKnownHostsFile", "/dev/null") // where it cannot add a key, as with none, ssh takes no new one
		set("GlobalKnownHostsFile", "none")
	}
	if cfg.Timeout > 0 {
		set("ConnectTimeout", wholeSeconds(cfg.Timeout))
	}
	if keepAlive := pick(cfg.KeepAlive, DefaultKeepAlive); keepAlive > 0 {
		set("ServerAliveInterval", wholeSeconds(keepAlive))
		set("ServerAliveCountMax", strconv.Itoa(pick(cfg.KeepAliveCount, DefaultKeepAliveCount)))
	}
	return args, bad
}

// wholeSeconds rounds up: ssh takes whole seconds, and 0 is "never".
func wholeSeconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// startProcess starts ssh and a session on it.
func (c *Client) startProcess(ctx context.Context) (*sftp.Client, error) {
	p, err := c.launch()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, p.kill)
	client, err := sftp.NewClientPipe(c.heard.from(p), p, c.d.cfg.SFTP...)
	ended := !stop()
	if err == nil && !ended {
		p.running.Store(true)
		return client, nil
	}
	if ended {
		_ = p.end()
		return nil, connectError(ctx, c.String(), context.Cause(ctx))
	}
	return nil, p.explain(err)
}

// explain ends the process, and makes the error when there is no session.
func (p *process) explain(err error) *Error {
	if p.out.SetReadDeadline(time.Now().Add(explainLimit)) == nil {
		_, _ = io.Copy(io.Discard, p) // what came where SFTP should is read to its end
	}
	_ = p.end()
	if said := p.output.said(); said != "" {
		return p.c.noSFTP(said)
	}
	return sshError(p.c.String(), p.stderr.text(), err)
}

// launch starts ssh.
func (c *Client) launch() (*process, error) {
	if c.d.cfg.HostKeys == Insecure {
		c.d.log.Warn("host key is not checked: anybody in between can read and change everything", "host", c.String())
	}
	args, err := c.d.sshArgs()
	if err != nil {
		return nil, err
	}
	p, err := c.run(args)
	if errors.Is(err, os.ErrClosed) {
		return nil, &Error{Kind: KindClosed, Host: c.String(), Detail: "by us"}
	}
	if err != nil {
		return nil, &Error{Kind: KindConfig, Host: c.String(), Detail: "transport: openssh", Err: err, Hint: "is the program ssh (openssh-client) installed?"}
	}
	return p, nil
}

// run starts the process, and a task that waits for it.
func (c *Client) run(args []string) (*process, error) {
	p := &process{c: c, cmd: exec.Command("ssh", args...), exited: make(chan struct{})}
	// Its messages are read; nobody is asked, by an ssh that it starts for a jump host of ssh_config neither, which
	// has no BatchMode; and the shell of a ProxyCommand is one that understands it.
	p.cmd.Env = append(os.Environ(), "LC_ALL=C", "SSH_ASKPASS_REQUIRE=never")
	if c.d.cfg.Jump != "" {
		p.cmd.Env = append(p.cmd.Env, "SHELL=/bin/sh")
	}
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = 2 * time.Second                      // for processes of jump hosts that keep stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal to ask on, and one group to kill
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.out, p.cmd.Stdout = out, w
	p.in, err = p.cmd.StdinPipe()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.closing {
		err = os.ErrClosed
	}
	if err == nil {
		err = p.cmd.Start()
	}
	_ = w.Close()
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	c.processes[p] = true
	c.tasks.Go(p.wait)
	return p, nil
}

// wait waits for the end of the process.
func (p *process) wait() {
	err := p.cmd.Wait()
	close(p.exited)
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	delete(p.c.processes, p)
	if err != nil && p.running.Load() && !p.closing.Load() && p.c.cause == nil {
		e := sshError(p.c.String(), p.stderr.text(), err)
		if e.Kind == KindChroot { // but the session ran
			e.Kind, e.Hint = KindClosed, "the server's log says why"
		}
		p.c.cause = e
	}
}

func (p *process) Write(b []byte) (int, error) { return p.in.Write(b) }

// Read reads what ssh writes; at its end the pipe is closed.
func (p *process) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	_, _ = p.output.Write(b[:n])
	if err != nil {
		_ = p.out.Close()
	}
	return n, err
}

// Close ends the session: ssh ends when its input does.
func (p *process) Close() error {
	p.closing.Store(true)
	err := p.in.Close()
	timer := time.AfterFunc(closeLimit, p.kill)
	p.c.tasks.Go(func() {
		<-p.exited
		timer.Stop()
	})
	return err
}

// end ends the process and waits for it: a short while for what it has to say, since a
// failed ssh ends by itself.
func (p *process) end() error {
	p.closing.Store(true)
	_ = p.in.Close()
	timer := time.AfterFunc(time.Second, p.kill)
	defer timer.Stop()
	<-p.exited
	if err := p.out.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// kill kills ssh and the processes of its jump hosts.
func (p *process) kill() {
	p.closing.Store(true)
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
}

// sshError turns what ssh says on standard error into an Error. err is how the session
// ended.
func sshError(host, text string, err error) *Error {
	e := &Error{Kind: KindOther, Host: host, Detail: "ssh: " + strings.TrimPrefix(lastLines(text), "ssh: ")}
	if text == "" {
		e.Detail, e.Err = "", fmt.Errorf("ssh ended without a word: %w", err)
	}
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("REMOTE HOST IDENTIFICATION HAS CHANGED"):
		sshHostKey(e, text)
	case has("REVOKED"):
		e.Kind, e.Hint = KindHostKeyRevoked, "whoever shows this key must not be trusted; ask the server's operator for its new key"
	case has("Host key verification failed", "host key is known for"):
		e.Kind, e.Hint = KindHostKeyUnknown, "get the key with ssh-keyscan, compare its fingerprint with the server's, and add the line to known_hosts; or accept new keys with host_key: accept-new"
	case has("subsystem request failed"):
		e.Kind, e.Hint = KindSubsystem, "the server needs a line like Subsystem sftp internal-sftp in sshd_config"
	case has("Permission denied (", "Too many authentication failures"):
		e.Kind, e.Hint = KindAuth, "is the user name right, and is the public key in the account's authorized_keys? ssh cannot ask for a passphrase here: load encrypted keys into an agent"
		if _, list, ok := strings.Cut(text, "Permission denied ("); ok {
			list, _, _ = strings.Cut(list, ")")
			e.Offered = strings.Split(list, ",")
		}
	case has("Could not resolve hostname", "Name or service not known"):
		e.Kind, e.Hint = KindDNS, "is the name spelled right, or is it an alias of an ssh_config file that ssh reads for this account?"
	case has("Connection refused"):
		e.Kind, e.Hint = KindRefused, "does the SSH server run, and on that port?"
	case has("timed out", "Timeout"):
		e.Kind, e.Hint = KindTimeout, "is the server up, and does a firewall let this machine through?"
	case has("No route to host", "Network is unreachable"):
		e.Kind, e.Hint = KindUnreachable, "is the address right, and is there a route (VPN, IPv6) to it?"
	case has("no matching ", "Unable to negotiate"):
		e.Kind, e.Hint = KindAlgorithm, "update the server, or allow what it has by HostKeyAlgorithms, KexAlgorithms, Ciphers or MACs in ssh_config"
	case has("Bad configuration option", "Bad owner or permissions", "terminating, ", "keyword ", "Can't open user config file", "percent_expand"):
		e.Kind, e.Hint = KindConfig, "ssh -G shows what ssh makes of its configuration"
	case has("client_loop: "), has("Connection to ") && has(" closed by remote host"): // which it says only after the login
		e.Kind, e.Hint = KindChroot, refusedHint
	case has("Connection closed", "Connection reset", "closed by remote host", "Broken pipe"):
		e.Kind, e.Hint = KindClosed, "the server ended the connection: its log says why (a chroot directory that is missing, MaxStartups, a ban of this address?)"
	case text == "":
		e.Kind, e.Hint = KindSubsystem, "does the account's shell or SFTP program start on the server?"
	}
	return e
}

// sshHostKey reads the message about a changed host key.
func sshHostKey(e *Error, text string) {
	e.Kind = KindHostKeyChanged
	e.Hint = "somebody may be in between, or the server was set up anew: ask its operator for the fingerprint before you remove the old line with ssh-keygen -R"
	e.Detail = "ssh refuses it"
	known := KnownKey{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, ".\r\n")
		if strings.HasPrefix(line, "SHA256:") {
			e.Fingerprint = line
		}
		// Offending ED25519 key in FILE:LINE
		if rest, ok := strings.CutPrefix(line, "Offending "); ok {
			typ, place, _ := strings.Cut(rest, " key in ")
			i := strings.LastIndexByte(place, ':')
			if i < 0 {
				continue
			}
			known.Type, known.File = strings.ToLower(typ), place[:i]
			known.Line, _ = strconv.Atoi(place[i+1:])
			e.Known = []KnownKey{known}
		}
	}
	if e.Known != nil {
		e.Detail = fmt.Sprintf("the server shows %s, known is %s:%d", e.Fingerprint, known.File, known.Line)
		known.fingerprint()
		e.Known = []KnownKey{known}
	}
}

// fingerprint reads the fingerprint of a known key from its file, when it can.
func (k *KnownKey) fingerprint() {
	data, err := readLimited(k.File, maxConfigSize)
	if err != nil {
		return
	}
	lines, err := parseKnownHosts(k.File, data)
	if err != nil {
		return
	}
	for i := range lines {
		if lines[i].line == k.Line {
			*k = lines[i].known()
		}
	}
}

// lastLines are the last lines of a text, in one.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	lines = lines[max(0, len(lines)-3):]
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}
