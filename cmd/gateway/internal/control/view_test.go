package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a command prints comes as it is, in its order.
func TestOutput(t *testing.T) {
	dir := t.TempDir()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	want := []Output{
		{Stream: Stdout, Data: []byte("{\"done\":true}\n")},
		{Stream: Stderr, Data: all},
		{Stream: Stdout, Data: bytes.Repeat(all, MaxOutput/len(all))},
		{Stream: Stdout},
		{Stream: Stderr, Data: []byte("end")},
	}
	exit := 3
	serve(t, dir, func(_ context.Context, req Request, send func(Reply) error) Reply {
		if got := string(req.View.Args[1]); got != "bad\xffname" {
			return Reply{Error: fmt.Sprintf("%q", got)}
		}
		for i := range want {
			if err := send(Reply{Output: &want[i]}); err != nil {
				t.Error(err)
			}
		}
		return Reply{Exit: &exit}
	})
	n := 0
	req := Request{Op: OpView, View: &View{Args: [][]byte{[]byte("cat"), []byte("bad\xffname")}}}
	rep, err := Call(t.Context(), dir, req, func(rep Reply) error {
		if w := want[n]; rep.Output.Stream != w.Stream || !bytes.Equal(rep.Output.Data, w.Data) {
			t.Errorf("output %d: %d bytes for %s, want %d for %s", n, len(rep.Output.Data), rep.Output.Stream, len(w.Data), w.Stream)
		}
		n++
		return nil
	})
	if err != nil || rep.Exit == nil || *rep.Exit != exit || n != len(want) {
		t.Errorf("got %+v after %d outputs, %v", rep, n, err)
	}
}

// A line that tells of more than an output may have is refused, as is one that is cut off.
func TestReplies(t *testing.T) {
	for name, text := range map[string]string{
		"too much":    fmt.Sprintf(`{"output":{"stream":"stdout","length":%d}}`+"\n", MaxOutput+1),
		"less":        `{"output":{"stream":"stdout","length":-1}}` + "\n",
		"cut off":     `{"output":{"stream":"stdout","length":4}}` + "\nabc",
		"too long":    `{"error":"` + strings.Repeat("x", maxLine+1<<16) + `"}` + "\n",
		"no line":     `{"done":true}`,
		"no JSON":     "done\n",
		"nothing":     "",
		"wrong thing": "[]\n",
	} {
		if rep, err := newReplies(strings.NewReader(text)).next(); err == nil {
			t.Errorf("%s: got %+v", name, rep)
		}
	}
	long := `{"error":"` + strings.Repeat("x", 1<<17) + `"}` + "\n"
	if rep, err := newReplies(strings.NewReader(long)).next(); err != nil || len(rep.Error) != 1<<17 {
		t.Errorf("got %d bytes, %v", len(rep.Error), err)
	}
}

// TestOutputNotRead: output waits for who reads it, and no longer than he and the gateway are there.
func TestOutputNotRead(t *testing.T) {
	for _, leaves := range []bool{true, false} {
		dir := t.TempDir()
		s, err := Listen(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended, handled := make(chan error, 1), make(chan struct{})
		go func() {
			ended <- s.Serve(ctx, func(_ context.Context, _ Request, send func(Reply) error) Reply {
				defer close(handled)
				data := make([]byte, MaxOutput) // more than a socket holds
				for {
					if err := send(Reply{Output: &Output{Stream: Stdout, Data: data}}); err != nil {
						return Reply{}
					}
				}
			})
		}()
		c, err := net.Dial("unix", filepath.Join(dir, SocketName))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.NewEncoder(c).Encode(Request{Op: OpView}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 10)); err != nil { // it has begun, and goes on until nothing more fits
			t.Fatal(err)
		}
		if leaves {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			<-handled
		}
		cancel()
		if err := <-ended; err != nil { // when the request has ended, too
			t.Errorf("leaves %v: %v", leaves, err)
		}
		_ = c.Close() // it may be closed
	}
}

// TestExitNotRead: what has been printed may not have been read yet when the exit status is sent. That waits, too.
func TestExitNotRead(t *testing.T) {
	dir := t.TempDir()
	s, err := Listen(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.patience = -time.Second // nothing may be late
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	exit := 3
	go func() {
		ended <- s.Serve(ctx, func(_ context.Context, _ Request, send func(Reply) error) Reply {
			if err := send(Reply{Output: &Output{Stream: Stdout, Data: []byte("all")}}); err != nil {
				t.Error(err)
			}
			return Reply{Exit: &exit}
		})
	}()
	rep, err := Call(t.Context(), dir, Request{Op: OpView}, func(Reply) error { return nil })
	if err != nil || rep.Exit == nil || *rep.Exit != exit {
		t.Errorf("got %+v, %v", rep, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
