package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/hooks"
)

// hooksDir is where the queues of hooks are, one for each, below data_dir.
const hooksDir = "hooks"

func (p *program) hooksCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "hooks",
		Short: "List who is told of events, and how that goes",
		Long: `Lists the hooks of the running gateway: what they want, how many events wait for them, and what went
wrong last. Times are UTC.

With --json every line is an object with name, on (events), shares (none: all), target (the program,
or the host that is posted to), pending (events that wait), tries (failed ones in a row), error, success
(of the last event that was taken), given_up and dropped (events that are lost), each since the start.`,
		Example: `  gateway hooks -c /etc/gateway.yaml
  gateway hooks --json | jq -r 'select(.tries > 0) | .error'`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return p.listHooks(c.Context(), asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	c.AddCommand(p.testHookCommand())
	return c
}

func (p *program) testHookCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "test NAME",
		Short: "Try a hook out",
		Long: `Tells a hook of the configuration, at once and once, of an event "test", and says what came of it.
It needs no running gateway, and runs as whoever calls it: as root, what the gateway's user may not do
goes well.`,
		Example: "  gateway hooks test -c /etc/gateway.yaml mail",
		Args:    arguments(1, 1),
		RunE:    func(c *cobra.Command, args []string) error { return p.testHook(c.Context(), args[0]) },
	}
}

func (p *program) listHooks(ctx context.Context, asJSON bool) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	var list []control.Hook
	_, err = control.Call(ctx, cfg.DataDir, control.Request{Op: control.OpHooks}, func(r control.Reply) error {
		if r.Hook != nil {
			list = append(list, *r.Hook)
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("hooks: %w", err)
	case asJSON:
		return printJSON(p.stdout, list)
	case len(list) == 0:
		_, _ = fmt.Fprintln(p.stderr, "there are no hooks")
		return nil
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "HOOK\tON\tSHARES\tTARGET\tWAITING\tLAST SUCCESS\tLOST\tSTATE")
	for i := range list {
		h := &list[i]
		state, success := "ok", "-"
		if h.Tries > 0 {
			state = "FAILING: " + printable(h.Error)
		}
		if h.Success != "" {
			success = h.Success
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%d\t%s\n", h.Name, strings.Join(h.On, " "), joinOr(h.Shares, "all"), printable(h.Target),
			h.Pending, success, uint64(h.GivenUp)+h.Dropped, state)
	}
	return w.Flush() // keeps the errors of the lines
}

func (p *program) testHook(ctx context.Context, name string) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	hc, ok := cfg.HookNamed(name)
	if !ok {
		var names []string
		for i := range cfg.Hooks {
			names = append(names, cfg.Hooks[i].Name)
		}
		return &hintedError{
			err:  fmt.Errorf("hook %q: not in %s", name, p.configFile),
			hint: "its hooks are: " + joinOr(names, "none"),
		}
	}
	h, client, err := makeHook(&hc)
	if err == nil {
		began := time.Now()
		err = h.Deliver(ctx, client, hooks.Event{Event: hooks.Test, Text: "somebody tries the hook out", User: os.Getenv("USER")})
		if err == nil {
			_, err = fmt.Fprintf(p.stdout, "%s: it took the test in %v\n", name, time.Since(began).Round(time.Millisecond))
		}
		client.CloseIdleConnections()
	}
	if err != nil {
		return fmt.Errorf("hooks: %s: %w", name, err)
	}
	return nil
}

// makeHook makes a hook of its configuration, and the client that it needs.
func makeHook(c *config.Hook) (hooks.Hook, *http.Client, error) {
	h := hooks.Hook{Name: c.Name, Events: c.On, Shares: c.Shares, Command: c.Command, URL: c.URL, Timeout: c.Timeout}
	if len(c.Command) > 0 {
		h.Dir = c.Dir
	}
	var err error
	if h.Secret, err = c.Secret(); err != nil {
		return h, nil, err
	}
	var ca []byte
	if c.CAFile != "" {
		if ca, err = os.ReadFile(c.CAFile); err != nil {
			return h, nil, err
		}
	}
	client, err := hooks.NewClient(ca)
	if err != nil {
		return h, nil, fmt.Errorf("ca_file %s: %w", c.CAFile, err)
	}
	return h, client, nil
}

// hookTarget says who is told, without what may be a secret.
func hookTarget(c *config.Hook) string {
	if len(c.Command) > 0 {
		return filepath.Base(c.Command[0])
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// openHooks opens the queues of all hooks, each of its own: one that does not take its events does
// not take the place of others.
func (e *events) openHooks(cfg *config.Config) error {
	for i := range cfg.Hooks {
		c := &cfg.Hooks[i]
		h, client, err := makeHook(c)
		if err != nil {
			return errors.Join(fmt.Errorf("hooks: %s: %w", c.Name, err), e.closeHooks())
		}
		q, err := hooks.Open(hooks.Config{
			Dir: filepath.Join(cfg.DataDir, hooksDir, c.Name), Hooks: []hooks.Hook{h}, Logger: e.log, Client: client, GiveUp: c.GiveUp,
		})
		if err != nil {
			return errors.Join(fmt.Errorf("hooks: %s: %w", c.Name, err), e.closeHooks())
		}
		e.hooks = append(e.hooks, &hookQueue{Queue: q, cfg: *c})
	}
	return nil
}

func (e *events) closeHooks() error {
	var errs []error
	for _, q := range e.hooks {
		errs = append(errs, q.Close())
	}
	e.hooks = nil
	return errors.Join(errs...)
}
