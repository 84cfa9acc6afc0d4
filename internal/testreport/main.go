// Command testreport runs `go test -json` and says what happened: a line a package while it
// runs, the output of every failed test, and the counts at the end. It keeps the counts of
// each run in a file, so that several runs (unit tests, crash tests, peers) can be summed
// into one closing line.
//
//	testreport -out build/unit.json -- -timeout 10m ./...     run go test with these arguments
//	testreport -total build/unit.json build/peers.json        sum earlier runs
//
// The last line printed by -total is "N passed, N failed" and nothing else. The exit status
// is 1 when anything failed, also when a package did not build or a file of counts is missing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("testreport", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("out", "", "write the counts to this `file`")
	total := flags.Bool("total", false, "sum the files of counts named as arguments")
	dir := flags.String("dir", "", "run go test in this `directory`, as of another module")
	show := flags.Bool("show", false, "print the output of tests that pass as well")
	failed := flags.Int("failed", 0, "with -total: add this `number` of failures found elsewhere")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	var err error
	if *total {
		err = printTotal(stdout, *failed, flags.Args())
	} else {
		err = goTest(ctx, newReport(stdout, *show), stderr, *dir, *out, flags.Args())
	}
	if err != nil {
		if !errors.Is(err, errFailed) {
			_, _ = fmt.Fprintf(stderr, "testreport: %v\n", err)
		}
		return 1
	}
	return 0
}

// errFailed says that tests failed, which has been printed already.
var errFailed = errors.New("tests failed")

// goTest runs go test with args in a directory and reports on it.
func goTest(ctx context.Context, rep *report, stderr io.Writer, dir, out string, args []string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	// An interrupted go test must not leave test binaries behind: it passes the signal on.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Dir, cmd.Stderr = dir, stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting go test: %w", err)
	}
	readErr := rep.read(pipe)
	waitErr := cmd.Wait()
	counts := rep.counts()
	if waitErr != nil && counts.Failed == 0 {
		counts.Failed = 1 // go test itself failed: a bad flag, a time-out, no package
		rep.printf("FAIL  go test: %v\n", waitErr)
	}
	rep.printSlowest()
	rep.printf("      %s\n", counts)
	if out != "" {
		if err := writeCounts(out, counts); err != nil {
			return err
		}
	}
	switch {
	case readErr != nil:
		return readErr
	case counts.Failed > 0:
		return errFailed
	}
	return nil
}

// Counts are the results of one run.
type Counts struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
}

// String is the line for people; the closing line has no skipped count.
func (c Counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.Passed, c.Failed, c.Skipped)
}

func writeCounts(file string, c Counts) error {
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("writing counts: %w", err)
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing counts: %w", err)
	}
	return nil
}

// printTotal sums files of counts. A missing file is a run that never ended: a failure.
func printTotal(stdout io.Writer, failed int, files []string) error {
	sum := Counts{Failed: failed}
	for _, file := range files {
		var c Counts
		data, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(data, &c)
		}
		if err != nil {
			_, _ = fmt.Fprintf(stdout, "FAIL  no counts: %v\n", err)
			c = Counts{Failed: 1}
		}
		sum.Passed += c.Passed
		sum.Failed += c.Failed
		sum.Skipped += c.Skipped
	}
	if sum.Skipped > 0 {
		_, _ = fmt.Fprintf(stdout, "%d skipped\n", sum.Skipped)
	}
	_, _ = fmt.Fprintf(stdout, "%d passed, %d failed\n", sum.Passed, sum.Failed)
	if sum.Failed > 0 {
		return errFailed
	}
	return nil
}
