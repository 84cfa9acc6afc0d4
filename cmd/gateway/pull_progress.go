package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"
)

const (
	// lineInterval is between two drawings of a line of progress.
	lineInterval = 200 * time.Millisecond
	// rateWindow is the time over which a rate is taken.
	rateWindow = 10 * time.Second
	// defaultColumns is the width of a terminal that does not tell.
	defaultColumns = 80
)

// liveLine is a line of progress at the end of a terminal's output, which is drawn anew again
// and again. What is written to it comes above the line. Safe for concurrent use.
type liveLine struct {
	out     io.Writer
	columns func() int

	mu   sync.Mutex // guards what follows, and out
	line string     // as it is drawn; "" for none
	held int        // nothing is drawn: somebody is being asked
}

// terminal returns a live line on w, nil when w is no terminal.
func terminal(w io.Writer) *liveLine {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &liveLine{out: f, columns: func() int {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return columns
		}
		return defaultColumns
	}}
}

// Write writes whole lines above the line of progress.
func (l *liveLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := p
	if l.line != "" {
		text = append([]byte(clearLine), p...)
		if bytes.HasSuffix(p, []byte("\n")) {
			text = append(text, l.line...)
		}
	}
	_, err := l.out.Write(text)
	return len(p), err
}

// clearLine goes to the start of a line and clears it (ECMA-48: EL).
const clearLine = "\r\x1b[K"

// draw replaces the line, "" by none. Nothing can be done when the terminal has gone.
func (l *liveLine) draw(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text = fit(text, l.columns()-1)
	if text == l.line || l.held > 0 {
		return
	}
	l.line = text
	_, _ = io.WriteString(l.out, clearLine+text)
}

// hold clears the line and keeps it away while somebody is asked.
func (l *liveLine) hold() {
	l.draw("")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held++
}

func (l *liveLine) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held--
}

// asking is ask, without the line meanwhile; nil for nil.
func (l *liveLine) asking(ask func(ctx context.Context, question string) ([]byte, error)) func(ctx context.Context, question string) ([]byte, error) {
	if ask == nil {
		return nil
	}
	return func(ctx context.Context, question string) ([]byte, error) {
		l.hold()
		defer l.release()
		return ask(ctx, question)
	}
}

// fit shortens text to a number of characters, in the middle of its last word.
func fit(text string, columns int) string {
	n := utf8.RuneCountInString(text)
	if n <= columns {
		return text
	}
	runes := []rune(text)
	word := strings.LastIndexByte(text, ' ') + 1
	head := utf8.RuneCountInString(text[:word])
	keep := columns - head - 1
	if keep < 8 { // too little to tell anything
		return string(runes[:max(columns, 0)])
	}
	left := keep / 3
	return string(runes[:head+left]) + "…" + string(runes[n-(keep-left):])
}

// rateMeter tells how fast a number grows.
type rateMeter struct {
	times  []time.Time
	values []int64
}

// add notes a value and returns the rate a second over the last rateWindow.
func (m *rateMeter) add(now time.Time, value int64) float64 {
	m.times, m.values = append(m.times, now), append(m.values, value)
	for len(m.times) > 2 && now.Sub(m.times[1]) >= rateWindow {
		m.times, m.values = m.times[1:], m.values[1:]
	}
	elapsed := now.Sub(m.times[0]).Seconds()
	if elapsed <= 0 {
		return 0
	}
	return float64(value-m.values[0]) / elapsed
}

// roughly shows a time span as people do.
func roughly(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return fmt.Sprintf("%d s", int(d.Round(time.Second).Seconds()))
	case d < 90*time.Minute:
		return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
