// Package config reads the gateway's configuration file.
//
// The file is YAML. It is read strictly: a key that is not known, given twice or of the
// wrong type, a value that makes no sense and settings that exclude each other are all
// refused, each with file, line, column and key, and all of them at once rather than one
// a run. Keys of features that are planned but not built are refused as "not available
// yet", so that nobody believes in a retention or a hook that does not run.
//
// Paths are relative to the file that names them, "~" at their start is $HOME. Anchors,
// aliases, merge keys and tags are refused: include does what they are for.
//
// [Load] returns a checked [Config] with every default filled in; the methods in
// mapping.go turn it into the configurations of the other packages.
package config
