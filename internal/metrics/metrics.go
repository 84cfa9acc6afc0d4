package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Namespace begins the name of every metric of ours.
const Namespace = "snapgate"

// Config configures Metrics.
type Config struct {
	// Version is the program's, and Kloset the library's.
	Version, Kloset string
}

// Metrics are the metrics of one gateway. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	logins      *prometheus.CounterVec
	uploads     *prometheus.CounterVec
	downloads   *prometheus.CounterVec
	operations  *prometheus.CounterVec
	uploadTime  *prometheus.HistogramVec
	closeTime   *prometheus.HistogramVec
	commits     *prometheus.CounterVec
	commitTime  prometheus.Histogram
	jobRuns     *prometheus.CounterVec
	jobDuration *prometheus.GaugeVec
}

// Results, the values of the label result.
const (
	ok     = "ok"
	failed = "failed"
)

// New makes the metrics.
func New(cfg Config) (*Metrics, error) {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		logins: counter("logins_total",
			"Attempts to log in, by protocol, method (password, publickey) and result (ok, failed).", "protocol", "method", "result"),
		uploads: counter("uploads_total",
			"Uploads that have ended, by share, protocol and result (ok, failed, cut_off).", "share", "protocol", "result"),
		downloads: counter("downloads_total",
			"Downloads that have ended, by share, protocol and result (ok, failed).", "share", "protocol", "result"),
		operations: counter("operations_total",
			"Changes without contents, by share, operation (remove, rename, mkdir, …) and result (ok, failed).", "share", "operation", "result"),
		uploadTime: histogram("upload_seconds",
			"From the opening of a file to the acknowledgement of its upload, of uploads that were published, by protocol.",
			[]float64{0.01, 0.1, 0.5, 1, 5, 30, 60, 300, 900, 3600, 4 * 3600}, "protocol"),
		closeTime: histogram("upload_close_seconds",
			"From the end of the contents to the acknowledgement: how long a client waits for its upload to be durable.",
			[]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30}, "protocol"),
		commits: counter("commits_total",
			"Attempts to make a snapshot of a share's changes, by share and result (ok, failed).", "share", "result"),
		commitTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: Namespace, Name: "commit_seconds",
			Help:    "How long it takes to make a snapshot of changes, of commits that went well.",
			Buckets: []float64{0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000},
		}),
		jobRuns: counter("job_runs_total",
			"Runs of scheduled jobs that have ended, by job, kind (pull, sync, …) and result (ok, partial, failed, stopped).", "job", "kind", "result"),
		jobDuration: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: Namespace, Name: "job_last_duration_seconds",
			Help: "How long the last run of a job took, since the start of the gateway.",
		}, []string{"job", "kind"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: Namespace, Name: "build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": cfg.Version, "kloset": cfg.Kloset},
	})
	info.Set(1)
	for _, c := range []prometheus.Collector{
		m.logins, m.uploads, m.downloads, m.operations, m.uploadTime, m.closeTime, m.commits, m.commitTime,
		m.jobRuns, m.jobDuration, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := m.registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Watch adds the metrics of how things stand. state is called for every answer, and must not
// wait long. It may be called once.
func (m *Metrics) Watch(state func() State) error {
	return m.registry.Register(newStateCollector(state))
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: Namespace, Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: Namespace, Name: name, Help: help, Buckets: buckets}, labels)
}

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
}

// maxScrapes is how many may read at once: a Prometheus, its spare one, and somebody who
// looks.
const maxScrapes = 4

func result(good bool) string {
	if good {
		return ok
	}
	return failed
}

// Login counts an attempt to log in.
func (m *Metrics) Login(protocol, method string, good bool) {
	m.logins.WithLabelValues(protocol, method, result(good)).Inc()
}

// Upload counts an upload that was closed; took is since it was opened, closing since the
// close.
func (m *Metrics) Upload(share, protocol string, good bool, took, closing time.Duration) {
	m.uploads.WithLabelValues(share, protocol, result(good)).Inc()
	if good {
		m.uploadTime.WithLabelValues(protocol).Observe(took.Seconds())
		m.closeTime.WithLabelValues(protocol).Observe(closing.Seconds())
	}
}

// CutOff counts an upload that was cut off.
func (m *Metrics) CutOff(share, protocol string) {
	m.uploads.WithLabelValues(share, protocol, "cut_off").Inc()
}

// Download counts a download.
func (m *Metrics) Download(share, protocol string, good bool) {
	m.downloads.WithLabelValues(share, protocol, result(good)).Inc()
}

// Operation counts a change without contents.
func (m *Metrics) Operation(share, op string, good bool) {
	m.operations.WithLabelValues(share, op, result(good)).Inc()
}

// Commit counts an attempt to commit.
func (m *Metrics) Commit(share string, good bool, took time.Duration) {
	m.commits.WithLabelValues(share, result(good)).Inc()
	if good {
		m.commitTime.Observe(took.Seconds())
	}
}

// JobRun counts a run of a job that has ended.
func (m *Metrics) JobRun(job, kind, result string, took time.Duration) {
	m.jobRuns.WithLabelValues(job, kind, result).Inc()
	m.jobDuration.WithLabelValues(job, kind).Set(took.Seconds())
}
