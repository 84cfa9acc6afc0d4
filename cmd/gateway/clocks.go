package main

import (
	"crypto/rand"
	"time"

	"github.com/snapgate/gateway/internal/retention"
)

// machineClocks returns what reads the clocks of the machine. Where nothing tells its boots apart,
// each process counts as one.
func machineClocks() func() retention.Reading {
	process, start := rand.Text(), time.Now()
	return func() retention.Reading {
		now := time.Now()
		r := retention.Reading{Wall: now.Round(0), Boot: process, Up: now.Sub(start)}
		if up, err := uptime(); err == nil {
			if id := bootID(); id != "" {
				r.Boot, r.Up = id, up
			}
		}
		return r
	}
}
