package background

import "runtime"

// Cores is how many processors work can keep busy: those that there are, as far as the scheduler uses
// them. It may have more threads than that (see serve), which make nothing faster.
func Cores() int { return min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) }
