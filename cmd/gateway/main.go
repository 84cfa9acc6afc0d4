// Command gateway turns SFTP clients into immutable backup clients: what they store
// becomes snapshots of a kloset store.
package main

import (
	"context"
	"io"
	"os"
	_ "time/tzdata" // time_zone works on machines without a time zone database
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run runs one command and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr}
	return p.run(ctx, args)
}
