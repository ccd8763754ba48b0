package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/bootloader"
	"github.com/btw-img/btw-img/orchestrator/chroot"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/seal"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// An initramfs takes longer to make than all else that boots a tree, and most of what
// entries do has no part in it. So it is made in the tree as it was after the last entry
// that has, and stored as a piece, which is put on all trees that have nothing more to it.

const initramfsTitle = "Initramfs"

// Names in a tree, by the part that they have in its initramfs.
var (
	// inInitramfs is what the programs that make it read, or copy into it: kernels, programs
	// and libraries, their own settings, and those that hooks of Debian's packages know.
	inInitramfs = regexp.MustCompile(`^(boot|bin|sbin|lib[0-9a-z]*|usr/(bin|sbin|lib[0-9a-z]*|local/(bin|sbin|lib)|share/(initramfs-tools|keymaps|consolefonts|consoletrans|plymouth)))/` +
		`|^etc/(adjtime|bcache|console-setup|crypttab|cryptsetup|default|dhcp|dropbear|fstab|group|hostid|initramfs|iscsi|kbd|kernel|keys|ld\.so|lvm|mdadm|modprobe|` +
		`modules|multipath|network/|nsswitch\.conf|nvme|passwd|plymouth|ssl/|sysctl|systemd/network/[^/]*\.link|udev|zfs)`)
	// notInInitramfs is what it lacks of that. Entering a tree moves start-stop-daemon away
	// for as long, which leaves a copy of it in each layer.
	notInInitramfs = regexp.MustCompile(`^usr/lib/(python[^/]*|locale|systemd/system|[^/]*-linux-gnu/perl[^/]*)/|^(usr/)?sbin/start-stop-daemon$`)
	// ownHooks is programs of the user's, which may read anything.
	ownHooks = regexp.MustCompile(`^(etc|usr/local/share)/initramfs-tools/(hooks|scripts|conf-hooks\.d)/`)
	// afterHooks do more than make it.
	afterHooks = regexp.MustCompile(`^(etc|usr/share)/initramfs/post-update\.d/`)
)

// partInInitramfs says whether a name in a tree has a part in its initramfs.
func partInInitramfs(name string) bool {
	return inInitramfs.MatchString(name) && !notInInitramfs.MatchString(name)
}

// withInitramfs is how many of the tree's layers have a part in its initramfs, 0 where it is
// made with the boot loader, if at all: packages that it needs may still be missing, or it is
// not all that is made with it.
func (w *workshop) withInitramfs(t layeredTree) (int, error) {
	last := 0
	if !w.bootstrapped() || !w.plan.Boot.Boots() {
		return 0, nil
	}
	for i, layer := range t.layers {
		names, err := layer.Names()
		if err != nil {
			return 0, err
		}
		for _, name := range names {
			switch {
			case afterHooks.MatchString(name):
				return 0, nil
			case ownHooks.MatchString(name):
				last = len(t.layers)
			case partInInitramfs(name):
				last = max(last, i+1)
			}
		}
	}
	return last, nil
}

// growInitramfs puts the initramfs on the tree, unless it is made with the boot loader.
func growInitramfs(s *stages, w *workshop, t layeredTree) (tree, error) {
	parts, err := w.withInitramfs(t)
	if parts == 0 || err != nil {
		return t.tree, err
	}
	piece, err := grow(s, w, w.initramfsOf(tree{t.layers[:parts]}))
	if err != nil {
		return tree{}, err
	}
	return tree{append(t.layers[:len(t.layers):len(t.layers)], piece.top())}, nil
}

// uuids is how an fstab names the file systems of one disk.
var uuids = regexp.MustCompile(`(?m)^UUID=\S+`)

// initramfsOf is the recipe of the piece for a tree.
func (w *workshop) initramfsOf(of tree) recipe {
	key := following(of.top().Key(), digestOf(w.parts.Maker, initramfsTitle, w.anonymousFSTab()))
	var made sums
	return recipe{
		title: initramfsTitle, key: key, piece: true,
		work: func(ctx context.Context, root string) (err error) {
			epoch, err := of.epoch()
			if err != nil {
				return err
			}
			begun, err := w.takeAhead(of)
			if begun == nil && err == nil {
				begun, err = w.makeInitramfs(ctx, of)
			}
			if err != nil {
				return err
			}
			defer func() { err = scope.Join(err, begun.Discard()) }()
			if made, err = takeInitramfs(ctx, w.host, begun.Root(), root); err != nil {
				return err
			}
			return seal.Clamp(root, epoch)
		},
		finished: func(string) (store.Key, any, error) { return key, made, nil },
	}
}

