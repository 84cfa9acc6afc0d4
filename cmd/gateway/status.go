package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/metrics"
	"github.com/snapgate/gateway/snapshotter"
)

func (p *program) statusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Tell how the gateway is doing",
		Long: `Asks the running gateway how it is doing: ports, connections, uploads under way, the store, the
spool, and of each share and source the last snapshot, what is in no snapshot yet and for how long,
and what went wrong last; then the jobs. What is not as it should be, alarms included, is listed at the end. Without
a running gateway it says so, and tells what the store and data_dir show. Times are UTC.

With --json it prints one object.

Exit status: 0 everything is as it should be; 1 no gateway is running, or it cannot be asked;
3 something is not as it should be.`,
		Example: `  gateway status -c /etc/gateway.yaml
  gateway status --json | jq -r '.problems[]'`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return p.status(c.Context(), asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// errUnhealthy ends a status with problems; they were printed.
var errUnhealthy = errors.New("not everything is as it should be")

func (p *program) status(ctx context.Context, asJSON bool) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	st, err := askStatus(ctx, cfg)
	var absent error
	if errors.Is(err, control.ErrNoServer) {
		absent, err = err, nil
		st = p.storedStatus(ctx, cfg)
	}
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if asJSON {
		err = printJSON(p.stdout, []control.Status{*st})
	} else {
		err = writeStatus(p.stdout, st)
	}
	switch {
	case err != nil:
		return err
	case absent != nil:
		return &hintedError{
			err:  fmt.Errorf("status: %w", absent),
			hint: "start it with: gateway serve -c " + shellQuote(p.configFile),
		}
	case !st.Healthy:
		return fmt.Errorf("status: %w", errUnhealthy)
	}
	return nil
}

// askStatus asks the running gateway.
func askStatus(ctx context.Context, cfg *config.Config) (*control.Status, error) {
	shares, list, alarms, uploads := []control.Share{}, []control.Job{}, []control.Alarm{}, []control.Upload{}
	rep, err := control.Call(ctx, cfg.DataDir, control.Request{Op: control.OpStatus}, func(r control.Reply) error {
		switch {
		case r.Share != nil:
			shares = append(shares, *r.Share)
		case r.Job != nil:
			list = append(list, *r.Job)
		case r.Alarm != nil:
			alarms = append(alarms, *r.Alarm)
		case r.Upload != nil:
			uploads = append(uploads, *r.Upload)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if rep.Status == nil {
		return nil, errors.New("the gateway does not say how it is")
	}
	rep.Status.Shares, rep.Status.Jobs, rep.Status.Alarms, rep.Status.Uploads = shares, list, alarms, uploads
	return rep.Status, nil
}

// storedStatus is what can be known without a gateway. What cannot be read is a problem, no error.
func (p *program) storedStatus(ctx context.Context, cfg *config.Config) *control.Status {
	st := &control.Status{
		DataDir: cfg.DataDir, Listeners: []control.Listener{}, Connections: []control.Connections{},
		Sessions: map[string]int{}, Shares: []control.Share{}, Jobs: []control.Job{}, Uploads: []control.Upload{},
		Alarms:   []control.Alarm{},
		Hooks:    []control.Hook{},
		Store:    control.StoreStatus{Location: cfg.Store.Location, Encrypted: !cfg.Store.Plaintext},
		Spool:    control.Spool{Bytes: leftInSpool(cfg.DataDir), DiskFree: -1, Limit: cfg.Limits.Spool},
		Problems: []string{"no gateway is running"},
	}
	list, _, err := readSnapshots(ctx, cfg, &cfg.Store, "")
	if st.Store.Reachable = err == nil; err != nil {
		st.Store.Error = err.Error()
		st.Problems = append(st.Problems, "store: "+st.Store.Error)
	}
	for _, share := range cfg.AllShares() {
		sh := control.Share{Name: share.Name, Kind: metrics.KindShare, Snapshots: -1}
		if share.Source {
			sh.Kind = metrics.KindSource
		}
		if err == nil {
			sh.Snapshots = 0
		}
		for i := range list { // the newest first
			if list[i].Share != share.Name {
				continue
			}
			if sh.Snapshots == 0 {
				sh.LastSnapshot, sh.Snapshot = list[i].Time, list[i].ID
			}
			sh.Snapshots++
		}
		st.Shares = append(st.Shares, sh)
	}
	if verified, err := snapshotter.ReadScrubState(scrubDir(cfg, &cfg.Store)); err != nil {
		st.Problems = append(st.Problems, err.Error())
	} else {
		st.Verify = describeVerify(&verified)
		if err := verified.Known(); err != nil {
			st.Problems = append(st.Problems, err.Error())
		}
	}
	jobs, _, err := findJobs(ctx, cfg)
	if err != nil {
		st.Problems = append(st.Problems, fmt.Sprintf("jobs: %v", err))
	}
	st.Jobs = append(st.Jobs, jobs...)
	for i := range jobs {
		st.Problems = append(st.Problems, jobProblems(&jobs[i])...)
	}
	if st.Alarms, err = storedAlarms(cfg); err != nil {
		st.Problems = append(st.Problems, fmt.Sprintf("alarms: %v", err))
	}
	st.Problems = append(st.Problems, alarmProblems(st.Alarms, st.Jobs)...)
	return st
}

// leftInSpool adds up the journals and spools that a gateway has left.
func leftInSpool(dataDir string) (bytes int64) {
	for _, sub := range []string{"journal", "spool"} {
		dirs, err := filepath.Glob(filepath.Join(dataDir, "shares", "*", sub))
		if err != nil {
			continue // only of a bad pattern
		}
		for _, dir := range dirs {
			_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
				if err != nil {
					return nil //nolint:nilerr // what cannot be read is not counted
				}
				if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
					bytes += info.Size()
				}
				return nil
			})
		}
	}
	return bytes
}

