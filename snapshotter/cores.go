package snapshotter

import "runtime"

// cores is how many goroutines share work that keeps a core busy. Go's scheduler may have more
// processors than there are cores, so that those who wait for the network are not held up.
func cores() int { return min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) }