// anonymousFSTab knows the file systems of the disk by their types alone, so that builds
// which differ in their identifiers share an initramfs.
func (w *workshop) anonymousFSTab() string {
	return uuids.ReplaceAllString(w.plan.FSTab, "UUID=00000000-0000-0000-0000-000000000000")
}

// makeInitramfs makes an initramfs in a tree that is to be discarded.
func (w *workshop) makeInitramfs(ctx context.Context, of tree) (begun *store.Work, err error) {
	begun, err = w.beginInitramfs(ctx, of)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = scope.Join(err, begun.Discard())
		}
	}()
	return begun, w.entered(ctx, begun.Root(), w.initramfsHostname(), func() error {
		return w.runInitramfs(ctx, of, begun.Root())
	})
}

// initramfsHostname is the machine's name meanwhile: not that of one build.
func (w *workshop) initramfsHostname() string { return w.plan.Definition.Layers[0].Name }

// beginInitramfs is a tree to make an initramfs in.
func (w *workshop) beginInitramfs(ctx context.Context, of tree) (*store.Work, error) {
	begun, err := w.store.Begin(ctx, w.host, of.layers, filepath.Join(w.stage, "initramfs"))
	if err != nil {
		return nil, err
	}
	if err := seal.SettleFSTab(begun.Root(), w.anonymousFSTab()); err != nil {
		return nil, scope.Join(err, begun.Discard())
	}
	return begun, nil
}

// runInitramfs makes an initramfs in the tree at root, which is entered.
func (w *workshop) runInitramfs(ctx context.Context, of tree, root string) error {
	epoch, err := of.epoch()
	if err != nil {
		return err
	}
	if err := chroot.RestoreInitramfs(ctx, w.host, root); err != nil {
		return err
	}
	return bootloader.MakeInitramfs(ctx, dated(w.host, epoch), root)
}

// sums is what update-initramfs remembers of each initramfs, by the kernel's version.
type sums map[string]string

const (
	initramfsFiles = "/boot/initrd.img-*"
	sumsFolder     = "/var/lib/initramfs-tools/"
)

// takeInitramfs copies what was made from a tree to a piece.
func takeInitramfs(ctx context.Context, h host.Host, from, to string) (sums, error) {
	tree := host.Tree(from)
	files, err := tree.Glob(initramfsFiles)
	if err != nil {
		return nil, err
	}
	boot, err := tree.Path("/boot")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Mkdir(filepath.Join(to, "boot"), 0o755), like(boot, filepath.Join(to, "boot"))); err != nil {
		return nil, err
	}
	made := sums{}
	for _, file := range files {
		path, err := tree.Path(file)
		if err != nil {
			return nil, err
		}
		if err := h.Run(ctx, host.Cmd("cp", "--archive", "--reflink=auto", "--", path, filepath.Join(to, "boot")+"/")); err != nil {
			return nil, err
		}
		version := strings.TrimPrefix(filepath.Base(file), "initrd.img-")
		sum, err := tree.Read(sumsFolder + version)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		made[version] = string(sum)
	}
	return made, like(boot, filepath.Join(to, "boot"))
}

// like gives a folder owner, mode and times of another one.
func like(folder, other string) error {
	var stat unix.Stat_t
	if err := unix.Stat(folder, &stat); err != nil {
		return &fs.PathError{Op: "stat", Path: folder, Err: err}
	}
	return errors.Join(
		unix.Chown(other, int(stat.Uid), int(stat.Gid)), unix.Chmod(other, stat.Mode&^unix.S_IFMT),
		unix.UtimesNanoAt(unix.AT_FDCWD, other, []unix.Timespec{stat.Atim, stat.Mtim}, 0),
	)
}

// rememberInitramfs gives the tree at root what update-initramfs remembers of the piece on top of it,
// and says whether there is one.
func (t tree) rememberInitramfs(root string) (bool, error) {
	if t.top().About().Title != initramfsTitle {
		return false, nil
	}
	var made sums
	if err := json.Unmarshal(t.top().About().Data, &made); err != nil {
		return false, err
	}
	var problems []error
	for version, sum := range made {
		problems = append(problems, host.Tree(root).Write(sumsFolder+version, []byte(sum), 0o644))
	}
	return true, errors.Join(problems...)
}
