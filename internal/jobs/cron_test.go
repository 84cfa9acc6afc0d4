package jobs

import (
	"testing"
	"time"
)

func TestCronNext(t *testing.T) {
	for name, test := range map[string]struct {
		line, zone, after string
		want              []string
	}{
		"daily":                     {"30 2 * * *", "UTC", "2026-01-01T02:29:59.9Z", []string{"2026-01-01T02:30:00Z", "2026-01-02T02:30:00Z"}},
		"in a zone":                 {"30 2 * * *", "Europe/Paris", "2026-01-01T00:00:00Z", []string{"2026-01-01T02:30:00+01:00", "2026-01-02T02:30:00+01:00"}},
		"a time is left out":        {"30 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		"two times are left out":    {"15,45 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:15:00+02:00"}},
		"left out, with a next one": {"0 2,3 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
		"at the end of the gap":     {"0 3 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T03:00:00+02:00"}},
		"a time comes twice":        {"30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", []string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		"after the first of two":    {"30 2 * * *", "Europe/Paris", "2026-10-25T02:45:00+02:00", []string{"2026-10-26T02:30:00+01:00"}},
		"before the second of two":  {"30 2 * * *", "Europe/Paris", "2026-10-25T02:10:00+01:00", []string{"2026-10-26T02:30:00+01:00"}},
		"behind both":               {"30 3 * * *", "Europe/Paris", "2026-10-25T02:10:00+01:00", []string{"2026-10-25T03:30:00+01:00"}},
		"hourly, forward":           {"0 * * * *", "Europe/Paris", "2026-03-29T01:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"}},
		"hourly, back":              {"@hourly", "Europe/Paris", "2026-10-25T01:30:00+02:00", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"}},
		"minutes, back":             {"*/30 * * * *", "Europe/Paris", "2026-10-25T02:30:00+02:00", []string{"2026-10-25T02:00:00+01:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:00:00+01:00"}},
		"minutes of one hour, back": {"*/30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00", "2026-10-26T02:00:00+01:00"}},
		"every other hour, forward": {"0 */2 * * *", "Europe/Paris", "2026-03-29T00:30:00+01:00", []string{"2026-03-29T04:00:00+02:00"}},
		"half an hour is left out":  {"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T02:00:00Z", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		"midnight is left out":      {"0 0 * * *", "Africa/Cairo", "2026-04-23T12:00:00Z", []string{"2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"}},
		"a day is left out":         {"0 12 * * *", "Pacific/Apia", "2011-12-29T12:30:00-10:00", []string{"2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"}},
		"leap day":                  {"0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},
		"every":                     {"@every 90m", "UTC", "2026-01-01T00:00:00.5Z", []string{"2026-01-01T01:30:00Z", "2026-01-01T03:00:00Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			zone, err := time.LoadLocation(test.zone)
			if err != nil {
				t.Fatal(err)
			}
			c, err := ParseCron(test.line, zone)
			if err != nil {
				t.Fatal(err)
			}
			at, err := time.Parse(time.RFC3339Nano, test.after)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				at = c.Next(at)
				if got := at.Format(time.RFC3339Nano); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
			}
		})
	}
}

// Over the changes of several years: times grow, and a time of day comes once a day.
func TestCronOverYears(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "America/Sao_Paulo"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"30 2 * * *", "0 0 * * *", "59 23 * * *", "15 1 * * *"} {
			c, err := ParseCron(line, zone)
			if err != nil {
				t.Fatal(err)
			}
			at := time.Date(2014, 12, 31, 23, 59, 30, 0, zone)
			day := at
			for range 4000 {
				next := c.Next(at)
				day = day.AddDate(0, 0, 1)
				if !next.After(at) || next.YearDay() != day.YearDay() {
					t.Fatalf("%s in %s: %v is followed by %v", line, name, at, next)
				}
				at = next
			}
		}
	}
}

func TestParseCronRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"":                      "empty spec string",
		"0 2 * *":               "expected exactly 5 fields, found 4: [0 2 * *]",
		"61 * * * *":            "end of range (61) above maximum (59): 61",
		"0 0 31 2 *":            "that time never comes",
		"TZ=Europe/Paris":       "put the time zone into time_zone",
		"CRON_TZ=UTC 0 2 * * *": "put the time zone into time_zone",
		"@never":                "unrecognized descriptor: @never",
		"@every a while":        "failed to parse duration @every a while: time: invalid duration \"a while\"",
		"0 2 * * * *":           "expected exactly 5 fields, found 6: [0 2 * * * *]",
	} {
		if _, err := ParseCron(line, nil); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", line, err, want)
		}
	}
}

func TestWords(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"0 2 * * *":       "daily at 02:00 Europe/Paris",
		"5 2,14 * * *":    "daily at 02:05 and 14:05 Europe/Paris",
		"0 2,10,18 * * *": "daily at 02:00, 10:00 and 18:00 Europe/Paris",
		"30 4 * * 1":      "Mondays at 04:30 Europe/Paris",
		"30 4 * * sun,3":  "Sundays and Wednesdays at 04:30 Europe/Paris",
		"30 4 * * MON-5":  "Monday to Friday at 04:30 Europe/Paris",
		"0 3 1 * *":       "monthly on day 1 at 03:00 Europe/Paris",
		"* * * * *":       "every minute",
		"*/15 * * * *":    "every 15 minutes",
		"7 * * * *":       "hourly at minute 7",
		"0 */6 * * *":     "every 6 hours at minute 0",
		"@hourly":         "hourly at minute 0",
		"@daily":          "daily at 00:00 Europe/Paris",
		"@weekly":         "Sundays at 00:00 Europe/Paris",
		"@monthly":        "monthly on day 1 at 00:00 Europe/Paris",
		"@every 90m":      "every 90m",
		"*/7 * * * *":     "cron */7 * * * * Europe/Paris",
		"0 2 1 * 1":       "cron 0 2 1 * 1 Europe/Paris",
		"0  2 * 6 *":      "cron 0 2 * 6 * Europe/Paris",
		"0 1-5 * * *":     "cron 0 1-5 * * * Europe/Paris",
		"0 2 */2 * *":     "cron 0 2 */2 * * Europe/Paris",
		"0 2 * * 1#2":     "",
	} {
		c, err := ParseCron(line, paris)
		if want == "" {
			if err == nil {
				t.Errorf("%q was read", line)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Words(); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}
