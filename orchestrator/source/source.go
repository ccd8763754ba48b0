// Package source puts the first files into the mounted disk: Debian from its
// archive, or a tarball.
package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/text"
)

// Options is what the build adds to a definition's source.
type Options struct {
	Packages      []string // needed by later stages
	EssentialHook string   // shell script; $1 is the tree, with the essential packages in it
	Scratch       string   // folder for temporary files
	APTConfig     string   // file with settings for apt that the tree does not keep; "" for none
}

// aptSettings is where APTConfig lies in the tree while it is being filled: mmdebstrap
// gives apt settings of its own in its environment.
const aptSettings = "/etc/apt/apt.conf.d/01vmctl"

// ansiblePackages is what Ansible's modules need inside the image.
var ansiblePackages = []string{"python3", "python3-apt"}

// slimHook makes dpkg leave out documentation and translations, and removes
// those of the packages that were unpacked before it could know. Copyright
// files stay. A path-exclude among mmdebstrap's options would filter each
// package through a slow script.
const slimHook = `set -e
mkdir -p "$1/etc/dpkg/dpkg.cfg.d"
cat >"$1/etc/dpkg/dpkg.cfg.d/slim" <<'EOF'
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-include=/usr/share/locale/locale.alias
EOF
find "$1/usr/share/doc" -mindepth 1 ! -type d ! -name copyright -delete
find "$1/usr/share/man" "$1/usr/share/info" "$1/usr/share/locale" -mindepth 1 ! -type d ! -name locale.alias -delete 2>/dev/null || true
find "$1/usr/share/doc" "$1/usr/share/man" "$1/usr/share/locale" -mindepth 1 -type d -empty -delete`

// prefetchHooks begin to download the packages while the essential ones are installed,
// and wait for that before the others are. What does not come is asked for once more then.
// mmdebstrap's dpkg holds the locks meanwhile, and apt changes nothing that they are for.
func prefetchHooks(scratch string, packages []string) []string {
	lock, words := text.Word(filepath.Join(scratch, "prefetch.lock")), ""
	for _, name := range packages {
		words += " " + text.Word(name)
	}
	return []string{
		`--extract-hook=exec 9>` + lock + ` && flock 9
APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only -oDebug::NoLocking=true install` + words + ` >/dev/null 2>&1 </dev/null &`,
		"--essential-hook=flock " + lock + " true",
	}
}

// Needed is the packages that a tree must have for the layers and later stages, and more.
func Needed(o Options, more ...string) []string {
	packages := slices.Concat(ansiblePackages, o.Packages, more)
	slices.Sort(packages)
	return slices.Compact(packages)
}

// Command is the call that fills root, of a bootstrap or a tarball.
func Command(s definition.Source, root string, o Options) host.Command {
	if s.Tarball != nil {
		return host.Cmd("tar", "--extract", "--file", s.Tarball.Path, "--directory", root,
			"--numeric-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*", "--acls", "--exclude=./dev/*")
	}
	b := s.Bootstrap
	packages := Needed(o, b.Packages...)
	args := []string{
		"--mode=root", "--format=directory", "--variant=" + b.Variant,
		"--components=" + strings.Join(b.Components, ","),
		"--include=" + strings.Join(packages, ","),
		"--skip=check/empty,cleanup/apt/lists", // Ansible's apt runs use the lists
	}
	if !b.Docs {
		args = append(args, `--aptopt=Acquire::Languages "none"`, "--extract-hook="+slimHook)
	}
	if o.APTConfig != "" {
		args = append(args, "--setup-hook=cp "+text.Word(o.APTConfig)+` "$1"`+aptSettings)
	}
	if o.EssentialHook != "" {
		args = append(args, "--essential-hook="+o.EssentialHook)
	}
	args = append(args, prefetchHooks(o.Scratch, packages)...)
	if b.Keyring != "" {
		args = append(args, "--keyring="+b.Keyring)
	}
	args = append(args, b.Suite, root)
	if b.Mirror != "" {
		args = append(args, b.Mirror)
	}
	c := host.Cmd("mmdebstrap", args...)
	c.Env = []string{"TMPDIR=" + o.Scratch} // mmdebstrap keeps it from the tree's own programs
	return c
}

// Apply fills the tree at root.
func Apply(ctx context.Context, h host.Host, s definition.Source, root string, o Options) error {
	if err := os.MkdirAll(o.Scratch, 0o755); err != nil {
		return err
	}
	if err := h.Run(ctx, Command(s, root, o)); err != nil {
		return errors.Join(err, h.KillOthers()) // what it has begun
	}
	if s.Bootstrap == nil {
		return nil
	}
	return errors.Join(host.Tree(root).Remove(aptSettings), writeSources(host.Tree(root), s.Bootstrap.Keyring))
}
