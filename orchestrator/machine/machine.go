// Package machine is the life of test machines: guests that outlive vmctl, each with a
// folder of its own below one of the user's. A machine runs as long as its QEMU holds a
// lock that the kernel takes back with the process, so that no number of a process is
// trusted. How QEMU is started is vm's.
package machine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Names in the folder of a machine.
const (
	recordName     = "machine.json"
	runName        = "run.json" // of the run that was started last
	lockName       = "lock"     // QEMU holds it as long as it lives
	imageName      = "image"
	diskName       = "disk"
	varsName       = "vars"
	monitorName    = "monitor"
	terminalName   = "terminal"
	attachedName   = "attached" // who is at the terminal holds it
	consoleName    = "console.log"
	complaintsName = "qemu.log"
	keyName        = "key"
	knownHostsName = "known_hosts"
	seedDiskName   = "seed.img"
	stringsName    = "strings"
)

// Record is what is known of a machine, running or not.
type Record struct {
	Name   string `json:"name"`
	Source string `json:"source"` // build, image or reference that it was launched from
	Image  Image  `json:"image"`
	Guest  Guest  `json:"guest"`
	Accel  string `json:"accel"`           // as asked: vm.AccelAuto and its kin
	Build  string `json:"build,omitempty"` // whose image it is, as far as is known
	// Passing is of a machine that an image is made of: nothing in it gets the machine's name.
	Passing bool `json:"passing,omitempty"`
	Settings
	Created time.Time `json:"created"`
}

// Image is what lies below a machine's disk.
type Image struct {
	Path     string    `json:"path"` // below the machine's folder, or absolute
	Format   string    `json:"format"`
	Size     int64     `json:"size"` // bytes of the file
	Modified time.Time `json:"modified"`
}

// Run is what is known of a machine since it was started.
type Run struct {
	PID      int          `json:"pid"`
	Numbered              // what gave that number
	Started  time.Time    `json:"started"`
	Accel    string       `json:"accel"`
	Forwards []vm.Forward `json:"forwards"` // with the ports that the kernel chose
	Console  int64        `json:"console"`  // bytes of its log that are from before
}

// Numbered is where a number means one process: a PID namespace, in one run of a kernel. It is
// empty for a machine that an older vmctl has started.
type Numbered struct {
	Boot      string `json:"boot,omitempty"`          // random(4), boot_id
	Namespace string `json:"pid_namespace,omitempty"` // namespaces(7)
}

// numberedHere is where numbers of processes are those that vmctl sees.
func numberedHere() (Numbered, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Numbered{}, err
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	return Numbered{Boot: strings.TrimSpace(string(boot)), Namespace: namespace}, err
}

// elsewhere says whether the machine's process has another number here: it was started in
// another container, or on another host that has the folder, too.
func (r Run) elsewhere() bool {
	here, err := numberedHere()
	return r.Numbered != Numbered{} && (err != nil || r.Numbered != here)
}

// SSHPort is the port of the host's loopback address that leads to the guest's ssh, 0
// where none is known. It comes first.
func (r Run) SSHPort() int {
	for _, f := range r.Forwards {
		if f.Guest == sshPort {
			return f.Host
		}
	}
	return 0
}

const sshPort = 22

// Machine is a machine in its folder.
type Machine struct {
	Record
	dir string
}

// States of machines.
const (
	Running = "running"
	Stopped = "stopped"
)

// Status is a machine as it is now.
type Status struct {
	Record
	State string `json:"state"`
	Run   *Run   `json:"run,omitempty"` // of one that runs
}

// Folder is where a user's machines are.
type Folder struct{ path string }

// UsersFolder is the folder of who runs vmctl, as the XDG Base Directory Specification
// has it.
func UsersFolder() (Folder, error) {
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		home, err := os.UserHomeDir()
		if err != nil {
			return Folder{}, &fail.Error{Kind: fail.Host, Op: "folder of the machines", Err: err, Hint: "set XDG_STATE_HOME"}
		}
		state = filepath.Join(home, ".local", "state")
	}
	return Folder{filepath.Join(state, "vmctl", "machines")}, nil
}

