package main

import (
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/websrv"
)

// webVerification tells how far the stores were read back: the one that is served, and with others those
// that were, or of which that cannot be read.
func (s *serving) webVerification(others bool) []websrv.Verification {
	cfg := s.inForce.Load()
	var list []websrv.Verification
	for _, named := range cfg.AllStores() {
		v := websrv.Verification{Store: named.Name, Others: named.Name != config.DefaultStore}
		if v.Others {
			if !others {
				continue
			}
			if v.State, v.Err = snapshotter.ReadScrubState(scrubDir(cfg, named)); v.Err == nil && v.State.Store == "" {
				continue // nobody has
			}
			if v.Err == nil {
				v.Err = v.State.Known()
			}
		} else {
			v.State, v.Err = s.verifying.get()
			v.Every = cfg.Verify.Every
			v.Next, v.Running = s.nextRun(config.VerifyJob)
		}
		if every, err := time.ParseDuration(v.State.Every); err == nil && v.Every == 0 {
			v.Every = every
		}
		list = append(list, v)
	}
	return list
}

// nextRun tells when a job is due, and what it has done if it runs.
func (s *serving) nextRun(name string) (next time.Time, running string) {
	for _, st := range s.jobs.List() {
		if st.Name != name {
			continue
		}
		if st.Running {
			running = s.progress.text(name)
		}
		return st.Next, running
	}
	return next, running
}
