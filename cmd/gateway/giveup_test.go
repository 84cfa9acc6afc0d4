package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
)

// TestGiveUpQuestion: the question says how many packfiles are missing, as they may be somewhere else.
func TestGiveUpQuestion(t *testing.T) {
	dir := t.TempDir()
	state := `{"store":"s","damage":[{"kind":"packfile","text":"missing"},{"kind":"packfile","text":"index damaged"},{"kind":"packfile","text":"missing"},{"kind":"state","text":"missing"}]}`
	if err := os.WriteFile(filepath.Join(dir, "scrub.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := giveUpQuestion(dir, []string{"3f2a61c0", "aa"})
	want := "2 packfiles were missing when the store was scrubbed last. give 3f2a61c0, aa up for good? nobody can bring it back then [y/N] "
	if got != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// TestGivenUpIsTold: what a scrub has removed is told, too, when it fails after that; and it repairs.
func TestGivenUpIsTold(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	text := "version: 1\ndata_dir: " + dir + "\nstore: { location: \"fs://" + dir + "/store\", plaintext: true }\nshares: { main: {} }\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("3f", 32)
	server, err := control.Listen(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	asked := make(chan control.Request, 1)
	go func() {
		served <- server.Serve(ctx, func(_ context.Context, req control.Request, _ func(control.Reply) error) control.Reply {
			asked <- req
			return control.Reply{Error: "the store has gone away", Scrub: &control.Scrub{GivenUp: []string{id}}}
		})
	}()
	var stderr bytes.Buffer
	p := &program{stdout: io.Discard, stderr: &stderr, configFile: file}
	err = p.scrub(t.Context(), nil, scrubFlags{yes: true, giveUp: []string{id}})
	if err == nil || !strings.Contains(err.Error(), "the store has gone away") {
		t.Errorf("got %v", err)
	}
	if want := "snapshot 3f3f3f3f3f3f was given up\n"; !strings.Contains(stderr.String(), want) {
		t.Errorf("got %q, want %q", stderr.String(), want)
	}
	if req := <-asked; !req.Repair || len(req.GiveUp) != 1 {
		t.Errorf("asked for %+v, want a repair, too", req)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
