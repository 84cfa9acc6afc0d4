package metrics

import (
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// full is a state in which everything has a series.
func full() State {
	at := time.Date(2026, 11, 21, 19, 4, 29, 0, time.UTC)
	return State{
		Servers:  []Server{{Name: "sftp", Open: 3, Accepted: 10, Refused: 1}},
		Sessions: map[string]int{"sftp": 2}, Handles: 4,
		Received: map[string]int64{"sftp": 1 << 20}, Sent: map[string]int64{"sftp": 5},
		Spool: 100, SpoolLimit: 1000, DiskFree: 7,
		Shares: []Share{
			{
				Name: "main", Kind: KindShare, Uploads: 1, Changes: 2, ChangedBytes: 3, Bytes: 20, Quota: 30, Sets: 4, Oldest: at, Journal: 5, Spool: 6,
				Failures: 7, Snapshots: 8, LastSnapshot: at, LastSuccess: at, SnapshotFiles: 9, SnapshotBytes: 10,
			},
			{Name: "web1", Kind: KindSource, Snapshots: -1},
		},
		Jobs:    []Job{{Name: "web1", Kind: "pull", Running: true, Failures: 2, Success: at, Next: at}},
		Alarms:  []Alarm{{"shrink", "main"}},
		Hooks:   []Hook{{Name: "mail", Pending: 3, Failures: 4, GivenUp: 5, Dropped: 6, Success: at}},
		Verify:  Verify{Files: 3, Fresh: 2, Last: at, Oldest: at.Add(-time.Hour), Packfiles: 1, States: 4, Blobs: 5, Read: 7},
		StoreUp: true, StoreErrors: map[string]uint64{"write": 11}, AuditErrors: 12,
	}
}

// scrape returns what Prometheus would read.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("status %d, %v: %s", w.Code, err, body)
	}
	return string(body)
}

func newMetrics(t *testing.T) *Metrics {
	t.Helper()
	m, err := New(Config{Version: "v1", Kloset: "v2"})
	if err == nil {
		err = m.Watch(full)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.Login("sftp", "password", false)
	m.Upload("main", "sftp", true, 2*time.Second, 30*time.Millisecond)
	m.CutOff("main", "sftp")
	m.Download("main", "sftp", true)
	m.Operation("main", "remove", false)
	m.Commit("main", true, time.Second)
	m.JobRun("web1", "pull", "ok", time.Minute)
	return m
}

func TestValues(t *testing.T) {
	got := scrape(t, newMetrics(t))
	for _, want := range []string{
		`snapgate_build_info{kloset="v2",version="v1"} 1`,
		`snapgate_connections{server="sftp"} 3`,
		`snapgate_connections_refused_total{server="sftp"} 1`,
		`snapgate_logins_total{method="password",protocol="sftp",result="failed"} 1`,
		`snapgate_uploads_total{protocol="sftp",result="ok",share="main"} 1`,
		`snapgate_uploads_total{protocol="sftp",result="cut_off",share="main"} 1`,
		`snapgate_upload_close_seconds_sum{protocol="sftp"} 0.03`,
		`snapgate_operations_total{operation="remove",result="failed",share="main"} 1`,
		`snapgate_received_bytes_total{protocol="sftp"} 1.048576e+06`,
		`snapgate_pending_operations{share="main"} 2`,
		`snapgate_oldest_pending_timestamp_seconds{share="main"} 1.795287869e+09`,
		`snapgate_share_bytes{share="main"} 20`,
		`snapgate_share_quota_bytes{share="main"} 30`,
		`snapgate_snapshots{kind="share",share="main"} 8`,
		`snapgate_store_up 1`,
		`snapgate_hook_pending{hook="mail"} 3`,
		`snapgate_hook_dropped_total{hook="mail"} 6`,
		`snapgate_alarm_active{kind="shrink",subject="main"} 1`,
		`snapgate_store_errors_total{operation="write"} 11`,
		`snapgate_job_runs_total{job="web1",kind="pull",result="ok"} 1`,
		`snapgate_job_running{job="web1",kind="pull"} 1`,
		`snapgate_verify_last_run_timestamp_seconds 1.795287869e+09`,
		`snapgate_verify_oldest_timestamp_seconds 1.795284269e+09`,
		`snapgate_verify_files 3`,
		`snapgate_verify_fresh_files 2`,
		`snapgate_verify_damaged_packfiles 1`,
		`snapgate_verify_damaged_states 4`,
		`snapgate_verify_damaged_blobs 5`,
		`snapgate_verify_read_bytes_total 7`,
		"go_goroutines ",
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
	// A source has no journal, and what is not known has no series.
	for _, no := range []string{`journal_bytes{share="web1"`, `snapgate_snapshots{kind="source"`, `last_snapshot_timestamp_seconds{kind="source"`} {
		if strings.Contains(got, no) {
			t.Errorf("there is %s", no)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// What a client, or a share, can be called does not break the answer.
func TestLabelsOfAnyBytes(t *testing.T) {
	m := newMetrics(t)
	m.Upload("a\"b\n\\", "sftp", true, 0, 0)
	if got := scrape(t, m); !strings.Contains(got, `share="a\"b\n\\"`) {
		t.Errorf("the label is not escaped:\n%s", got)
	}
}

// docs/METRICS.md has every metric with its type and labels, and none that there is not.
func TestDocumentation(t *testing.T) {
	data, err := os.ReadFile("../../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(snapgate_[a-z_]+)` \\| (\\w+) \\|([^|]*)\\|")
	var documented []string
	for _, m := range row.FindAllStringSubmatch(string(data), -1) {
		labels := strings.FieldsFunc(m[3], func(r rune) bool { return strings.ContainsRune("`, ", r) })
		slices.Sort(labels)
		documented = append(documented, fmt.Sprintf("%s %s %v", m[1], m[2], labels))
	}
	families, err := newMetrics(t).registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var registered []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), Namespace) {
			continue
		}
		labels := []string{}
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		registered = append(registered, fmt.Sprintf("%s %s %v", f.GetName(), strings.ToLower(f.GetType().String()), labels))
	}
	slices.Sort(documented)
	if diff := cmp.Diff(registered, documented); diff != "" {
		t.Errorf("docs/METRICS.md differs (-registered +documented):\n%s", diff)
	}
}
