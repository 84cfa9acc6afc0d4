//go:build peers

package peers

import (
	"cmp"
	"fmt"
	"strings"
)

// operation is a column of the table.
type operation string

const (
	put        operation = "put"
	get        operation = "get"
	overwrite  operation = "overwrite"
	resume     operation = "resume"
	rename     operation = "rename"
	renameOver operation = "rename over"
	setAttr    operation = "time, mode"
	mkdir      operation = "mkdir"
	remove     operation = "rm"
	symlink    operation = "symlink"
	abort      operation = "abort"
	list       operation = "list 10,000"
	history    operation = "`.snapshots`"
)

func operations() []operation {
	return []operation{put, get, overwrite, resume, rename, renameOver, setAttr, mkdir, remove, symlink, abort, list, history}
}

// cell is what the table says of a client's operation.
type cell struct {
	do   func(*env) error // nil: the client cannot
	note string           // why it cannot, or how it does it
	text string           // what the table says instead of "yes"
}

// can is an operation that a client does.
func can(do func(*env) error) cell { return cell{do: do} }

// does is the same with a remark.
func does(note string, do func(*env) error) cell { return cell{do: do, note: note} }

// refused is an operation that the gateway must refuse.
func refused(note string, do func(*env) error) cell { return cell{do: do, note: note, text: "refused"} }

// cannot is an operation that a client lacks.
func cannot(reason string) cell { return cell{note: reason} }

// client is a row of the table.
type client struct {
	name    string
	program string // what must be installed
	cells   map[operation]cell
	logins  string // what the gateway's log must say of FTP logins: ftp or ftps; "": nothing
}

// protocols checks what the gateway has logged of FTP logins. Clients of SFTP run beside
// those of FTP, which run one after the other.
func (c client) protocols(log string) error {
	if c.logins == "" {
		return nil
	}
	for _, m := range ftpLogin.FindAllStringSubmatch(log, -1) {
		if m[1] != c.logins {
			return fmt.Errorf("a login was by %s, want %s", m[1], c.logins)
		}
	}
	return nil
}

const intro = `# Clients

What each client does against the gateway, tried by ` + "`make peers`" + ` with the programs of
Debian 12. The table is written by that test, which fails when it differs from the results.
"yes" means that the client did it and that another connection saw the right outcome;
"n/a" that the client has no such operation; "refused" that the gateway refuses it, as
OpenSSH's own server does.

What the columns mean beyond their names: *overwrite* replaces a longer file by a shorter
one. *resume* goes on with an upload whose connection was cut, without sending again what
had arrived. *rename over* gives a file the name of another one. *abort* cuts the connection
in the middle of an upload over an existing file: the old file must stay as it was, and
nothing new may be listed. *list 10,000* lists a directory of so many files. *.snapshots*
reads a file from ` + "`/.snapshots/latest`" + `.

`

// page renders docs/PEERS.md.
func page(clients, ftp []client, plakar []plakarRow) string {
	var b strings.Builder
	b.WriteString(intro)
	writeTable(&b, clients, operations())
	b.WriteString(ftpIntro)
	writeTable(&b, ftp, ftpOperations())
	b.WriteString("\n## plakar\n\nThe stock `plakar` command on the store that the gateway writes, while the gateway runs:\n\n| operation | result |\n|---|---|\n")
	for _, row := range plakar {
		fmt.Fprintf(&b, "| %s | yes |\n", row.text)
	}
	return b.String()
}

// writeTable renders clients by operations, and the notes.
func writeTable(b *strings.Builder, clients []client, ops []operation) {
	var notes strings.Builder
	b.WriteString("| client |")
	for _, op := range ops {
		fmt.Fprintf(b, " %s |", op)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(ops)) + "\n")
	numbers := make(map[string]int) // of the notes
	for _, c := range clients {
		fmt.Fprintf(b, "| %s |", c.name)
		for _, op := range ops {
			cell := c.cells[op]
			text := cmp.Or(cell.text, "yes")
			if cell.do == nil {
				text = "n/a"
			}
			if cell.note != "" {
				if numbers[cell.note] == 0 {
					numbers[cell.note] = len(numbers) + 1
					fmt.Fprintf(&notes, "%d. %s.\n", numbers[cell.note], cell.note)
				}
				text += fmt.Sprintf(" (%d)", numbers[cell.note])
			}
			fmt.Fprintf(b, " %s |", text)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n" + notes.String())
}
