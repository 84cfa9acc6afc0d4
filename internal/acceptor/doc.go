// Package acceptor is the part of a server that does not depend on its protocol: it accepts
// connections, counts them against limits, and ends them in order at a shutdown.
package acceptor
