// Package alarm keeps what is wrong until it is over or somebody has looked at it.
//
// An [Alarm] is named by its kind and its subject: a share, a source, a job, a store. Whoever finds
// that something is wrong raises it on the [Board], as often as it is found, and clears it when all
// is well again; only the first of each counts: it is logged, and told to [Config.Changed]. An alarm
// that tells of what has happened, a [Alarm.Finding], is over when somebody acknowledges it. Any other
// one tells of a state: acknowledging it says that somebody knows, and it stays until it is cleared.
//
// The board is a file in the directory of its gateway, written whole and durably, so that a restart
// neither loses an alarm nor raises it once more.
package alarm
