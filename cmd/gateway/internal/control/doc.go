// Package control is how the commands talk to the gateway that runs: over a unix socket
// in data_dir, which its mode leaves to the gateway's own user and root.
//
// The protocol is lines of JSON. A client sends one [Request] and reads [Reply] lines;
// the last of them has Done set. Behind a line with an [Output] stand the bytes of that. A
// connection carries one request; closing it takes the request back.
package control
