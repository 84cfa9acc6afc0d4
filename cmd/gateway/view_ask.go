package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
)

// commandLine is a command as it was called, but for the flags that are the caller's own matter.
func commandLine(c *cobra.Command, args []string) [][]byte {
	line := [][]byte{[]byte(c.Name())}
	c.Flags().Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "config", "store", "no-pager":
			return
		}
		line = append(line, []byte("--"+f.Name+"="+f.Value.String()))
	})
	line = append(line, []byte("--"))
	for _, a := range args {
		line = append(line, []byte(a))
	}
	return line
}

// errAlone is why a command does not ask the running gateway.
var errAlone = errors.New("it opens the store itself")

// errPagerLeft means that nobody reads what is printed any more.
var errPagerLeft = errors.New("the pager was left")

// askRunning has the running gateway run a command, and prints what it prints. When asked is not nil
// the gateway has not run it, for that reason, and nothing was printed; else err is what came of it.
func (p *program) askRunning(ctx context.Context, cfg *config.Config, f *viewFlags, line [][]byte) (asked, err error) {
	if f.alone || f.store != "" {
		return errAlone, nil
	}
	req := control.Request{Op: control.OpView, View: &control.View{Args: line, Zone: zoneData(time.Local), Store: servedAt(cfg)}}
	out := &askedOutput{p: p, noPager: f.noPager}
	rep, err := control.Call(ctx, cfg.DataDir, req, out.print)
	if err == nil && rep.Exit == nil {
		err = errors.New("it does not say how the command has ended")
	}
	switch {
	case err == nil:
		if *rep.Exit != statusOK {
			err = exitError(*rep.Exit)
		}
		return nil, errors.Join(out.end(), err)
	case errors.Is(err, errPagerLeft):
		return nil, out.end()
	case ctx.Err() != nil:
		err = errInterrupted
	case !out.began:
		return err, nil
	case !out.failed:
		err = &hintedError{
			err:  fmt.Errorf("the running gateway has not finished it: %w", err),
			hint: "when none runs any more, the same call reads the store itself",
		}
	}
	return nil, errors.Join(out.end(), fmt.Errorf("%s: %w", line[0], err))
}

// servedAt is where the store is that the gateway of a configuration serves.
func servedAt(cfg *config.Config) string {
	return cfg.StoreConfig(slog.New(slog.DiscardHandler), false).Location
}

// askedOutput prints what comes from the running gateway.
type askedOutput struct {
	p       *program
	noPager bool

	began  bool // something has come
	failed bool // it could not be printed
	w      io.Writer
	close  func() error
	late   bytes.Buffer // what is to be said when the pager was left
}

// maxLate bounds what is kept until the pager was left.
const maxLate = 64 << 10

// print prints what came.
func (o *askedOutput) print(rep control.Reply) error {
	if rep.Output == nil {
		return nil
	}
	o.began = true
	if rep.Output.Stream == control.Stderr {
		if o.close != nil && o.late.Len()+len(rep.Output.Data) <= maxLate {
			_, _ = o.late.Write(rep.Output.Data)
			return nil
		}
		_, _ = o.p.stderr.Write(rep.Output.Data) // as where the command runs here
		return nil
	}
	err := o.open()
	if err == nil {
		_, err = o.w.Write(rep.Output.Data)
	}
	if errors.Is(err, syscall.EPIPE) {
		return errPagerLeft
	}
	o.failed = err != nil
	return err
}

// open begins to print.
func (o *askedOutput) open() (err error) {
	if o.w != nil {
		return nil
	}
	o.w, o.close, err = o.p.page(o.noPager)
	return err
}

// end waits until all was read, and says the rest.
func (o *askedOutput) end() error {
	if o.close == nil {
		return nil
	}
	err := o.close()
	_, _ = o.p.stderr.Write(o.late.Bytes())
	return err
}
