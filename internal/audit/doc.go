// Package audit keeps a log of what matters to somebody who asks later who did what: lines of
// JSON, one an event, appended to a file that only its owner can read.
//
// An event is one write to the end of the file, so that lines of several writers never mix; it
// is not flushed to the disk by itself. A line that could not be written whole is ended before
// the next one. What is not printable is escaped: what a client has put into a name does nothing to
// the terminal of whoever reads it.
//
// When the log cannot be written, the gateway goes on: the loss is logged, counted, and told by
// [Log.Status].
package audit
