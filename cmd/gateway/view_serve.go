package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/background"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

const (
	// maxViews is how many commands that look into snapshots the gateway runs at a time, of which
	// each may take some megabytes, and stay for as long as somebody reads what it prints. Whoever
	// comes then opens the store himself.
	maxViews = 8
	// maxTexts is how many of them may compare the lines of two files of maxText bytes.
	maxTexts = 1
)

// viewServing is what a running gateway runs commands for others with.
type viewServing struct {
	at    string        // the store that is served, as the configuration had it at the start
	slots chan struct{} // has one for each command that runs
	texts chan struct{} // likewise, that has the lines of two files in memory
}

func newViewServing(cfg *config.Config) *viewServing {
	return &viewServing{
		at:    servedAt(cfg),
		slots: make(chan struct{}, maxViews), texts: make(chan struct{}, maxTexts),
	}
}

// served is what a running gateway gives a command that it runs for somebody.
type served struct {
	cfg   *config.Config
	store *store.Store
	snaps *snapshotter.Snapshotter
	log   *slog.Logger
	texts chan struct{}
}

// answerView runs a command that looks into snapshots, as the one who asks would do it himself. What
// it cannot run is refused with an error: then he does.
func (s *serving) answerView(ctx context.Context, view *control.View, send func(control.Reply) error) (rep control.Reply) {
	defer func() {
		if r := recover(); r != nil { // the gateway goes on
			s.log.Error("a command has failed", "panic", r, "stack", string(debug.Stack()))
			rep = control.Reply{Error: fmt.Sprintf("internal error: %v", r)}
		}
	}()
	if view == nil || len(view.Args) == 0 {
		return control.Reply{Error: "malformed request"}
	}
	if view.Store != s.views.at {
		return control.Reply{Error: "the running gateway has another store"}
	}
	zone, err := time.LoadLocationFromTZData("", view.Zone)
	if err != nil {
		return control.Reply{Error: "the time zone: " + err.Error()}
	}
	select {
	case s.views.slots <- struct{}{}:
		defer func() { <-s.views.slots }()
	default:
		return control.Reply{Error: fmt.Sprintf("the running gateway does this %d times already", maxViews)}
	}
	args := make([]string, len(view.Args))
	for i, a := range view.Args {
		args[i] = string(a)
	}
	p := &program{
		stdin: strings.NewReader(""), stdout: outputWriter{send, control.Stdout}, stderr: outputWriter{send, control.Stderr},
		configFile: s.program.configFile, zone: zone,
		served: &served{cfg: s.inForce.Load(), store: s.store, snaps: s.snapshots, log: s.log, texts: s.views.texts},
	}
	err = p.execute(ctx, p.viewRoot(), args)
	if misused := (*usage)(nil); errors.As(err, &misused) { // whoever asks is of another version
		return control.Reply{Error: misused.Error()}
	}
	s.events.happened("operator_view", "", "", commandText(args), err)
	if ctx.Err() != nil {
		return control.Reply{Error: "it is being stopped"} // which one who is gone does not read
	}
	status := statusOK
	if err != nil {
		status = p.report(err)
	}
	return control.Reply{Exit: &status}
}

// viewRoot has the commands that a running gateway runs for others, and nothing else.
func (p *program) viewRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "gateway", SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError(c, err) })
	root.AddCommand(p.viewCommands()...)
	needsCommand(root)
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	return root
}

// outputWriter sends what a command prints.
type outputWriter struct {
	send   func(control.Reply) error
	stream string
}

// Write implements io.Writer.
func (w outputWriter) Write(data []byte) (n int, err error) {
	for len(data) > 0 {
		part := data[:min(len(data), control.MaxOutput)]
		if err := w.send(control.Reply{Output: &control.Output{Stream: w.stream, Data: part}}); err != nil {
			return n, err
		}
		n, data = n+len(part), data[len(part):]
	}
	return n, nil
}

// catchUpLimit is how long a command waits for a commit, to take over what others have stored. Then it reads the
// store itself.
const catchUpLimit = 5 * time.Second

// lookServed does what a command does in the running gateway. Those who upload go first.
func (p *program) lookServed(ctx context.Context, name string, f *viewFlags, do func(context.Context, *viewing) error) (err error) {
	sv := p.served
	var lost []snapshotter.ID
	if f.alone || f.store != "" {
		return &usage{err: fmt.Errorf("%s: it is no matter for the running gateway", name)}
	}
	switch err := sv.snaps.CatchUp(ctx, catchUpLimit); {
	case errors.Is(err, snapshotter.ErrBusy):
		return &usage{err: fmt.Errorf("%s: what others have stored cannot be taken over before a commit has ended", name)}
	case err != nil && sv.snaps.Lacks() == nil:
		return fmt.Errorf("%s: %w", name, err)
	case err != nil: // what is called the newest may not be
		var lerr error
		if lost, lerr = sv.snaps.Unreadable(ctx); lerr != nil {
			return fmt.Errorf("%s: %w", name, errors.Join(err, lerr))
		}
	}
	list, err := sv.snaps.Snapshots(ctx, "")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	v := p.newViewing(f, sv.cfg, sv.store, sv.snaps, list, p.stdout)
	v.lost = lost
	defer v.sayLost()
	background.Do(func() {
		defer func() {
			if r := recover(); r != nil { // the gateway goes on, whatever a command does; but for what kloset starts
				sv.log.Error("a command has failed", "command", name, "panic", r, "stack", string(debug.Stack()))
				err = fmt.Errorf("the running gateway: internal error: %v", r)
			}
		}()
		err = do(background.With(ctx), v)
	})
	if ferr := v.out.Flush(); err == nil {
		err = ferr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// takeText waits until the lines of two files may be compared; leave says that it is done.
func (p *program) takeText(ctx context.Context) (leave func(), err error) {
	if p.served == nil {
		return func() {}, nil
	}
	select {
	case p.served.texts <- struct{}{}:
		return func() { <-p.served.texts }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// commandText is a command as it is noted.
func commandText(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = printable(a)
	}
	return strings.Join(words, " ")
}
