package main

import (
	"net"
	"net/netip"
	"strings"
)

// clientAddr turns the address that a server listens on into one that a client on this
// machine can use.
func clientAddr(listen string) (host, port string) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen, ""
	}
	if a, err := netip.ParseAddr(host); host == "" || err == nil && a.IsUnspecified() {
		host = "127.0.0.1"
	}
	return host, port
}

// bracket puts an IPv6 address into brackets, as URLs want it.
func bracket(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}
