package main

import "runtime/debug"

// commit is set by the Makefile.
var commit string

// version is the commit or tag that vmctl was built from.
func version() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
