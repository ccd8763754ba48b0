package orchestrator

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// What requirements.yml asks for is a piece of the store. It is there before anything else of
// a build, since keys of layers have the digests of the roles that are in it.

// Installed is a role or collection from elsewhere, as it was installed.
type Installed struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	SHA256  string `json:"sha256"` // of its files
}

func (i Installed) String() string { return strings.TrimSpace(i.Kind + " " + i.Name + " " + i.Version) }

const requirementsTitle = "Requirements"

// requirementsKey is the key of what is installed, to this store alone: addresses may have
// secrets in them.
func (p Plan) requirementsKey(ctx context.Context, layers *store.Store, tools map[string]string) (store.Key, error) {
	var all []any
	for _, r := range p.Definition.Requirements {
		digest, err := p.localDigest(ctx, r)
		if err != nil {
			return "", fail.Wrap(fail.Usage, r.Origin, err)
		}
		r.Origin = ""
		if r.Local() != "" {
			r.Source = ""
		}
		all = append(all, r, digest)
	}
	secret, err := layers.Secret()
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(digestOf("requirements", all, of(tools, ansibleTools...))))
	return store.Key(hex.EncodeToString(mac.Sum(nil))), nil
}

// ansibleTools is what says which Ansible there is.
var ansibleTools = []string{"ansible", "ansible-core", "ansible-playbook", "ansible-community"}

// localPath is where a local requirement lies, "" for others.
func (p Plan) localPath(r definition.Requirement) string {
	path := r.Local()
	if path != "" && !filepath.IsAbs(path) {
		path = filepath.Join(p.Project, path)
	}
	return path
}

// localDigest is the digest of what a local requirement is installed from. Of a repository it
// is that of its branches and tags.
func (p Plan) localDigest(ctx context.Context, r definition.Requirement) (string, error) {
	path := p.localPath(r)
	if path == "" {
		return "", nil
	}
	var in folderDigest
	if r.SCM == "" && !r.Git() {
		err := in.add(ctx, path)
		return digestOf(in.lines), err
	}
	if _, err := os.Stat(filepath.Join(path, ".git")); err == nil {
		path = filepath.Join(path, ".git")
	}
	for _, name := range []string{"HEAD", "packed-refs", "refs"} {
		if err := in.add(ctx, filepath.Join(path, name)); err != nil {
			return "", err
		}
	}
	return digestOf(in.lines), nil
}

// requires says whether a role comes from elsewhere.
func (p Plan) requires(role string) bool {
	return slices.ContainsFunc(p.Definition.Requirements, func(r definition.Requirement) bool {
		return r.Kind == definition.RequiredRole && r.Name == role
	})
}

// takeInstalled has the plan use what is installed.
func (p *Plan) takeInstalled(layer *store.Layer) error {
	p.Installed = layer.Folder()
	return errors.Join(json.Unmarshal(layer.About().Data, &p.Requirements), p.SplitOnBoot())
}

