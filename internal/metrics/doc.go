// Package metrics is what a gateway tells Prometheus. It has a registry of its own. What is
// counted as it happens comes in by the methods of [Metrics]; how things stand is asked for
// when somebody reads, by what [Metrics.Watch] was given.
//
// It knows none of the packages that it tells of: the command translates. docs/METRICS.md
// lists every metric, and a test compares.
//
// Labels are names from the configuration and words from short lists, never what a client
// sends: the number of series is bounded. There is none by user.
package metrics
