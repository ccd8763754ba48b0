package orchestrator

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/chroot"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/source"
	"github.com/btw-img/btw-img/orchestrator/unpack"
)

// supply asks the parent of a jail.
func (e errands) supply() ([]string, error) {
	var answer supplied
	if err := e.jail.Ask(message{Supply: true}, &answer); err != nil {
		return nil, err
	}
	return answer.Files, answer.Failure.err()
}

// fill gives the tree at root what the source is.
func (w *workshop) fill(ctx context.Context, root string) (err error) {
	s := w.plan.Definition.Source
	options := w.plan.sourceOptions(filepath.Join(w.work, "tmp"))
	if s.Installer != nil {
		return w.install(ctx, root, *s.Installer)
	}
	if c := s.CloudImage; c != nil && c.File != "" {
		return w.unpackDisk(ctx, root, c.File)
	}
	if !s.Outside() {
		return w.fetchFor(ctx, s, func(f *fetching) error {
			options.APTConfig = f.config()
			return source.Apply(ctx, w.host, s, root, options)
		})
	}
	release, err := w.store.HoldDownloads()
	if err != nil {
		return err
	}
	defer func() { err = scope.Join(err, release()) }()
	names, err := w.supply()
	if err != nil {
		return err
	}
	for i := range names {
		names[i] = filepath.Join(w.store.DownloadsFolder(), names[i])
	}
	switch {
	case s.OCI != nil:
		err = w.unpackLayers(ctx, root, names)
	case s.CloudImage != nil:
		err = w.unpackDisk(ctx, root, names[0])
	default:
		s.Tarball = &definition.Tarball{Path: names[0]}
		err = source.Apply(ctx, w.host, s, root, options)
	}
	return err
}

// unpackLayers gives the tree at root the layers of a container image, which lie in files.
func (w *workshop) unpackLayers(ctx context.Context, root string, names []string) error {
	layers, err := unpack.NewLayers(ctx, root)
	if err != nil {
		return err
	}
	for i, name := range names {
		if err == nil {
			err = fail.Wrap(fail.Build, "layer "+w.plan.Pinned.Files[i].Name, addLayer(layers, name, w.plan.Pinned.Files[i].Plain))
		}
	}
	if err := layers.Close(err); err != nil {
		return err
	}
	return host.Tree(root).Remove(ofContainers...)
}

// ofContainers is what container engines leave in images that would hinder a machine: no
// service would ever be started by the package that brings it.
var ofContainers = []string{"/.dockerenv", "/usr/sbin/policy-rc.d"}

func addLayer(layers *unpack.Layers, name, plain string) error {
	file, err := files.OpenRegular(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return layers.Add(file, plain)
}

const (
	dpkgStatus = "/var/lib/dpkg/status"
	aptGet     = "/usr/bin/apt-get"
)

// complete installs what a tree that was made for something else lacks to become a machine of
// ours. Nothing that it brings is newer than the tree.
func (w *workshop) complete(ctx context.Context, root string, epoch time.Time) error {
	if !w.plan.Definition.Source.Foreign() {
		return nil
	}
	tree := host.Tree(root)
	status, err := tree.Read(dpkgStatus)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	lacks := lackingPackages(string(status), source.Needed(w.plan.sourceOptions("")))
	switch {
	case len(lacks) == 0:
		return nil
	case !tree.Exists(aptGet):
		return fail.New(fail.Build, "", "choose one of Debian that has apt", "the image lacks %s, and has no apt that could install them", strings.Join(lacks, ", "))
	}
	return w.fetch(ctx, sourceTitle, digestOf(w.project, "source", w.plan.Definition.Source), func(f *fetching) error {
		return w.entered(ctx, root, "localhost", func() (err error) {
			if err := chroot.DeferInitramfs(ctx, w.host, root); err != nil {
				return err
			}
			leave, err := f.in(root)
			if err != nil {
				return err
			}
			defer func() { err = scope.Join(err, leave()) }()
			env := slices.Concat(f.env(), epochEnv(epoch))
			env = append(env, "PATH="+chroot.StandIns+":"+host.Variable(env, "PATH"))
			for _, args := range [][]string{{"update"}, append([]string{"install", "--yes", "--no-install-recommends"}, lacks...)} {
				c := host.Cmd(aptGet, append([]string{"--option=Dpkg::Use-Pty=0", "--option=Acquire::Retries=1"}, args...)...).In(root)
				c.Env = env
				if err := w.host.Run(ctx, c); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// lackingPackages is those of some packages that a status of dpkg does not tell to be installed.
func lackingPackages(status string, packages []string) []string {
	installed := map[string]bool{}
	for paragraph := range strings.SplitSeq(status, "\n\n") {
		name := ""
		for line := range strings.Lines(paragraph) {
			if value, is := strings.CutPrefix(line, "Package: "); is {
				name = strings.TrimSpace(value)
			}
			if value, is := strings.CutPrefix(line, "Status: "); is && strings.HasSuffix(strings.TrimSpace(value), " installed") {
				installed[name] = true
			}
		}
	}
	return slices.DeleteFunc(packages, func(name string) bool { return installed[name] })
}
