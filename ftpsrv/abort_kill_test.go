package ftpsrv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	// uploaderEnv makes TestUploader an upload by a process of its own: "address user bytes
	// order".
	uploaderEnv = "FTPSRV_TEST_UPLOADER"
	killTotal   = 400_000
)

// TestUploader is not a test but the client that TestKilledUploads kills: it says when it
// has sent its bytes, and then waits for its end with everything open.
func TestUploader(t *testing.T) {
	job := os.Getenv(uploaderEnv)
	if job == "" {
		return
	}
	if err := uploadAndWait(os.Stdout, strings.Fields(job)); err != nil {
		t.Fatal(err)
	}
}

func uploadAndWait(out io.Writer, job []string) error {
	addr, user, order := job[0], job[1], job[3]
	n, err := strconv.Atoi(job[2])
	if err != nil {
		return err
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	in := bufio.NewReader(nc)
	var last string
	ask := func(lines ...string) {
		for _, line := range lines {
			if err == nil && line != "" {
				_, err = io.WriteString(nc, line+"\r\n")
			}
			if err == nil {
				last, err = in.ReadString('\n')
			}
		}
	}
	ask("", "USER "+user, "PASS "+password, "PASV")
	_, numbers, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(last), ")"), "(")
	to, perr := parsePort(numbers)
	if err = errors.Join(err, perr); err != nil {
		return err
	}
	data, err := net.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	if order == "data-first" { // the kernel closes files by their number
		f, err := nc.(*net.TCPConn).File()
		if err != nil {
			return err
		}
		_ = nc.Close()
		if nc, err = net.FileConn(f); err != nil {
			return err
		}
		_ = f.Close()
		in.Reset(nc)
	}
	if ask("STOR /" + user); err == nil && !strings.HasPrefix(last, "150") {
		err = fmt.Errorf("STOR: %s", last)
	}
	if err == nil {
		_, err = data.Write(make([]byte, n))
	}
	if err != nil {
		return err
	}
	if _, err = io.WriteString(out, "sent\n"); err == nil {
		_, err = io.Copy(io.Discard, in) // for ever
	}
	return err
}

// A client that is killed leaves nothing that looks complete, at whatever moment that
// happens; the uploads of others go on.
func TestKilledUploads(t *testing.T) {
	// However long the kernel of a busy machine needs between the two connections of a process that is killed.
	ts := startServer(t, watchful)
	stop, good := make(chan struct{}), make(chan int, 1)
	bystander := ts.login(t, "bystander")
	go func() { good <- uploadUntil(bystander, stop) }()

	var kills sync.WaitGroup
	const each = 6
	var files []string
	for _, order := range []string{"control-first", "data-first"} {
		for _, sent := range []int{0, killTotal / 2, killTotal} {
			kills.Go(func() {
				for i := range each {
					if err := killUpload(t, ts.addr, killedUser(order, sent, i), sent, order); err != nil {
						t.Errorf("%s, %d bytes: %v", order, sent, err)
					}
				}
			})
			for i := range each {
				files = append(files, killedUser(order, sent, i))
			}
		}
	}
	kills.Wait()
	close(stop)
	if n := <-good; n == 0 {
		t.Errorf("%d good uploads beside %d kills", n, len(files))
	}
	for _, user := range files {
		ts.log.Wait(t, "session ended", "user="+user+" ")
	}
	judge := ts.login(t, "judge")
	judge.do("SITE SNAPSHOT", codeOK)
	for _, at := range []string{"/", "/.snapshots/latest"} {
		for _, name := range judge.names(at) {
			if strings.HasPrefix(name, "killed") {
				t.Errorf("%s: %s is there", at, name)
			}
		}
	}
	// Whoever was killed goes on.
	for i, order := range []string{"control-first", "data-first"} {
		user := killedUser(order, killTotal/2, 0)
		c := ts.login(t, user)
		size := 0 // what had arrived when the server noticed
		if r := c.do("SIZE "+user, codeFile, codeFailed); r.code == codeFile {
			size, _ = strconv.Atoi(r.text())
		}
		lines := [][]string{{"APPE " + user}, {"REST " + strconv.Itoa(size), "STOR " + user}}[i]
		if err := c.announce(killTotal, make([]byte, killTotal-size), lines...); err != nil {
			t.Errorf("%q: %v", lines, err)
		}
		judge.wantFile(user, string(make([]byte, killTotal)))
	}
}

func killedUser(order string, sent, i int) string {
	return fmt.Sprintf("killed-%s-%d-%d", order, sent, i)
}

// killUpload starts an upload in another process and kills it when it has sent everything.
func killUpload(tb testing.TB, addr, user string, sent int, order string) (err error) {
	cmd := exec.CommandContext(tb.Context(), os.Args[0], "-test.run=^TestUploader$", "-test.v")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %s", uploaderEnv, addr, user, sent, order))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Kill() // a process that has ended is reported by what it said
		_ = cmd.Wait()
	}()
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); said = append(said, lines.Text()) {
		if lines.Text() == "sent" {
			return nil
		}
	}
	return fmt.Errorf("the client ended by itself: %q", said)
}

// uploadUntil uploads files until stop is closed, and returns how many arrived.
func uploadUntil(c *client, stop <-chan struct{}) int {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return n
		default:
		}
		if err := c.announce(4, []byte("good"), "STOR /good"); err != nil {
			c.tb.Errorf("good upload %d: %v", n, err)
			return n
		}
	}
}
