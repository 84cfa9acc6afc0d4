package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Prints the version of the gateway, of Go and of the kloset library.",
		Example: "  gateway version",
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.stdout, versionText())
			return err
		},
	}
}

// versions returns the versions of the gateway, as its build knows it, and of kloset.
func versions() (gateway, kloset string) {
	gateway, kloset = "unknown", "unknown"
	revision, dirty := "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		gateway = strings.Trim(info.Main.Version, "()")
		for _, m := range info.Deps {
			if m.Path == "github.com/PlakarKorp/kloset" {
				kloset = m.Version
			}
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = " " + s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = " (modified)"
			}
		}
	}
	return gateway + revision + dirty, kloset
}

// versionText is one line: the gateway's version, and what it was built with.
func versionText() string {
	version, kloset := versions()
	return fmt.Sprintf("gateway %s, kloset %s, %s %s/%s", version, kloset, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
