package acceptor

import "time"

// Observer is told of logins, for metrics and an audit log. Its methods are called from many
// goroutines at once and must return soon.
type Observer interface {
	// LoggedIn tells of an attempt to log in: one with Err nil has succeeded.
	LoggedIn(Login)
	// LoggedOut tells that a connection that had logged in has ended.
	LoggedOut(Logout)
}

// Peer is who is at the other end of a connection.
type Peer struct {
	User     string // before the login not proven, and shortened
	Protocol string // sftp, ftp or ftps
	Remote   string // host:port
	Conn     string // the connection's name in the log
}

// Login is an attempt to log in.
type Login struct {
	Peer
	Method string // password or publickey
	Key    string // fingerprint; of a refused login, of the keys that were offered, with commas between
	Client string // what the client says it is
	Err    error  // why it was refused; it holds no secret
}

// Logout is the end of a session.
type Logout struct {
	Peer
	Dur            time.Duration
	Read, Written  int64 // bytes of files
	Uploads, Files int64 // published, and opened at all
}

// Silent is an Observer that does nothing.
type Silent struct{}

// LoggedIn implements Observer.
func (Silent) LoggedIn(Login) {}

// LoggedOut implements Observer.
func (Silent) LoggedOut(Logout) {}

// Stats counts connections.
type Stats struct {
	Open     int    // now, those that have not logged in included
	LoggedIn int    // now
	Accepted uint64 // since the start
	Refused  uint64 // since the start, and dropped ones: there were too many
}

// Stats counts the connections of the server.
func (a *Acceptor) Stats() Stats {
	st := Stats{Accepted: a.acceptedN.Load(), Refused: a.refusedN.Load()}
	a.admission.mu.Lock()
	defer a.admission.mu.Unlock()
	st.Open = a.admission.all
	st.LoggedIn = st.Open - len(a.admission.waiting)
	return st
}