// shownUploads is how many uploads the table has.
const shownUploads = 10

// writeStatus writes one screen.
func writeStatus(out io.Writer, st *control.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	writeStatusHead(w, st)
	if err := w.Flush(); err != nil {
		return err
	}
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	quotas, used := slices.ContainsFunc(st.Shares, func(sh control.Share) bool { return sh.QuotaBytes > 0 }), ""
	if quotas {
		used = "USED\t"
	}
	_, _ = fmt.Fprintln(w, "\nSHARE\tKIND\tSNAPSHOTS\tLAST SNAPSHOT\tPENDING\tFOR\t"+used+"UPLOADS\tSESSIONS\tSTATE")
	for i := range st.Shares {
		writeShareRow(w, &st.Shares[i], st.Running, quotas)
	}
	if err := w.Flush(); err != nil { // keeps the errors of the lines
		return err
	}
	if len(st.Jobs) > 0 {
		_, _ = fmt.Fprintln(out)
		if err := writeJobs(out, st.Jobs); err != nil {
			return err
		}
	}
	if st.UploadsOpen > 0 {
		w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(w, "\nUPLOAD\tUSER\tFROM\tBYTES\tSINCE\tLAST BYTES")
		for i := range st.Uploads[:min(len(st.Uploads), shownUploads)] {
			u := &st.Uploads[i]
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(u.Share+":"+u.Path), printable(u.User),
				u.Protocol+" "+u.Remote, bytesText(u.Bytes), u.Started, u.Active)
		}
		if more := st.UploadsOpen - shownUploads; more > 0 {
			_, _ = fmt.Fprintf(w, "and %d more\n", more)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(st.Problems) == 0 {
		return nil
	}
	_, _ = fmt.Fprintln(out, "\nNot as it should be:")
	for _, problem := range st.Problems {
		if _, err := fmt.Fprintf(out, "  %s\n", printable(problem)); err != nil {
			return err
		}
	}
	return nil
}

func writeStatusHead(w io.Writer, st *control.Status) {
	if st.Running {
		_, _ = fmt.Fprintf(w, "gateway\t%s, running since %s (%s)\n", st.Version, st.Started, age(time.Duration(st.Uptime)*time.Second))
		var ports []string
		for _, l := range st.Listeners {
			text := l.Server + " " + l.Addr
			if l.TLS != "" {
				text += " (tls " + l.TLS + ")"
			}
			ports = append(ports, text)
		}
		_, _ = fmt.Fprintf(w, "listening\t%s\n", joinOr(ports, "nowhere"))
		var conns []string
		for _, c := range st.Connections {
			conns = append(conns, fmt.Sprintf("%s %d, %d logged in", c.Server, c.Open, c.LoggedIn))
		}
		_, _ = fmt.Fprintf(w, "connections\t%s\n", strings.Join(conns, "; "))
	} else {
		_, _ = fmt.Fprintf(w, "gateway\tnot running on %s\n", printable(st.DataDir))
	}
	reach, crypt := "reachable", "encrypted"
	if !st.Store.Reachable {
		reach = "NOT REACHABLE"
	}
	if !st.Store.Encrypted {
		crypt = "not encrypted"
	}
	_, _ = fmt.Fprintf(w, "store\t%s, %s, %s\n", printable(st.Store.Location), crypt, reach)
	spool := bytesText(st.Spool.Bytes)
	if st.Spool.Limit > 0 {
		spool += " of " + bytesText(st.Spool.Limit)
	}
	if st.Spool.Partials > 0 {
		spool += fmt.Sprintf("; %s of it left of %s", bytesText(st.Spool.PartialBytes),
			count(int(st.Spool.Partials), "upload that was cut off", "uploads that were cut off"))
	}
	if st.Spool.Holes > 0 {
		spool += "; and " + bytesText(st.Spool.Holes) + " of zeros that nobody has sent"
	}
	if st.Spool.DiskFree >= 0 {
		spool += "; " + bytesText(st.Spool.DiskFree) + " free on the disk"
	}
	_, _ = fmt.Fprintf(w, "spool\t%s\n", spool)
	if v := st.Verify; v != nil {
		text := fmt.Sprintf("%d of %s of the store were read back in time", v.Fresh, count(v.Files, "file", "files"))
		if v.Oldest != "" {
			text += "; the oldest since " + v.Oldest
		}
		if v.Damaged > 0 {
			text += fmt.Sprintf("; %s damaged", count(v.Damaged, "is", "are"))
		}
		_, _ = fmt.Fprintf(w, "verified\t%s\n", text)
	}
	if st.Audit != nil {
		_, _ = fmt.Fprintf(w, "audit log\t%s\n", printable(st.Audit.File))
	}
}

func writeShareRow(w io.Writer, sh *control.Share, running, quotas bool) {
	snapshots, last, pending, since := "-", "-", "-", "-"
	if sh.Snapshots >= 0 {
		snapshots = fmt.Sprint(sh.Snapshots)
	}
	if sh.LastSnapshot != "" {
		last = sh.LastSnapshot
	}
	if sh.Pending > 0 {
		pending = fmt.Sprintf("%d, %s", sh.Pending, bytesText(sh.PendingBytes))
	}
	if sh.OldestPending != "" {
		since = age(time.Duration(sh.Backlog) * time.Second)
	}
	if quotas {
		used := "-"
		switch {
		case sh.QuotaBytes > 0:
			used = bytesText(sh.UsedBytes) + " of " + bytesText(sh.QuotaBytes)
		case running && sh.Kind == metrics.KindShare:
			used = bytesText(sh.UsedBytes)
		}
		since += "\t" + used
	}
	state := "ok"
	switch {
	case sh.Error != "":
		state = "FAILING"
	case !running:
		state = "-"
	}
	_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n",
		printable(sh.Name), sh.Kind, snapshots, last, pending, since, sh.Uploads, sh.Sessions, state)
}

// age is a duration in one word or two.
func age(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%ds", int(d.Seconds()))
	}
	var zero time.Time
	return strings.TrimSpace(humanize.RelTime(zero, zero.Add(d), "", ""))
}
