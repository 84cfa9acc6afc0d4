package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/pull"
)

// watch shows how far a run is until stop is called: on the live line, or as lines of JSON.
func (pc *pullCommand) watch(src *config.Source, report *pull.Report) (stop func()) {
	var interval time.Duration
	var show func(now time.Time)
	began := time.Now()
	switch {
	case pc.asJSON:
		interval = jsonInterval
		show = func(now time.Time) {
			p := report.Progress()
			_ = pc.encode(pullLine{Type: "progress", Source: src.Name, progressLine: &progressLine{ // the summary tells when nobody reads
				Counts: p.Counts, Seconds: now.Sub(began).Seconds(), Moved: p.Moved, Wanted: p.Wanted, WantedBytes: p.WantedBytes,
				Listed: p.Listed, Current: strings.ToValidUTF8(p.Path, "\uFFFD"),
			}})
		}
	case pc.line != nil:
		interval = lineInterval
		var bytes, files rateMeter
		show = func(now time.Time) {
			p := report.Progress()
			pace := pace{elapsed: now.Sub(began), bytes: bytes.add(now, p.Moved), files: files.add(now, p.Read)}
			pc.line.draw(src.Name + ": " + progressText(p, pace))
		}
	default:
		return func() {}
	}
	end := every(interval, show)
	return func() {
		end()
		if pc.line != nil {
			pc.line.draw("")
		}
	}
}

// every calls show again and again until stop is called.
func every(interval time.Duration, show func(now time.Time)) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case now := <-ticker.C:
				show(now)
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// pace is how fast a run is: bytes and files a second, lately.
type pace struct {
	elapsed      time.Duration
	bytes, files float64
}

// progressText is a line of progress: files, bytes, rate, what is left, and the path.
func progressText(p pull.Progress, at pace) string {
	parts := []string{count(p.Files, "file", "files") + " found", fmt.Sprintf("%d read, %s", p.Read, bytesText(p.Moved))}
	if p.Listed {
		parts = []string{fmt.Sprintf("%d of %s", p.Read, count(p.Wanted, "file", "files")), fmt.Sprintf("%s of %s", bytesText(p.Moved), bytesText(p.WantedBytes))}
	}
	if p.Problems > 0 {
		parts = append(parts, count(p.Problems, "problem", "problems"))
	}
	if at.bytes >= 1 {
		parts = append(parts, bytesText(int64(at.bytes))+"/s")
	}
	if left, ok := remaining(p, at); ok {
		parts = append(parts, roughly(left)+" left")
	}
	text := strings.Join(parts, ", ")
	if p.Path != "" {
		text += ", " + printable(p.Path)
	}
	return text
}

// estimateAfter is how long a run must have been under way before an estimate is worth
// anything.
const estimateAfter = 3 * time.Second

// remaining estimates how long a run takes from here. Of large files the bytes decide, of small
// ones the number. Before all is listed, only the last snapshot tells how much there may be.
func remaining(p pull.Progress, at pace) (time.Duration, bool) {
	if at.elapsed < estimateAfter {
		return 0, false
	}
	seconds := 0.0
	switch {
	case p.Listed:
		if bytes := float64(p.WantedBytes - p.Moved); bytes > 0 {
			if at.bytes <= 0 {
				return 0, false
			}
			seconds = bytes / at.bytes
		}
		if files := float64(p.Wanted - p.Read); files > 0 && at.files > 0 {
			seconds = max(seconds, files/at.files)
		}
	case p.Files > 0 && p.Expected > p.Files:
		seconds = at.elapsed.Seconds() * float64(p.Expected-p.Files) / float64(p.Files)
	default:
		return 0, false
	}
	const longest = 1000 * time.Hour
	if seconds > longest.Seconds() {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}
