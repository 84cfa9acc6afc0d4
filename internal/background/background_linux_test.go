package background

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nice is how nice the calling thread is.
func nice(t *testing.T) int {
	t.Helper()
	have, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	return 20 - have
}

func TestDo(t *testing.T) {
	before := nice(t)
	for range 20 {
		inside := 0
		Do(func() {
			inside = nice(t)
			started := make(chan int)
			go func() { started <- nice(t) }()
			if n := <-started; n != before {
				t.Errorf("a goroutine that was started in the background is at %d, not at %d", n, before)
			}
		})
		if want := min(before+niceness, 19); inside != want {
			t.Fatalf("in the background it is %d nice, not %d", inside, want)
		}
	}
	// Of a process that is as nice as can be all threads are the same.
	for end := time.Now().Add(10 * time.Second); before < 19 && lowered(t, before) > 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("threads are left in the background")
		}
	}
}

// lowered counts the threads of the process that are in the background.
func lowered(t *testing.T, before int) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, task := range tasks {
		stat, err := os.ReadFile("/proc/self/task/" + task.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ") // proc_pid_stat(5): nice is the 17th from the state on
		if f := strings.Fields(rest); len(f) > 16 && f[16] == strconv.Itoa(min(before+niceness, 19)) {
			n++
		}
	}
	return n
}
