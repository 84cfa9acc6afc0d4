package control

// Hook describes a hook as `gateway hooks --json` prints it.
type Hook struct {
	Name    string   `json:"name"`
	On      []string `json:"on"`
	Shares  []string `json:"shares"` // none: all
	Target  string   `json:"target"` // the program, or the host that is posted to
	Pending int      `json:"pending"`
	Tries   int      `json:"tries"` // failed ones in a row
	Error   string   `json:"error,omitempty"`
	Success string   `json:"success,omitempty"` // of the last event that was taken since the start
	GivenUp int      `json:"given_up"`          // events, since the start
	Dropped uint64   `json:"dropped"`           // events that its queue could not take, since the start
}
