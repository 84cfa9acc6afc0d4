// Command crashclient is a client of the crash tests: it works on one directory of a
// gateway until the connection is lost, and logs every operation before it sends it and
// after it was acknowledged.
//
//	crashclient -addr HOST:PORT -user NAME -key FILE -dir /DIR -tree FILE -log FILE -seed N
//	crashclient -ftp [-tls] -addr HOST:PORT -user NAME -password TEXT -dir /DIR -tree FILE -log FILE -seed N
//	crashclient -log FILE -begin JSON      only log that an operation begins
//	crashclient -log FILE -ack N           only log that operation N was acknowledged
//
// The last two are for the batch files of OpenSSH's sftp. The exit status is 0 when the
// connection was lost, which is what is meant to happen, and 1 when the server refused
// something or the client could not work.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/internal/crash"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "crashclient: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("crashclient", flag.ContinueOnError)
	var (
		addr  = flags.String("addr", "", "the gateway's `address`")
		user  = flags.String("user", "", "user `name`")
		key   = flags.String("key", "", "private key `file`")
		ftp   = flags.Bool("ftp", false, "work over FTP")
		enc   = flags.Bool("tls", false, "the same, encrypted")
		pass  = flags.String("password", "", "FTP `password`")
		dir   = flags.String("dir", "", "the client's own `directory`")
		tree  = flags.String("tree", "", "`file` with the tree below it")
		log   = flags.String("log", "", "log `file`")
		seed  = flags.Uint64("seed", 1, "`seed` of the operations")
		begin = flags.String("begin", "", "log that this `operation` begins, and end")
		ack   = flags.Int("ack", 0, "log that this `operation` was acknowledged, and end")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	logFile, err := crash.OpenLog(*log)
	if err != nil {
		return err
	}
	defer logFile.Close()
	switch {
	case *ack > 0:
		return logFile.Ack(*ack)
	case *begin != "":
		var op crash.Op
		if err := json.Unmarshal([]byte(*begin), &op); err != nil {
			return fmt.Errorf("reading the operation: %w", err)
		}
		return logFile.Begin(op)
	}
	start, err := crash.LoadTree(*tree)
	if err != nil {
		return err
	}
	planner := crash.NewPlanner(*dir, start, rand.New(rand.NewPCG(*seed, 0)))
	planner.Whole = *ftp
	var c client
	if *ftp {
		c, err = loginFTP(*addr, *user, *pass, *enc)
	} else {
		c, err = login(*addr, *user, *key)
	}
	if err != nil {
		return fmt.Errorf("logging in: %w", err)
	}
	return work(c, planner, logFile)
}

// client is a connection that operations are done over.
type client interface {
	do(op crash.Op) error
	// refused reports whether an error of do is the server's answer; else the connection is
	// lost.
	refused(err error) bool
}

// work goes on until the connection is lost (nil) or the server refuses something.
func work(c client, planner *crash.Planner, log *crash.Log) error {
	for {
		op, err := planner.Next()
		if err != nil {
			return err
		}
		if err := log.Begin(op); err != nil {
			return err
		}
		err = c.do(op)
		switch {
		case err == nil:
			err = log.Ack(op.Seq)
		case c.refused(err):
			return errors.Join(log.Refused(op.Seq, err), fmt.Errorf("%s %s: %w", op.Kind, op.Path, err))
		default:
			return nil // the connection is lost: the operation stays in flight in the log
		}
		if err != nil {
			return err
		}
	}
}

// sftpClient works over SFTP.
type sftpClient struct{ *sftp.Client }

func (c sftpClient) refused(err error) bool {
	var status *sftp.StatusError
	return errors.As(err, &status) && status.FxCode() != sftp.ErrSSHFxConnectionLost ||
		errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission)
}

func (c sftpClient) do(op crash.Op) error {
	switch op.Kind {
	case crash.Put:
		return c.send(op, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	case crash.Patch:
		return c.send(op, os.O_WRONLY)
	case crash.Truncate:
		return c.Truncate(op.Path, op.Size)
	case crash.Rename:
		return c.Rename(op.Path, op.To)
	case crash.Replace:
		return c.PosixRename(op.Path, op.To)
	case crash.Remove:
		return c.Remove(op.Path)
	case crash.Mkdir:
		return c.Mkdir(op.Path)
	case crash.Rmdir:
		return c.RemoveDirectory(op.Path)
	}
	return fmt.Errorf("unknown operation %q", op.Kind)
}

// send writes an operation's bytes; the close is the acknowledgement.
func (c sftpClient) send(op crash.Op, flags int) error {
	file, err := c.OpenFile(op.Path, flags)
	if err != nil {
		return err
	}
	if _, err := file.Seek(op.Off, io.SeekStart); err != nil {
		return errors.Join(err, file.Close())
	}
	_, err = file.Write(crash.Bytes(op.Seed, op.Size))
	// Closing after a failed write would publish a part of the file as if it were whole.
	if err != nil {
		return err
	}
	return file.Close()
}

func login(addr, user, keyFile string) (client, error) {
	pem, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	// The host key is of no interest: client and server share a test's machine.
	sc, channels, requests, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{User: user,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		return nil, err
	}
	c, err := sftp.NewClient(ssh.NewClient(sc, channels, requests), sftp.UseConcurrentWrites(true))
	return sftpClient{c}, err
}
