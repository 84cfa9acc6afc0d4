// Package retention decides which snapshots are kept. It knows nothing of stores, and has no clock:
// whoever asks says what time it is.
//
// A [Policy] is what people write ("all 1d, daily 30d, yearly forever, last 10"), [Decide] tells of
// each snapshot of a line whether it is kept, and why. Whatever the policy says, these are never
// removed: what is pinned, what the caller holds, what is younger than the lock, and the newest.
//
// # Evidence
//
// Clocks are set, by mistake and on purpose, and a snapshot's time is that of the clock when it was
// made. So [Evidence] keeps a time of its own, which advances with what really passes: with a clock
// that nobody can set, as long as the machine runs. It goes no faster, whatever the wall clock shows;
// over a restart of the machine it follows the wall clock, by three days at most and not further than
// was observed before. Of each snapshot it is kept when it was first seen, and when the one who looked
// had looked before. A lock counts from then on, and by time that was observed alone. A snapshot whose
// time is not between the two is in doubt: it ages from when it was seen, it counts in the periods of
// both times, and it takes the place of none that is not in doubt.
//
// An earlier time never removes more than a later one: [Decide] with it keeps all that it would keep
// later. So whenever times disagree the earlier one is right.
package retention
