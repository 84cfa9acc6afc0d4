package retention

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	tests := []struct{ text, want string }{
		{"all 1d, hourly 7d, daily 30d, weekly 1y, yearly forever, last 10", "all 1d, hourly 7d, daily 30d, weekly 1y, yearly forever, last 10"},
		{"last 3", "last 3"},
		{" DAILY  2 Weeks ,all 12 hours", "all 12h, daily 2w"},
		{"monthly 6 months, yearly 1 year", "monthly 6mo, yearly 1y"},
		{"all forever", "all forever"},
	}
	for _, tt := range tests {
		p, err := Parse(tt.text)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if got := p.String(); got != tt.want {
			t.Errorf("%q is %q, want %q", tt.text, got, tt.want)
		}
		again, err := Parse(p.String())
		if err != nil {
			t.Errorf("%q: %v", p.String(), err)
		}
		if d := cmp.Diff(p, again); d != "" {
			t.Errorf("%q is not read as it was written:\n%s", p.String(), d)
		}
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "it is empty"},
		{"  ", "it is empty"},
		{"all 1d,", "nothing between two commas"},
		{"daily", `"daily": say for how long, as in "daily 30d" or "daily forever"`},
		{"daily 30", "the number needs a unit: h, d, w, mo or y"},
		{"daily 30m", `write "mo" for months`},
		{"daily 30x", `unknown unit "x"`},
		{"daily 0d", "for how long? want as 12h"},
		{"daily -1d", "for how long?"},
		{"daily 9999999999999999999d", "for how long?"},
		{"daily 1d, daily 2d", `"daily 2d": daily is given twice`},
		{"fortnightly 1y", `"fortnightly 1y": it must begin with all, hourly`},
		{"last", `"last": say how many, as in "last 10"`},
		{"last ten", `"ten" is not a whole number`},
		{"last 0", "want a number from 1 to"},
		{"last 5d", `"5d" is not a whole number`},
		{"keep 5", `"keep 5": it must begin with`},
		{strings.Repeat("all 1d,", 1000), "too long"},
	}
	for _, tt := range tests {
		_, err := Parse(tt.text)
		if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40q: %v, want %q", tt.text, err, tt.want)
		}
	}
}

func TestWords(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse("all 1d, hourly 7d, monthly forever, last 10")
	if err != nil {
		t.Fatal(err)
	}
	p.Zone, p.Lock = paris, 7*24*time.Hour
	const want = "kept: every snapshot for 1 day, the last of each hour for 7 days, the last of each month forever, the newest 10; " +
		"days are those of Europe/Paris; nothing younger than 7 days is removed"
	if got := p.Words(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	p = Policy{Lock: 36 * time.Hour}
	if got, want := p.Words(), "everything is kept; nothing younger than 36 hours is removed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"all 1d, hourly 7d, daily 30d, weekly 1y, yearly forever, last 10", "last 1", "daily 2 weeks", "monthly 6mo", "", ",", "all", "all 99999999999999d", "ALL FOREVER", "last\u00a05",
	} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrSyntax) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		again, err := Parse(p.String())
		if err != nil {
			t.Fatalf("%q became %q: %v", text, p.String(), err)
		}
		if d := cmp.Diff(p, again); d != "" {
			t.Errorf("%q became %q:\n%s", text, p.String(), d)
		}
		if p.Words() == "" {
			t.Error("no words")
		}
		d := Decide([]Snapshot{{ID: "a", Sequence: 1, Time: now}, {ID: "b", Sequence: 2, Time: now.Add(time.Hour)}}, now.AddDate(100, 0, 0), p)
		if !d[1].Keep {
			t.Errorf("%q removes the newest", text)
		}
	})
}
