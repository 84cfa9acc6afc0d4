package snapshotter

import "github.com/snapgate/gateway/internal/background"

// cores is how many goroutines share work that keeps a core busy.
func cores() int { return background.Cores() }
