package store

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"os/user"
	"runtime"
	"strings"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/kcontext"
	"github.com/PlakarKorp/kloset/logging"

	"github.com/snapgate/gateway/internal/background"
)

// client is the Client in the header of the snapshots that are made here.
const client = "snapgate"

// newKContext makes the context that kloset's calls share. It lives as long as the Store
// and must never be cancelled: a cancelled one makes every later backup fail. Commits are
// given up by other means (see snapshotter).
func newKContext(log *slog.Logger, cacheDir string) *kcontext.KContext {
	kctx := kcontext.NewKContext()
	kctx.Stdin, kctx.Stdout, kctx.Stderr = bytes.NewReader(nil), io.Discard, io.Discard
	out := &logWriter{log}
	kctx.SetLogger(logging.NewLogger(out, out))
	kctx.SetCache(caching.NewManager(newCache))
	kctx.CacheDir = cacheDir
	kctx.MaxConcurrency = background.Cores() // 0 would hang
	kctx.OperatingSystem = runtime.GOOS
	kctx.Architecture = runtime.GOARCH
	kctx.ProcessID = os.Getpid()
	kctx.Client = client
	kctx.CWD = "/"
	if host, err := os.Hostname(); err == nil {
		kctx.Hostname = host
	}
	if u, err := user.Current(); err == nil {
		kctx.Username = u.Username
	}
	return kctx
}

// logWriter passes kloset's log lines on.
type logWriter struct{ log *slog.Logger }

func (w *logWriter) Write(p []byte) (int, error) {
	level, text, ok := strings.Cut(strings.TrimSpace(string(p)), ": ")
	if !ok {
		level, text = "", strings.TrimSpace(string(p))
	}
	switch level {
	case "error", "warn":
		w.log.Warn("kloset", "text", text)
	default:
		w.log.Debug("kloset", "text", text)
	}
	return len(p), nil
}
