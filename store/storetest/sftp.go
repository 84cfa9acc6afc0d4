package storetest

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/store"
)

// SFTPServer is an SFTP server in this process for stores that are elsewhere. Its files are in memory, and its directories
// have no modes. It ends with the test. Safe for concurrent use.
type SFTPServer struct {
	tb       testing.TB
	config   *ssh.ServerConfig
	handlers sftp.Handlers
	addr     string
	password string // the file of it
	fail     atomic.Pointer[func(name string) error]
	failPut  atomic.Pointer[func(name string) error]
	hangUp   atomic.Pointer[string]
	read     atomic.Int64 // bytes of files
	slowList atomic.Int64 // how long it takes to list the packfiles, a time.Duration
	tasks    sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

// sftpRoot is where the store is.
const sftpRoot = "/store"

// ServeSFTP starts a server.
func ServeSFTP(tb testing.TB) *SFTPServer {
	tb.Helper()
	s := &SFTPServer{tb: tb, handlers: sftp.InMemHandler(), password: filepath.Join(tb.TempDir(), "password")}
	s.config = &ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, nil }}
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)))
	if err != nil {
		tb.Fatal(err)
	}
	s.config.AddHostKey(signer)
	if err := os.WriteFile(s.password, []byte("secret\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.addr = ln.Addr().String()
	s.tasks.Go(func() { s.accept(ln) })
	tb.Cleanup(func() {
		_ = ln.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.tasks.Wait()
	})
	return s
}

// Use is an option of New: the store is on the server.
func (s *SFTPServer) Use(cfg *store.Config) {
	cfg.Location = "sftp://user@" + s.addr + sftpRoot
	cfg.SFTP = store.SFTP{PasswordFile: s.password, HostKey: "insecure", ConfigFile: os.DevNull}
}

// FailReads sets what decides whether reading a file of the store fails, whose name is as in the store; nil lets everything
// be read.
func (s *SFTPServer) FailReads(fail func(name string) error) {
	if fail == nil {
		s.fail.Store(nil)
		return
	}
	s.fail.Store(&fail)
}

// FailWrites sets what decides whether a file of the store may be written, whose name is a temporary one in the directory that
// it has in the store; nil lets all be written. It may block, as a server that does not get on.
func (s *SFTPServer) FailWrites(fail func(name string) error) {
	if fail == nil {
		s.failPut.Store(nil)
		return
	}
	s.failPut.Store(&fail)
}

// SlowLists sets how long it takes to list the packfiles: a store relies on what it has listed for a multiple of that.
func (s *SFTPServer) SlowLists(d time.Duration) { s.slowList.Store(int64(d)) }

// slowLists takes its time for the packfiles.
type slowLists struct {
	sftp.LstatFileLister
	s *SFTPServer
}

// Filelist implements sftp.FileLister.
func (l slowLists) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method == "List" && r.Filepath == sftpRoot+"/packfiles" {
		select {
		case <-time.After(time.Duration(l.s.slowList.Load())):
		case <-r.Context().Done():
		}
	}
	return l.LstatFileLister.Filelist(r)
}

// HangUpAt has the server end a connection that is to read a file of the store; "" is none.
func (s *SFTPServer) HangUpAt(name string) { s.hangUp.Store(&name) }

// BytesRead returns how many bytes of files it has given so far.
func (s *SFTPServer) BytesRead() int64 { return s.read.Load() }

// ReadBy returns the files of the store that fn reads, in order. Until it ends, nothing else may be read, and no read fails.
func (s *SFTPServer) ReadBy(fn func()) []string {
	var mu sync.Mutex
	read := make(map[string]bool)
	s.FailReads(func(name string) error {
		mu.Lock()
		defer mu.Unlock()
		read[name] = true
		return nil
	})
	defer s.FailReads(nil)
	fn()
	mu.Lock()
	defer mu.Unlock()
	return slices.Sorted(maps.Keys(read))
}

