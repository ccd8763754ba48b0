package machine

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// ConfFolder is the folder of the files that say how builds are launched, beside those of
// the definitions.
const ConfFolder = "conf.d"

// Conf is conf.d/NAME.conf: the machine that a build is tried out on.
type Conf struct {
	Disk string // path of the image; in the file, from the folder that holds conf.d
	// Unedited says that the file is as a build has left it.
	Unedited bool
	Settings
}

// ConfPath is the file of a build, in the folder of the definitions.
func ConfPath(definitions, name string) string {
	return filepath.Join(definitions, ConfFolder, name+".conf")
}

// Text is the file's content, as a build writes it.
func (c Conf) Text(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The machine that 'vmctl launch %s' starts. Edit it: a build writes this file\n# anew only as long as it is as a build has left it.\n\n", name)
	fmt.Fprintf(&b, "disk = %s\n", c.Disk)
	for _, s := range settings {
		value := s.text(c.Settings)
		if s.about != "" {
			fmt.Fprintf(&b, "\n# %s\n", s.about)
		}
		if value == "" {
			b.WriteString("#")
		}
		fmt.Fprintf(&b, "%s\n", strings.TrimRight(s.key+" = "+value, " "))
	}
	return b.String() + stampBegin + stamp(b.String()) + "\n"
}

// stampBegin begins the last line, by which a file is known that nobody has edited.
const stampBegin = "\n# As a build has left it: "

func stamp(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:8])
}

// edited says whether somebody has changed what a build wrote.
func edited(content string) bool {
	written, mark, found := strings.Cut(content, stampBegin)
	return !found || strings.TrimSpace(mark) != stamp(written)
}

// Parse reads the content of the file of that path over what is set already, and reports
// all mistakes.
func (c *Conf) Parse(path, content string) error {
	var problems definition.Problems
	wrong := func(line int, err error) {
		problems = append(problems, definition.Problem{File: path, Line: line, What: err.Error(), Mend: fail.Hint(err)})
	}
	seen := map[string]bool{}
	number := 0
	for line := range strings.Lines(content) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, value, found := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case !found:
			wrong(number, fmt.Errorf("%q is not KEY = VALUE", line))
		case seen[key]:
			wrong(number, fmt.Errorf("%s is there twice", key))
		default:
			if err := c.set(key, value); err != nil {
				wrong(number, err)
			}
		}
		seen[key] = true
	}
	if len(problems) == 0 {
		return nil
	}
	return &fail.Error{Kind: fail.Usage, Err: problems}
}

func (c *Conf) set(key, value string) error {
	if key == "disk" {
		c.Disk = value
		return nil
	}
	known := []string{"disk"}
	for _, s := range settings {
		if s.key == key {
			return s.read(&c.Settings, value)
		}
		known = append(known, s.key)
	}
	if near := definition.Nearest(key, known); near != "" {
		return fmt.Errorf("unknown key %q: did you mean %s?", key, near)
	}
	return fmt.Errorf("unknown key %q: known are %s", key, strings.Join(known, ", "))
}

// ReadConf reads the file of a build over c, if there is one. Paths in it are then those
// of the working folder.
func (c *Conf) ReadConf(definitions, name string) error {
	path := ConfPath(definitions, name)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	found := Conf{Settings: c.Settings}
	if err := found.Parse(path, string(content)); err != nil {
		return err
	}
	for _, relative := range []*string{&found.Disk, &found.Share} {
		if *relative != "" && !filepath.IsAbs(*relative) {
			*relative = filepath.Join(definitions, *relative)
		}
	}
	found.Unedited = !edited(string(content))
	found.Disk, found.Share = cmp.Or(found.Disk, c.Disk), cmp.Or(found.Share, c.Share)
	*c = found
	return nil
}

// WriteConf writes the file of a build, unless somebody has edited the one that is there.
// Where it can, it names the disk from the folder of the definitions.
func (c Conf) WriteConf(definitions, name string, owner files.Owner) error {
	path := ConfPath(definitions, name)
	if relative, err := relativeTo(definitions, c.Disk); err == nil {
		c.Disk = relative
	}
	content := c.Text(name)
	before, err := os.ReadFile(path)
	if err == nil && (string(before) == content || edited(string(before))) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := files.Prepare(filepath.Dir(path), owner); err != nil {
		return err
	}
	return writeWhole(path, []byte(content), 0o644, owner)
}

func relativeTo(folder, path string) (string, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	return filepath.Rel(folder, path)
}

// writeWhole writes a file that is there whole or not at all.
func writeWhole(path string, content []byte, mode fs.FileMode, owner files.Owner) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".part-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(content)
	if err = errors.Join(err, file.Chmod(mode), owner.GiveOpen(file), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
