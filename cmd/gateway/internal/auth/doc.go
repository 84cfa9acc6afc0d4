// Package auth decides who may log in: it holds the users of the configuration, checks
// passwords and public keys, and slows down and locks out those who guess.
//
// A [Directory] is the set of users. It is replaced as a whole on a reload; sessions that
// are already open keep the principal they logged in with.
//
// Nothing that a client can measure tells an unknown user from a known one: a password
// for an unknown, disabled or key-only user is checked against a hash of the same cost as
// that of some configured user. Only passwords that were tried count towards lock-out;
// connecting, and offering keys that are not listed, never does, because agents offer
// every key they have. A listed key logs in even while passwords are locked out, so that
// nobody can lock a device out by guessing at its name.
package auth
