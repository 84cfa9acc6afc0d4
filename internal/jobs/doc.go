// Package jobs runs named jobs at the times of their schedules. It knows nothing of what they do.
//
// A job runs when its time has come, some seconds or minutes later so that many gateways do not
// come to one server in the same second (jitter), and never beside itself; how many jobs run at
// once is bounded. A run that failed for a reason that may go away is repeated with growing pauses
// until the next time of the schedule; other failures wait for that time. What a gateway missed
// while it was down, or could not finish before it was stopped or killed, is made up once at its
// next start.
//
// # State
//
// Each job has a file NAME.json in the scheduler's directory (see [State]), written durably before
// a run begins and after it has ended. A kill at any moment thus costs at most one more run, never
// one less. A file that cannot be read is replaced, and its job runs once.
//
// # Clocks
//
// Times of a schedule are times of the wall clock, which can be set. The scheduler waits by the
// monotonic clock, a minute at most, and then looks at the wall clock again. [State.Due] only grows:
// when the clock is set forward, what was missed runs once; when it is set back, nothing runs
// again before a time that the schedule had not had. [Cron] tells what happens when clocks change
// for summer.
//
// # Locks
//
// Scheduler.setting (held while Set reads and writes files), then entry.saving (held while a state
// is written, so that the newest is written last), then Scheduler.mu, a leaf without I/O.
package jobs