// requirements is the stage that installs what the build requires, unless the store has it.
// It is in use until the release.
func (b Builder) requirements(s *stages, plan *Plan, tools toolset, log io.Writer) (release func() error, err error) {
	if len(plan.Definition.Requirements) == 0 {
		return func() error { return nil }, nil
	}
	layer, err := stepOr(s, requirementsTitle, func(ctx context.Context) (*store.Layer, bool, error) {
		for _, r := range plan.Definition.Requirements {
			if r.Moves() {
				s.task(requirementsTitle, "warning", "%s: %s may be another one tomorrow: name a version, tag or commit", r.Origin, r)
			}
		}
		layers, err := store.Open(b.Store)
		if err != nil {
			return nil, false, err
		}
		key, err := plan.requirementsKey(ctx, layers, tools.versions)
		if err != nil {
			return nil, false, err
		}
		stored, err := b.install(ctx, *plan, key, tools.tree, log)
		if err != nil {
			return nil, false, err
		}
		layer, err := layers.Use(key)
		if layer == nil && err == nil {
			err = errors.New("what was installed was removed at once: build again")
		}
		return layer, stored, err
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(plan.takeInstalled(layer), plan.obeyInstalled()); err != nil {
		return nil, errors.Join(err, layer.Release())
	}
	return layer.Release, nil
}

// takeStored has the plan use what the store has of its requirements. It is in use until the
// release.
func (p *Plan) takeStored(ctx context.Context, folder string, tools toolset) (release func() error, err error) {
	release = func() error { return nil }
	if len(p.Definition.Requirements) == 0 {
		return release, nil
	}
	layers, err := store.Open(folder)
	if err != nil {
		return release, err
	}
	key, err := p.requirementsKey(ctx, layers, tools.versions)
	if err != nil {
		return release, err
	}
	layer, err := layers.Use(key)
	if layer == nil || err != nil {
		return release, err
	}
	return layer.Release, p.takeInstalled(layer)
}

// obeyInstalled refuses what is not what the lock says.
func (p Plan) obeyInstalled() error {
	if p.Lock == nil || len(p.Lock.Requirements) == 0 || slices.Equal(p.Lock.Requirements, p.Requirements) {
		return nil
	}
	var others []string
	for _, i := range p.Requirements {
		if !slices.Contains(p.Lock.Requirements, i) {
			others = append(others, i.String())
		}
	}
	return fail.New(fail.Build, "the lock of "+p.Lock.Name, "name versions in requirements.yml, or build with --no-lock", "other roles and collections than before: %s", strings.Join(atMost(others), ", "))
}

// install installs what a plan requires in a jail, which puts it into the store, unless it is
// there: files of the store are what they are in a jail alone.
func (b Builder) install(ctx context.Context, plan Plan, key store.Key, tools string, log io.Writer) (stored bool, err error) {
	folder, err := filepath.Abs(b.Store)
	if err != nil {
		return false, err
	}
	how := b.How.of(plan)
	order := installation{
		Key: key, Store: folder, Project: plan.Project, Requirements: plan.Definition.Requirements, Offline: how.Offline,
		Tools: tools, Fresh: how.Fresh != "" && !how.Offline && plan.Lock == nil, Since: how.Since,
	}
	hide := credentials(order.Requirements).hider()
	hiding := &hidingWriter{to: log, hide: hide}
	result, err := converse(ctx, host.JailOptions{
		Args: []string{b.JailVerb}, Offline: order.Offline, Request: request{Install: &order}, Log: hiding,
	}, nil)
	return result.Stored, errors.Join(hiddenError(err, hide), hiding.Close())
}

// hiddenError is a failure as it may be shown.
func hiddenError(err error, hide *strings.Replacer) error {
	failure := newFailure(err)
	if failure == nil {
		return nil
	}
	return message{Ended: &ending{Failure: failure}}.hidden(hide).Ended.Failure.err()
}

// credentials is what of the addresses may be secret.
func credentials(all []definition.Requirement) secrets {
	found := secrets{}
	for _, r := range all {
		for _, address := range []string{r.Source, r.Server} {
			_, rest, _ := strings.Cut(address, "://")
			authority, _, _ := strings.Cut(rest, "/")
			at := strings.LastIndexByte(authority, '@')
			if at < 0 {
				continue
			}
			found[authority[:at]] = authority[:at]
			for part := range strings.SplitSeq(authority[:at], ":") {
				found[part] = part
				if plain, err := url.PathUnescape(part); err == nil {
					found[plain] = plain
				}
			}
		}
	}
	return found
}

// installation is what a jail is to install.
type installation struct {
	Key          store.Key                `json:"key"`
	Store        string                   `json:"store"`
	Project      string                   `json:"project"` // where local paths begin
	Requirements []definition.Requirement `json:"requirements"`
	Offline      bool                     `json:"offline,omitempty"`
	Tools        string                   `json:"tools,omitempty"` // tree with the programs to use; "" for the host's own
	Fresh        bool                     `json:"fresh,omitempty"` // install what was installed before Since again
	Since        time.Time                `json:"since"`
}

// Installation is what a Provisioner installs from elsewhere.
type Installation struct {
	Requirements []definition.Requirement // local ones by their absolute paths
	Roles        string                   // folder that gets roles
	Collections  string                   // folder that gets collections
	Scratch      string                   // folder for files in passing
	Offline      bool
	Log          io.Writer
}

// run installs in a jail, in which nothing but the store can be written, and commits, unless
// the store has it.
func (i *installation) run(ctx context.Context, h *host.Local, provisioner Provisioner) (result ending) {
	stored, err := i.stored(h)
	if err == nil && !stored {
		err = i.install(ctx, h, provisioner)
	}
	return ending{Stored: stored, Failure: newFailure(err)}
}

// open opens the store.
func (i *installation) open(h *host.Local) (*store.Store, error) {
	layers, err := store.Open(i.Store)
	if err == nil {
		layers.Note = func(text string) { fmt.Fprintln(h.Log, text) }
	}
	return layers, err
}

// stored says whether the store has it, and it is to stay.
func (i *installation) stored(h *host.Local) (bool, error) {
	layers, err := i.open(h)
	if err != nil {
		return false, err
	}
	found, err := layers.Get(i.Key)
	if found == nil || err != nil {
		return false, err
	}
	if !i.Fresh || !found.Made().Before(i.Since) {
		return true, found.Release()
	}
	return false, errors.Join(found.Release(), layers.Remove(i.Key))
}

// reachable refuses what cannot be had without network.
func (i *installation) reachable() error {
	var elsewhere []string
	for _, r := range i.Requirements {
		if i.Offline && r.Local() == "" {
			elsewhere = append(elsewhere, r.Origin+" "+r.String())
		}
	}
	if len(elsewhere) == 0 {
		return nil
	}
	return fail.New(fail.Build, "--offline", hintOnline, "the store lacks %s", strings.Join(atMost(elsewhere), ", "))
}

func (i *installation) install(ctx context.Context, h *host.Local, provisioner Provisioner) (err error) {
	if err := i.reachable(); err != nil {
		return err
	}
	if err := i.confine(h); err != nil {
		return fail.Wrap(fail.Host, "enter the jail", err)
	}
	layers, err := i.open(h)
	if err != nil {
		return err
	}
	begun, err := layers.BeginPiece(ctx, h, filepath.Join(stageFolder, "installed"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, begun.Discard()) }()
	root := begun.Root()
	order := Installation{
		Roles: filepath.Join(root, rolesFolder), Collections: filepath.Join(root, collectionsFolder),
		Scratch: filepath.Join(root, "scratch"), Offline: i.Offline, Log: h.Log,
	}
	if err := errors.Join(os.Mkdir(order.Roles, 0o755), os.Mkdir(order.Collections, 0o755)); err != nil {
		return err
	}
	if order.Requirements, err = i.copyFolders(ctx, h, order.Roles); err != nil {
		return err
	}
	if err := errors.Join(provisioner.Install(ctx, order), os.RemoveAll(order.Scratch)); err != nil {
		return err
	}
	installed, err := tidyInstalled(ctx, root)
	if err != nil {
		return err
	}
	data, err := json.Marshal(installed)
	if err != nil {
		return err
	}
	layer, err := begun.Commit(ctx, i.Key, store.About{Title: requirementsTitle, Data: data})
	if err != nil {
		return err
	}
	return layer.Release()
}

// confine leaves the jail only the store to write in, and a folder in memory.
func (i *installation) confine(h *host.Local) error {
	if err := errors.Join(makeRunWritable(h), hideHome(h), memory(h, stageFolder), ownDevices(h, filepath.Join(stageFolder, "dev"))); err != nil {
		return err
	}
	if err := host.ReadOnlyBut(i.Store, stageFolder); err != nil {
		fmt.Fprintf(h.Log, "ansible-galaxy could write elsewhere: %v\n", err)
	}
	if i.Tools != "" {
		return host.UseTools(i.Tools)
	}
	return nil
}

// copyFolders copies the roles that are folders, which ansible-galaxy does not know. It
// returns what is left to do.
func (i *installation) copyFolders(ctx context.Context, h host.Host, roles string) (rest []definition.Requirement, err error) {
	for _, r := range i.Requirements {
		path := Plan{Project: i.Project}.localPath(r)
		info, err := os.Stat(path)
		switch {
		case path == "":
		case err != nil:
			return nil, fail.Wrap(fail.Usage, r.Origin, err)
		case r.Kind == definition.RequiredRole && r.SCM == "" && info.IsDir():
			if err := h.Run(ctx, host.Cmd("cp", "--recursive", "--dereference", "--no-target-directory", "--", path, filepath.Join(roles, r.Name))); err != nil {
				return nil, fail.Wrap(fail.Build, r.Origin, err)
			}
			continue
		case strings.HasPrefix(r.Source, "git+") || strings.HasPrefix(r.Source, "file://") && r.SCM != "":
			prefix := strings.TrimSuffix(r.Source, r.Local())
			r.Source = prefix + path
		default:
			r.Source = path
		}
		rest = append(rest, r)
	}
	return rest, nil
}

// galaxysOwn is what ansible-galaxy notes in a role: when it was installed, among other things.
const galaxysOwn = "meta/.galaxy_install_info"

// tidyInstalled makes what was installed the same whoever installs it and when, and says what
// it is.
func tidyInstalled(ctx context.Context, root string) (all []Installed, err error) {
	roles, err := os.ReadDir(filepath.Join(root, rolesFolder))
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for _, role := range roles {
		note := filepath.Join(root, rolesFolder, role.Name(), galaxysOwn)
		content, _ := os.ReadFile(note) // a folder has none
		for line := range strings.Lines(string(content)) {
			if version, ok := strings.CutPrefix(strings.TrimSpace(line), "version:"); ok {
				versions[role.Name()] = strings.Trim(strings.TrimSpace(version), `'"`)
			}
		}
		if err := os.Remove(note); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := filepath.WalkDir(root, sameForAll); err != nil {
		return nil, err
	}
	for _, role := range roles {
		var in folderDigest
		if err := in.add(ctx, filepath.Join(root, rolesFolder, role.Name())); err != nil {
			return nil, err
		}
		all = append(all, Installed{definition.RequiredRole, role.Name(), versions[role.Name()], digestOf(in.lines)})
	}
	collections, err := filepath.Glob(filepath.Join(root, collectionsFolder, "ansible_collections", "*", "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range collections {
		if info, err := os.Stat(path); err != nil || !info.IsDir() || strings.Contains(filepath.Base(filepath.Dir(path)), ".") {
			continue
		}
		one, err := installedCollection(ctx, path)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// installedCollection is what a collection's own manifest says.
func installedCollection(ctx context.Context, path string) (Installed, error) {
	var manifest struct {
		Info struct {
			Version string `json:"version"`
		} `json:"collection_info"`
	}
	content, err := os.ReadFile(filepath.Join(path, "MANIFEST.json"))
	if err == nil {
		err = json.Unmarshal(content, &manifest)
	}
	if err != nil {
		return Installed{}, err
	}
	sum, _, err := image.Digest(ctx, filepath.Join(path, "FILES.json"))
	name := filepath.Base(filepath.Dir(path)) + "." + filepath.Base(path)
	return Installed{definition.RequiredCollection, name, manifest.Info.Version, sum}, err
}

// sameForAll gives a file owner and mode that depend on nobody's umask, and removes what is of
// one installation.
func sameForAll(path string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if entry.Name() == "__pycache__" || entry.Name() == ".git" {
		if err := os.RemoveAll(path); err != nil || !entry.IsDir() {
			return err
		}
		return fs.SkipDir
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if entry.IsDir() || info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	if err := os.Lchown(path, 0, 0); err != nil || entry.Type()&fs.ModeSymlink != 0 {
		return err
	}
	return os.Chmod(path, mode)
}
