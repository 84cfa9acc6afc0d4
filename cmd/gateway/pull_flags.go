package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
)

// remoteFlags are the settings of a location that is given on a command line: the keys of the
// configuration, with hyphens.
type remoteFlags struct {
	flags *pflag.FlagSet
	keys  []string
}

// addRemoteFlags adds the flags of reaching a server.
func addRemoteFlags(c *cobra.Command) *remoteFlags {
	f := &remoteFlags{flags: c.Flags()}
	f.text("username", "log in as `USER`")
	f.number("port", "the server's `PORT`")
	f.text("root", "a `DIRECTORY` below the location's path")
	f.text("password-file", "password in the first line of a `FILE`")
	f.text("password-env", "password in an environment `VARIABLE`")
	f.list("identity", "private key `FILE`; may be repeated")
	f.text("ssh-private-key-env", "text of a private key in an environment `VARIABLE`")
	f.text("passphrase-file", "passphrase of the key in the first line of a `FILE`")
	f.text("passphrase-env", "passphrase of the key in an environment `VARIABLE`")
	f.text("agent", "`SOCKET` of an agent, or none")
	f.text("known-hosts", "known_hosts `FILE`")
	f.text("host-key", "what an unknown host key is: strict or accept-new")
	f.toggle("insecure-ignore-host-key", "take any host key: for tests")
	f.text("ssh-config", "ssh_config `FILE`")
	f.text("transport", "native, or openssh for the system's ssh")
	f.text("jump", "jump hosts, as ssh -J")
	f.toggle("legacy", "allow the algorithms of servers of about 2010")
	f.text("tls", "of FTP: explicit, implicit or off")
	f.text("ca-file", "`FILE` of authorities whose certificates are good")
	f.toggle("tls-insecure-no-verify", "take any certificate: for tests")
	f.number("connections", "`NUMBER` of connections at most")
	f.text("bandwidth", "limit of bytes a second, as 10MiB")
	f.text("timeout", "how long the server may keep us waiting, as 30s")
	return f
}

func (f *remoteFlags) text(name, usage string) {
	f.flags.String(name, "", usage)
	f.keys = append(f.keys, name)
}

func (f *remoteFlags) number(name, usage string) {
	f.flags.Int(name, 0, usage)
	f.keys = append(f.keys, name)
}

func (f *remoteFlags) list(name, usage string) {
	f.flags.StringArray(name, nil, usage)
	f.keys = append(f.keys, name)
}

func (f *remoteFlags) toggle(name, usage string) {
	f.flags.Bool(name, false, usage)
	f.keys = append(f.keys, name)
}

// used lists the flags that were given.
func (f *remoteFlags) used() []string {
	var names []string
	f.flags.Visit(func(flag *pflag.Flag) {
		if slices.Contains(f.keys, flag.Name) {
			names = append(names, flag.Name)
		}
	})
	return names
}

// source reads the settings of a location as the configuration would be.
func (f *remoteFlags) source(location string) (src config.Source, warnings []string, err error) {
	settings := map[string]any{"location": location}
	for _, name := range f.used() {
		var v any
		switch f.flags.Lookup(name).Value.Type() {
		case "string":
			v, err = f.flags.GetString(name)
		case "int":
			v, err = f.flags.GetInt(name)
		case "bool":
			v, err = f.flags.GetBool(name)
		default:
			v, err = f.flags.GetStringArray(name)
		}
		if err != nil {
			return src, nil, err
		}
		settings[strings.ReplaceAll(name, "-", "_")] = v
	}
	dir, err := os.Getwd()
	if err != nil {
		return src, nil, err
	}
	return config.AdHoc(dir, settings)
}

// isLocation reports whether an argument is a location, or meant as one, not a name. host:path, as scp
// has it, and paths of Windows are refused as locations, which says what to write.
func isLocation(arg string) bool {
	return strings.ContainsAny(arg, `/\:`) || arg == "." || arg == ".." || arg == "~"
}

// onlyForLocations refuses flags that say how to reach a server whose settings are in the
// configuration.
func (f *remoteFlags) onlyForLocations(c *cobra.Command) error {
	if used := f.used(); len(used) > 0 {
		return usageError(c, fmt.Errorf("--%s is for a location; a name's settings are in the configuration", used[0]))
	}
	return nil
}
