package control

// Alarm describes an alarm as `gateway alarms --json` prints it. Times are RFC 3339, UTC.
type Alarm struct {
	Kind         string   `json:"kind"`
	Subject      string   `json:"subject"` // a share, a source, a store…
	Text         string   `json:"text"`
	Hint         string   `json:"hint,omitempty"`
	Since        string   `json:"since"`
	Last         string   `json:"last"`  // when it was found last
	Times        int      `json:"times"` // that it was found
	Finding      bool     `json:"finding"`
	Acknowledged string   `json:"acknowledged,omitempty"` // when somebody did, and it goes on
	Snapshot     string   `json:"snapshot,omitempty"`     // 64 hexadecimal digits
	Pins         []string `json:"pins,omitempty"`         // snapshots that are pinned until then
}
