// Package hooks tells others what has happened: it runs programs, and posts to web servers.
//
// An event is in a queue on the disk before [Queue.Add] returns. Each hook gets the events that
// it wants in their order, one at a time, and again until it has taken them: at least once. So it
// must not mind an event that comes twice; the id tells. What a hook does not take for
// [Config.GiveUp], or again and again while it takes the event behind, is given up, and logged as an
// error; other hooks do not wait for it.
//
// The queue is one file of lines, each a checksum and an event, flushed in groups; a state beside
// it says how far each hook is. It becomes empty when everything has been taken.
package hooks
