// Package watch notices each snapshot of the gateway's shares and sources once, whoever has made it.
//
// A [Watcher] compares the snapshots of each lineage with a durable mark, the number of the last one that
// it has dealt with. What is new is inspected and told of, and then the mark moves: what a crash cuts
// short is done again, so everything is done at least once.
package watch
