package pull_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapgate/gateway/pull"
)

// What a first pull of a directory would commit.
func Example() {
	dir, err := os.MkdirTemp("", "pull")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"index.html", "notes.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("hello\n"), 0o600); err != nil {
			fmt.Println(err)
			return
		}
	}
	remote, err := pull.NewFS(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer remote.Close()
	exclude, err := pull.ParseExclude([]string{"*.tmp"})
	if err != nil {
		fmt.Println(err)
		return
	}
	var report pull.Report
	ctx := context.Background()
	items := pull.Scan(ctx, remote, pull.ScanConfig{Exclude: exclude, Report: &report})
	for change, err := range pull.Plan(ctx, remote, items, pull.PlanConfig{Report: &report}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(change.Path)
	}
	fmt.Println(report.Counts().Excluded, "excluded,", report.Failed(), "problems")
	// Output:
	// /
	// /index.html
	// 1 excluded, 0 problems
}
