package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// errInterrupted ends a command that somebody has ended.
var errInterrupted = errors.New("interrupted")

// untilSignal returns a context that SIGINT and SIGTERM end; stop must be called. One of them ends it in order; another
// one ends the process at once, as something may not answer any more that the order needs.
func untilSignal(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// interruptible runs a command with a context that SIGINT and SIGTERM end. When it has ended for that, whatever it
// was doing then, the error is that name was interrupted, with the hint; a command that has said so itself keeps its own, as
// does one that has come to its end and left something out.
func interruptible(ctx context.Context, name, hint string, do func(context.Context) error) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	err := do(ctx)
	if err == nil || ctx.Err() == nil || errors.Is(err, errInterrupted) || errors.Is(err, errPartial) {
		return err
	}
	return interrupted(name, hint)
}

// interrupted is the error of a command that was, with what to try; "" for nothing.
func interrupted(name, hint string) error {
	return &hintedError{err: fmt.Errorf("%s: %w", name, errInterrupted), hint: hint}
}
