package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// answer is what the running gateway does for the other commands.
func (s *serving) answer(ctx context.Context, req control.Request, send func(control.Reply) error) control.Reply {
	s.log.Debug("control request", "op", req.Op, "share", req.Share)
	switch req.Op {
	case control.OpPing:
		return control.Reply{}
	case control.OpSnapshot:
		id, err := commitNow(ctx, s.system, req.Share)
		s.events.happened("operator_snapshot", req.Share, "", "", err)
		if err != nil {
			return refusal(err)
		}
		return control.Reply{ID: id.String()}
	case control.OpSnapshots:
		list, lost, err := listSnapshots(ctx, s.snapshots, req.Share, s.system.Lineage)
		for i := range list {
			if err == nil {
				err = send(control.Reply{Snapshot: &list[i]})
			}
		}
		rep := refusal(err)
		rep.Unreadable = lost[:min(len(lost), unreadableMost)]
		return rep
	case control.OpImport:
		s.events.happened("operator_import", req.Share, "", req.Dir, nil)
		sum, err := s.importDir(ctx, req, func(i control.Import) error { return send(control.Reply{Import: &i}) })
		rep := refusal(err)
		rep.Import = &sum.Import
		if !sum.head.IsZero() {
			rep.ID = sum.head.String()
		}
		return rep
	case control.OpStatus:
		return s.answerStatus(ctx, send)
	case control.OpScrub:
		return s.answerScrub(ctx, req, send)
	case control.OpMaintain:
		m, err := s.answerMaintain(ctx, req)
		rep := refusal(err)
		rep.Maintain = m
		return rep
	case control.OpJobs:
		return s.answerJobs(send)
	case control.OpRunJob:
		s.events.happened("operator_job", "", req.Job, "", nil)
		return s.answerRunJob(ctx, req.Job, send)
	case control.OpPrune, control.OpPrune + control.OfStore:
		return s.answerPrune(ctx, req, send)
	case control.OpHooks:
		return s.answerHooks(send)
	case control.OpAlarms:
		return s.answerAlarms(send)
	case control.OpAckAlarm:
		rep := s.answerAckAlarm(ctx, req)
		s.events.answered("operator_ack_alarm", req.Kind+" "+req.Subject, &rep)
		return rep
	case control.OpView:
		return s.answerView(ctx, req.View, send)
	case control.OpPins, control.OpPins + control.OfStore:
		return s.answerPins(ctx, req, send)
	case control.OpPin, control.OpUnpin, control.OpPin + control.OfStore, control.OpUnpin + control.OfStore:
		return s.answerPin(ctx, req)
	}
	return control.Reply{Error: fmt.Sprintf("the running gateway does not know %q", req.Op), Hint: "is it of another version? restart it"}
}

// refusal puts an error, if there is one, into an answer.
func refusal(err error) control.Reply {
	if err == nil {
		return control.Reply{}
	}
	return control.Reply{Error: err.Error(), Hint: hintFor(err)}
}

// errNoSnapshotYet says that a share has neither a snapshot nor a change.
var errNoSnapshotYet = errors.New("it has no snapshot yet, and nothing to commit")

// commitNow commits what is pending in a share and returns its head.
func commitNow(ctx context.Context, sys *vfs.System, share string) (snapshotter.ID, error) {
	id, err := sys.Commit(ctx, share)
	switch {
	case err != nil && vfs.KindOf(err) == vfs.KindNotExist:
		return id, &hintedError{
			err:  fmt.Errorf("share %q: the running gateway does not have it", share),
			hint: "gateway config check lists what is wrong with a configuration; SIGHUP makes the gateway take it over",
		}
	case errors.Is(err, vfs.ErrSource):
		return id, &hintedError{err: fmt.Errorf("%s: %w", share, vfs.ErrSource), hint: "run: gateway pull " + share}
	case err != nil:
		return id, notCommitted(share, err)
	case id.IsZero():
		return id, &hintedError{err: fmt.Errorf("share %s: %w", share, errNoSnapshotYet), hint: "store a file first"}
	}
	return id, nil
}

// notCommitted says why a share could not be committed. An operator may know the cause,
// which the text for clients leaves out.
func notCommitted(share string, err error) error {
	var ve *vfs.Error
	cause := err
	if errors.As(err, &ve) && ve.Err != nil {
		cause = ve.Err
	}
	return &hintedError{
		err:  fmt.Errorf("share %s: %w", share, cause),
		hint: strings.TrimPrefix(hintFor(err)+"\nthe changes are kept, and the gateway goes on trying by itself", "\n"),
	}
}

// unreadableMost bounds the snapshots that cannot be read in an answer: it is one line.
const unreadableMost = 1000

// listSnapshots lists the snapshots of a share, of all without one, newest first, as they
// are in the store now. lineage tells which ones are a share's own: their names show it. lost are the ids of those that
// cannot be read, of whatever share.
func listSnapshots(ctx context.Context, snaps *snapshotter.Snapshotter, share string, lineage func(share string) snapshotter.Lineage) (out []control.Snapshot, lost []string, err error) {
	if err := snaps.Refresh(ctx); err != nil && snaps.Lacks() == nil {
		return nil, nil, err
	}
	list, err := snaps.Snapshots(ctx, share)
	if err != nil {
		return nil, nil, err
	}
	unreadable, err := snaps.Unreadable(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range unreadable {
		lost = append(lost, id.String())
	}
	out = make([]control.Snapshot, len(list))
	lineages := make(map[string]snapshotter.Lineage)
	for i, s := range list {
		own, ok := lineages[s.Share]
		if !ok {
			own = lineage(s.Share)
			lineages[s.Share] = own
		}
		tags := s.Tags
		if tags == nil {
			tags = []string{} // [] in JSON, not null
		}
		out[i] = control.Snapshot{
			ID: s.ID.String(), Time: s.Time.UTC().Format(time.RFC3339), Share: s.Share, Name: s.ViewName(own),
			Files: s.Files, Size: s.Size, Tags: tags,
		}
	}
	return out, lost, nil
}