// namePattern is also that of host names (RFC 1123), without capitals.
var namePattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$`)

const longestName = 63

// CheckName is why no machine, and no snapshot, can have that name, or nil.
func CheckName(name string) error {
	if !namePattern.MatchString(name) || len(name) > longestName {
		return fail.New(fail.Usage, "", "use lower-case letters, digits, and dots or hyphens between them, 63 characters at most", "%q is no name for a machine or snapshot", name)
	}
	return nil
}

// NameFor is a name for a machine that is made of an image, from the last part of its
// path or reference.
func NameFor(source string) string {
	base := strings.ToLower(filepath.Base(source))
	if i := strings.IndexAny(base, ":@"); i > 0 {
		base = base[:i]
	}
	base = strings.TrimSuffix(base, filepath.Ext(base))
	base = strings.Trim(unnamable.ReplaceAllString(base, "-"), "-.")
	return cmp.Or(strings.TrimRight(base[:min(len(base), longestName)], "-."), "machine")
}

var unnamable = regexp.MustCompile(`[^a-z0-9.-]+`)

// Names is the names of the machines.
func (f Folder) Names() ([]string, error) {
	entries, err := os.ReadDir(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && namePattern.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// Open is the machine of that name.
func (f Folder) Open(name string) (Machine, error) {
	if err := CheckName(name); err != nil {
		return Machine{}, err
	}
	m := Machine{dir: filepath.Join(f.path, name)}
	err := readJSON(filepath.Join(m.dir, recordName), &m.Record)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fail.New(fail.Usage, "", "'vmctl ps' lists the machines, 'vmctl launch' makes one", "there is no machine %q", name)
	}
	m.Name = name
	return m, err
}

// List is all machines as they are now, also where the record of another one is damaged.
func (f Folder) List() ([]Status, error) {
	names, err := f.Names()
	if err != nil {
		return nil, err
	}
	all := []Status{}
	var problems []error
	for _, name := range names {
		m, err := f.Open(name)
		switch {
		case err == nil:
			all = append(all, m.Status())
		case m.Exists(): // else it was removed meanwhile
			problems = append(problems, err)
		}
	}
	return all, errors.Join(problems...)
}

// Exists says whether the machine has a folder.
func (m Machine) Exists() bool {
	_, err := os.Stat(m.dir)
	return err == nil
}

// Status is the machine as it is now.
func (m Machine) Status() Status {
	s := Status{Record: m.Record, State: Stopped}
	if !m.Running() {
		return s
	}
	s.State = Running
	if run, err := m.run(); err == nil {
		s.Run = &run
	}
	return s
}

// Running says whether the machine's QEMU lives.
func (m Machine) Running() bool { return held(filepath.Join(m.dir, lockName)) }

// run is what is known since it was started.
func (m Machine) run() (Run, error) {
	var r Run
	err := readJSON(filepath.Join(m.dir, runName), &r)
	return r, err
}

// running is the run of a machine that runs.
func (m Machine) running() (Run, error) {
	if !m.Running() {
		return Run{}, fail.New(fail.Usage, "", "run 'vmctl start "+m.Name+"' first", "the machine %s does not run", m.Name)
	}
	r, err := m.run()
	if errors.Is(err, fs.ErrNotExist) {
		return r, fail.New(fail.Host, "", "run 'vmctl stop "+m.Name+"' and start it again, unless another vmctl is starting it now", "nothing is known of the run of %s", m.Name)
	}
	return r, err
}

// New is a machine that is being made. It appears whole or not at all.
type New struct {
	folder Folder
	dir    string
	lock   *os.File
}

// Prepare begins a machine. It is to be closed.
func (f Folder) Prepare(name string) (*New, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(f.path, name)); err == nil {
		return nil, taken(name)
	}
	if err := files.Trusted(f.path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(f.path, 0o700); err != nil {
		return nil, err
	}
	if err := f.tidy(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(f.path, unfinished)
	if err != nil {
		return nil, err
	}
	n := &New{folder: f, dir: dir}
	if n.lock, err = acquire(filepath.Join(dir, lockName)); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func taken(name string) error {
	return fail.New(fail.Usage, "", fmt.Sprintf("use it with 'vmctl ssh %[1]s' or 'vmctl start %[1]s', remove it with 'vmctl clean %[1]s', or give another --name", name), "there is a machine %q already", name)
}

// Folder is where the image of the machine may be put.
func (n *New) Folder() string { return n.dir }

// Finish gives the machine its name.
func (n *New) Finish(r Record) (Machine, error) {
	r.Created = time.Now().UTC().Truncate(time.Second)
	if err := writeJSON(filepath.Join(n.dir, recordName), r); err != nil {
		return Machine{}, err
	}
	m := Machine{Record: r, dir: filepath.Join(n.folder.path, r.Name)}
	err := os.Rename(n.dir, m.dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return m, taken(r.Name)
	}
	n.dir = ""
	return m, err
}

// Close removes what has no name yet, and lets a machine that has one be.
func (n *New) Close() error {
	var err error
	if n.dir != "" {
		err = os.RemoveAll(n.dir)
	}
	if n.lock != nil {
		n.lock.Close()
	}
	return err
}

// Beginnings of the names of what is no machine any more or not yet. While somebody is at
// it, its lock is held.
const (
	unfinished = ".new-"
	removed    = ".gone-"
)

// Unlocked folders of that age are rubbish: the lock comes right after the folder.
const settled = time.Minute

// tidy removes what vmctls left that were killed.
func (f Folder) tidy() error {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return err
	}
	var problems []error
	for _, entry := range entries {
		dir := filepath.Join(f.path, entry.Name())
		info, err := entry.Info()
		if err != nil || !strings.HasPrefix(entry.Name(), unfinished) && !strings.HasPrefix(entry.Name(), removed) {
			continue
		}
		if time.Since(info.ModTime()) > settled && !held(filepath.Join(dir, lockName)) {
			problems = append(problems, os.RemoveAll(dir))
		}
	}
	return errors.Join(problems...)
}

// Remove ends a machine and removes it.
func (m Machine) Remove() error {
	if err := m.Kill(); err != nil {
		return err
	}
	lock, err := acquire(filepath.Join(m.dir, lockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	gone, err := os.MkdirTemp(filepath.Dir(m.dir), removed)
	if err != nil {
		return err
	}
	if err := unix.Rename(m.dir, gone); err != nil { // an empty folder makes room, says rename(2), os.Rename not
		return errors.Join(err, os.Remove(gone))
	}
	return os.RemoveAll(gone)
}

// identity is what tells whether an image is still the one that it was.
func identity(image *os.File, format string) (Image, error) {
	info, err := image.Stat()
	if err != nil {
		return Image{}, err
	}
	return Image{Format: format, Size: info.Size(), Modified: info.ModTime().UTC()}, nil
}

// openImage opens what lies below the machine's disk, unless it has changed.
func (m Machine) openImage() (*os.File, error) {
	path := m.Image.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(m.dir, path)
	}
	changed := func(err error) error {
		return &fail.Error{Kind: fail.Usage, Op: m.Name, Err: err, Hint: "'vmctl clean " + m.Name + "' and launch it anew"}
	}
	file, err := files.OpenRegular(path)
	if err != nil {
		return nil, changed(fmt.Errorf("the image of the machine is gone: %w", err))
	}
	now, err := identity(file, m.Image.Format)
	if err == nil && (now.Size != m.Image.Size || !now.Modified.Equal(m.Image.Modified)) {
		err = changed(fmt.Errorf("the image below the machine's disk has changed: %s", path))
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func writeJSON(path string, v any) error {
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(path, append(content, '\n'), 0o600, files.Owner{})
}

const largestRecord = 1 << 20 // bytes

func readJSON(path string, into any) error {
	file, err := files.OpenRegular(path)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, largestRecord))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return &fail.Error{Kind: fail.Host, Op: path, Err: err, Hint: "it is damaged: 'vmctl clean " + filepath.Base(filepath.Dir(path)) + "' removes the machine"}
	}
	return nil
}
