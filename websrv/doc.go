// Package websrv answers HTTP: whether the gateway is alive, whether it is ready, its metrics, and
// the pages of the viewer. Of its state it knows nothing; the command gives it functions.
//
//   - GET /healthz: 200 and "ok" while the process is alive and its main loop turns; else 503.
//   - GET /readyz: 200 while uploads are taken, else 503; one line of text for each thing
//     that is not as it should be. There are no secrets in it, and no paths.
//   - GET /metrics: for Prometheus, where [Config.Metrics] is set.
//
// The pages ([Config.Viewer]) are for users who have logged in, by a form, with their passwords. A
// request is a session of package vfs, which decides what it shows and does; what a session cannot
// tell comes from the snapshots, through one check (reach). Pages are made here, have no script, and
// allow none; no content of a file is ever shown as anything but text or a picture.
//
// Lock order: logins.mu and gate.mu are leaves.
//
// Everything else is 404. A request whose Host is neither an address, nor localhost, nor one
// of [Config.Hosts] is refused with 421 (RFC 9110 section 15.5.20): a page in somebody's
// browser whose name was made to lead here (DNS rebinding) learns nothing.
package websrv
