package orchestrator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// stageFolder is where the jail sees all that it works with, whatever the folders of
// the builder are called: tools and Ansible expand, split and render names.
const stageFolder = "/run/vmctl"

// plainName is a file name in which nothing is expanded.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_.+@][A-Za-z0-9_.+@-]*$`)

// plain says whether nothing in a path is expanded.
func plain(path string) bool {
	if path == "" {
		return true
	}
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if !plainName.MatchString(name) {
			return false
		}
	}
	return true
}

const (
	noSuid  = unix.MS_NOSUID | unix.MS_NODEV
	bindAll = unix.MS_BIND | unix.MS_REC
)

// mountAt mounts for as long as the jail lasts.
func mountAt(h host.Host, m host.Mount) error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	_, err := h.Mount(m)
	return err
}

// stage binds the work folder into stageFolder, and the project and assets whose
// paths are not plain, and changes the job to speak of them there. The mounts are the
// jail's own and end with it.
func (j *job) stage(h host.Host) error {
	if err := errors.Join(makeRunWritable(h), hideHome(h), memory(h, stageFolder)); err != nil {
		return err
	}
	s := stager{h: h, root: stageFolder, staged: map[string]string{}}
	if err := ownDevices(h, filepath.Join(s.root, "dev")); err != nil {
		return err
	}
	var err error
	if j.Work != "" {
		if j.Work, err = s.folder(j.Work, "work"); err != nil {
			return err
		}
	}
	if j.Plan.Project, err = s.project(j.Plan.Project); err != nil {
		return err
	}
	if !plain(j.Plan.Installed) {
		if j.Plan.Installed, err = s.folder(j.Plan.Installed, "installed"); err != nil {
			return err
		}
	}
	for _, asset := range j.Plan.Definition.Assets() {
		if path, ok := j.Plan.Assets[*asset]; ok {
			if *asset, err = s.asset(path); err != nil {
				return err
			}
		}
	}
	return nil
}

type stager struct {
	h      host.Host
	root   string
	staged map[string]string // of the builder → in the stage
}

// folder binds a folder under a name of its own.
func (s *stager) folder(path, name string) (string, error) {
	target := filepath.Join(s.root, name)
	return target, mountAt(s.h, host.Mount{Source: path, Target: target, Flags: bindAll})
}

// roles binds each role by itself, since roles are often links to elsewhere.
func (s *stager) roles(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		role, err := filepath.EvalSymlinks(filepath.Join(path, entry.Name()))
		if err != nil {
			continue // nothing that a definition can name
		}
		if info, err := os.Stat(role); err != nil || !info.IsDir() || !plainName.MatchString(entry.Name()) {
			continue
		}
		if _, err := s.folder(role, filepath.Join("project", rolesFolder, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// asset binds the folder of a file, so that a template finds what it includes. A file
// whose own name is not plain is bound under another one.
func (s *stager) asset(path string) (string, error) {
	if plain(path) {
		return path, nil
	}
	if known, ok := s.staged[path]; ok {
		return known, nil
	}
	target := filepath.Join(s.root, "assets", strconv.Itoa(len(s.staged)))
	folder, base := filepath.Split(path)
	if plainName.MatchString(base) {
		staged, known := s.staged[folder]
		if !known {
			if err := mountAt(s.h, host.Mount{Source: folder, Target: target, Flags: bindAll}); err != nil {
				return "", err
			}
			staged, s.staged[folder] = target, target
		}
		return filepath.Join(staged, base), nil
	}
	file := filepath.Join(target, "file")
	if extension := filepath.Ext(base); plainName.MatchString("x" + extension) {
		file += extension // it tells armoured keys from others
	}
	if err := errors.Join(os.MkdirAll(target, 0o755), os.WriteFile(file, nil, 0o600)); err != nil {
		return "", err
	}
	if _, err := s.h.Mount(host.Bind(path, file, false)); err != nil {
		return "", fmt.Errorf("bind %s: %w", path, err)
	}
	s.staged[path] = file
	return file, nil
}
