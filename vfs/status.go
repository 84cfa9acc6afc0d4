package vfs

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// Status is how a System is doing.
type Status struct {
	Shares   []ShareStatus  // by name
	Sessions map[string]int // open, by protocol
	Handles  int            // open
	// Received and Sent are bytes of files since the start, by protocol.
	Received, Sent map[string]int64
	SpoolBytes     int64 // spool, journal and pending nodes of all shares
	SpoolLimit     int64
	// Holes are bytes of files that wait for their commit which nobody has sent: zeros between what was
	// written. They are not in SpoolBytes, and SpoolLimit bounds them likewise.
	Holes int64
	// Partials is how many uploads were cut off and can be resumed, PartialBytes what they have of SpoolBytes.
	Partials     int
	PartialBytes int64
	DiskFree     int64 // bytes, -1 when the file system does not tell
	Reserve      int64 // of DiskFree, that is left for a commit
}

// ShareStatus is how a share is doing. Of a source, what is about changes stays zero.
type ShareStatus struct {
	Name     string
	Source   bool
	Sessions int
	Uploads  int // open

	Changes      int       // accepted, and in no snapshot yet
	ChangedBytes int64     // of the files that they put
	Sets         int       // that are sealed and wait for their commit
	Oldest       time.Time // when the oldest completed change was accepted, zero for none
	Waiting      int       // operations that wait now until commits have made room
	Slowed       bool      // some wait, or did a moment ago: there are many changes (Limits.Changes)
	Refusing     bool      // changes are refused: there is no room, and commits fail
	Journal      int64     // bytes
	Spool        int64     // bytes

	Bytes int64 // of the files in the live tree
	Quota int64 // of Bytes; 0 for none

	Head     snapshotter.ID // zero before the first commit
	HeadTime time.Time

	// CommitSuccess is when the last attempt went well, HeadTime before the first since the start.
	CommitSuccess  time.Time
	CommitFailures int       // in a row
	CommitError    error     // of the last attempt, nil when that went well
	FailingSince   time.Time // when the first of them was, zero for none
	JournalError   error     // why changes are refused, nil when they are not
	SourceError    error     // why the newest snapshot of a source cannot be shown
}

// trouble is what goes wrong in a share.
type trouble struct {
	failures int
	success  time.Time
	since    time.Time
	commit   error
	journal  error
}

// noteAttempt notes how an attempt to commit has ended.
func (s *share) noteAttempt(failures int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if failures == 1 {
		s.trouble.since = time.Now().UTC()
	}
	if err == nil {
		s.trouble.success, s.trouble.since = time.Now().UTC(), time.Time{}
	}
	s.trouble.failures, s.trouble.commit = failures, err
}

// observedCommit is commitNext, and tells of failures.
func (s *share) observedCommit(ctx context.Context) (bool, error) {
	began := time.Now()
	more, err := s.commitNext(ctx)
	if err != nil && ctx.Err() == nil {
		s.tell(Commit{Dur: time.Since(began), Err: err})
	}
	return more, err
}

// Status tells how the system is doing. It asks memory and the local file system only.
func (s *System) Status() Status {
	st := Status{
		Sessions: map[string]int{}, Received: map[string]int64{}, Sent: map[string]int64{},
		Handles:    s.handles.count(),
		SpoolLimit: s.cfg.Limits.SpoolBytes, Reserve: s.cfg.Limits.ReserveBytes,
	}
	for _, sh := range s.allShares() {
		one := sh.status()
		st.Shares = append(st.Shares, one)
		st.SpoolBytes += sh.pending()
		if sh.source == nil {
			n, bytes := sh.uploads.left()
			st.Partials, st.PartialBytes = st.Partials+n, st.PartialBytes+bytes
		}
	}
	st.Holes = s.holes()
	s.mu.Lock()
	for sess := range s.sessions {
		st.Sessions[sess.from.Protocol]++
	}
	for protocol, t := range s.traffic {
		st.Received[protocol], st.Sent[protocol] = t.in.Load(), t.out.Load()
	}
	s.mu.Unlock()
	var err error
	if st.DiskFree, _, err = s.space.available(s.cfg.DataDir, 0); err != nil {
		st.DiskFree = -1
	}
	return st
}

// Accepting says why uploads are refused now, nil when they are not.
func (s *System) Accepting() error {
	var any *share
	for _, sh := range s.allShares() {
		if sh.source != nil {
			continue
		}
		any = sh
		sh.mu.Lock()
		err := sh.trouble.journal
		sh.mu.Unlock()
		if err != nil {
			return errCause("accept", Name{}, KindDisk, errors.New("the journal of a share cannot be written"))
		}
	}
	if any == nil {
		return nil
	}
	// The limits are those of all shares together.
	if err := any.admit(nodeCost); err != nil {
		return err
	}
	s.space.giveBack(nodeCost)
	return nil
}

func (s *share) status() ShareStatus {
	st := ShareStatus{Name: s.name, Source: s.source != nil}
	if s.source == nil {
		st.Uploads, st.Journal, st.Spool = s.uploads.count(), s.journal.Bytes(), s.spool.Bytes()
		st.Waiting, st.Slowed = s.intake.slowed()
		st.Refusing = s.intake.refuses()
		st.Bytes, st.Quota = s.current().bytes(), s.config().Quota
	} else if now := s.source.shown.Load(); now != nil {
		st.Head, st.SourceError = now.tree.head, now.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Sessions = s.people.open
	st.CommitFailures, st.CommitError = s.trouble.failures, s.trouble.commit
	st.FailingSince, st.JournalError = s.trouble.since, s.trouble.journal
	if s.source != nil {
		return st
	}
	st.Head, st.HeadTime = s.ledger.last.id, s.ledger.last.time
	st.CommitSuccess = latest(st.HeadTime, s.trouble.success)
	st.Sets = len(s.ledger.sealed)
	for _, set := range append(slices.Clone(s.ledger.sealed), s.ledger.open) {
		st.Changes += len(set.ops)
		st.ChangedBytes += set.bytes
		st.Oldest = earliest(st.Oldest, set.oldest)
	}
	return st
}

// UploadStatus is an upload that is under way.
type UploadStatus struct {
	Share, Path string
	User        string
	From        ConnInfo
	Bytes       int64 // of the file so far
	Started     time.Time
	Active      time.Time // when bytes came last
}

// Uploads lists the uploads that are under way, the oldest first.
func (s *System) Uploads() []UploadStatus {
	var list []UploadStatus
	for _, sh := range s.allShares() {
		if sh.source == nil {
			list = append(list, sh.uploads.status(sh.name)...)
		}
	}
	slices.SortStableFunc(list, func(a, b UploadStatus) int { return a.Started.Compare(b.Started) })
	return list
}

func (t *uploads) status(share string) []UploadStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []UploadStatus
	for _, open := range t.open {
		for _, u := range open {
			st := UploadStatus{
				Share: share, Path: u.at.String(), User: u.user, Bytes: u.size.Load(),
				Started: u.started, Active: time.Unix(0, u.quiet.Load()).UTC(),
			}
			if owner := u.owner.Load(); owner != nil {
				st.From = owner.from
			}
			list = append(list, st)
		}
	}
	return list
}