// Files lists the files of the store below a directory of it, in order.
func (s *SFTPServer) Files(dir string) (names []string) {
	s.tb.Helper()
	req := sftp.NewRequest("List", sftpRoot+"/"+dir)
	lister, err := s.handlers.FileList.Filelist(req)
	if err != nil {
		s.tb.Fatal(err)
	}
	for at := int64(0); ; {
		list := make([]os.FileInfo, 100)
		n, err := lister.ListAt(list, at)
		for _, fi := range list[:n] {
			if name := dir + "/" + fi.Name(); fi.IsDir() {
				names = append(names, s.Files(name)...)
			} else {
				names = append(names, name)
			}
		}
		at += int64(n)
		if err != nil || n == 0 {
			slices.Sort(names)
			return names
		}
	}
}

// Size returns the size of a file of the store in bytes.
func (s *SFTPServer) Size(name string) int64 {
	s.tb.Helper()
	lister, err := s.handlers.FileList.Filelist(sftp.NewRequest("Stat", sftpRoot+"/"+name))
	if err != nil {
		s.tb.Fatal(err)
	}
	info := make([]os.FileInfo, 1)
	if n, err := lister.ListAt(info, 0); n != 1 {
		s.tb.Fatalf("size of %s: %v", name, err)
	}
	return info[0].Size()
}

// Remove removes a file of the store.
func (s *SFTPServer) Remove(name string) {
	s.tb.Helper()
	if err := s.handlers.FileCmd.Filecmd(sftp.NewRequest("Remove", sftpRoot+"/"+name)); err != nil {
		s.tb.Fatal(err)
	}
}

// Rename gives a file of the store another name.
func (s *SFTPServer) Rename(name, to string) {
	s.tb.Helper()
	req := sftp.NewRequest("Rename", sftpRoot+"/"+name)
	req.Target = sftpRoot + "/" + to
	if err := s.handlers.FileCmd.Filecmd(req); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *SFTPServer) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.tasks.Go(func() {
			defer conn.Close()
			s.serve(conn)
		})
	}
}

func (s *SFTPServer) serve(conn net.Conn) {
	sc, chans, reqs, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	defer sc.Close()
	s.tasks.Go(func() { ssh.DiscardRequests(reqs) })
	for nc := range chans {
		ch, in, err := nc.Accept()
		if err != nil {
			return
		}
		s.tasks.Go(func() {
			for req := range in {
				_ = req.Reply(req.Type == "subsystem", nil)
				if req.Type != "subsystem" {
					continue
				}
				s.tasks.Go(func() {
					defer ch.Close()
					h := s.handlers
					h.FileGet, h.FilePut = failingReads{h.FileGet, s, conn}, failingWrites{h.FilePut, s}
					h.FileList = slowLists{h.FileList.(sftp.LstatFileLister), s}
					_ = sftp.NewRequestServer(ch, h).Serve() // it ends with the connection
				})
			}
		})
	}
}

// failingReads reads files, unless that is to fail.
type failingReads struct {
	sftp.FileReader
	s    *SFTPServer
	conn net.Conn
}

// Fileread implements sftp.FileReader.
func (f failingReads) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	rd, err := f.FileReader.Fileread(r)
	if err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(r.Filepath, sftpRoot+"/")
	if at := f.s.hangUp.Load(); at != nil && *at == name {
		_ = f.conn.Close() // it is what is wanted
		return nil, net.ErrClosed
	}
	return failingReader{rd, f.s, name}, nil
}

type failingReader struct {
	io.ReaderAt
	s    *SFTPServer
	name string
}

func (r failingReader) ReadAt(p []byte, off int64) (int, error) {
	if fail := r.s.fail.Load(); fail != nil {
		if err := (*fail)(r.name); err != nil {
			return 0, err
		}
	}
	n, err := r.ReaderAt.ReadAt(p, off)
	r.s.read.Add(int64(n))
	return n, err
}

// failingWrites opens files for writing, unless that is to fail.
type failingWrites struct {
	sftp.FileWriter
	s *SFTPServer
}

// Filewrite implements sftp.FileWriter.
func (f failingWrites) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	if fail := f.s.failPut.Load(); fail != nil {
		if err := (*fail)(strings.TrimPrefix(r.Filepath, sftpRoot+"/")); err != nil {
			return nil, err
		}
	}
	return f.FileWriter.Filewrite(r)
}
