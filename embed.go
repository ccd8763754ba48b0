// Package btwimg holds what is built into the vmctl binary: the shipped builds
// and the playbooks.
package btwimg

import "embed"

// Files holds install.d, commands.d and ansible/playbooks.
//
//go:embed install.d commands.d ansible/playbooks
var Files embed.FS
