package ansible

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Project is what of the user's own Ansible an entry applies, and where it lies.
type Project struct {
	Folder    string   // holds roles, playbooks, collections, group_vars and the like
	Installed string   // holds further roles and collections; "" for none
	Roles     any      // in the form of a play's roles
	Playbooks []string // in the folder playbooks
	Tags      []string // of the tasks that are run, none for all
	SkipTags  []string // of those that are not
	NoLog     bool     // hide what the tasks of roles and playbooks print
	// AllowLocalhost lets tasks act on the machine that builds.
	AllowLocalhost bool
}

// A run ends with the entry's roles, which get a play to themselves, and its playbooks.
const (
	rolesFile = "roles.json" // in playbooksFolder
	factsFile = "facts.json"
)

// playbooks is the paths of what a run plays, in order.
func (r Run) playbooks() []string {
	paths := []string{filepath.Join(r.Scratch, playbooksFolder, playFile)}
	if r.Project.Roles != nil {
		paths = append(paths, filepath.Join(r.Scratch, playbooksFolder, rolesFile))
	}
	for _, name := range r.Project.Playbooks {
		paths = append(paths, filepath.Join(r.Project.Folder, "playbooks", name))
	}
	return paths
}

// prepareProject writes the play of the roles, and links what Ansible looks for beside an
// inventory.
func (r Run) prepareProject() error {
	for _, name := range []string{"group_vars", "host_vars"} {
		link := filepath.Join(r.Scratch, name)
		if err := os.RemoveAll(link); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(r.Project.Folder, name)); err != nil {
			continue
		}
		if err := os.Symlink(filepath.Join(r.Project.Folder, name), link); err != nil {
			return err
		}
	}
	if r.Project.Roles == nil {
		return nil
	}
	return writeJSON(filepath.Join(r.Scratch, playbooksFolder, rolesFile), []any{map[string]any{
		"name": "Roles", "hosts": host, "gather_facts": false, "no_log": r.Project.NoLog,
		"vars_files": []string{variablesFile}, "roles": r.Project.Roles,
	}})
}

// prepareFacts writes what the cache plugin tells in place of the builder's facts.
func (r Run) prepareFacts() error {
	return writeJSON(filepath.Join(r.Scratch, factsFile), map[string]any{"root": r.Root, "facts": r.Machine, "date_time": dateFacts(r.Epoch)})
}

// prepareSecrets writes the secrets as variables that Ansible takes as they are, whatever
// they hold.
func (r Run) prepareSecrets() error {
	var text strings.Builder
	text.WriteString("{}\n")
	if len(r.Secrets) > 0 {
		text.Reset()
	}
	for _, name := range slices.Sorted(maps.Keys(r.Secrets)) {
		quoted, err := json.Marshal(r.Secrets[name]) // which is YAML, too
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s: !unsafe %s\n", name, quoted)
	}
	return os.WriteFile(filepath.Join(r.Scratch, secretsFile), []byte(text.String()), 0o600)
}

// dateFacts is the time that Ansible tells.
func dateFacts(at time.Time) map[string]any {
	at = at.UTC()
	_, week := at.ISOWeek()
	seconds := strconv.FormatInt(at.Unix(), 10)
	facts := map[string]any{
		"tz": "UTC", "tz_dst": "UTC", "tz_offset": "+0000", "epoch": seconds, "epoch_int": seconds,
		"weekday_number": strconv.Itoa(int(at.Weekday())), "weeknumber": fmt.Sprintf("%02d", week),
	}
	for name, layout := range map[string]string{
		"year": "2006", "month": "01", "weekday": "Monday", "day": "02", "hour": "15", "minute": "04", "second": "05",
		"date": "2006-01-02", "time": "15:04:05", "iso8601": "2006-01-02T15:04:05Z", "iso8601_micro": "2006-01-02T15:04:05.000000Z",
		"iso8601_basic": "20060102T150405000000", "iso8601_basic_short": "20060102T150405",
	} {
		facts[name] = at.Format(layout)
	}
	return facts
}

// projectEnvironment is where Ansible finds what is the user's.
func (r Run) projectEnvironment() []string {
	in := func(name string) string { return filepath.Join(r.Project.Folder, name) }
	roles, collections := []string{in("roles")}, []string{in("collections")}
	if r.Project.Installed != "" {
		roles = append(roles, filepath.Join(r.Project.Installed, "roles"))
		collections = append(collections, filepath.Join(r.Project.Installed, "collections"))
	}
	env := []string{
		"ANSIBLE_ROLES_PATH=" + strings.Join(roles, ":"),
		"ANSIBLE_COLLECTIONS_PATH=" + strings.Join(append(collections, "/usr/share/ansible/collections"), ":"),
		"ANSIBLE_CACHE_PLUGIN=machine",
		"ANSIBLE_CACHE_PLUGINS=" + filepath.Join(r.Scratch, playbooksFolder, "cache_plugins"),
		"ANSIBLE_CACHE_PLUGIN_CONNECTION=" + filepath.Join(r.Scratch, factsFile),
	}
	connections := []string{filepath.Join(r.Scratch, playbooksFolder, "connection_plugins")}
	if !r.Project.AllowLocalhost && !r.Local {
		connections = append(connections, filepath.Join(r.Scratch, playbooksFolder, "guards"))
	}
	env = append(env, "ANSIBLE_CONNECTION_PLUGINS="+strings.Join(connections, ":"))
	if r.Project.NoLog { // playbooks are not ours to write it into
		env = append(env, "ANSIBLE_NO_LOG=1")
	}
	for _, folder := range []struct{ variable, name string }{
		{"LIBRARY", "library"}, {"MODULE_UTILS", "module_utils"}, {"ACTION_PLUGINS", "action_plugins"},
		{"FILTER_PLUGINS", "filter_plugins"}, {"LOOKUP_PLUGINS", "lookup_plugins"}, {"TEST_PLUGINS", "test_plugins"},
	} {
		env = append(env, "ANSIBLE_"+folder.variable+"="+in(folder.name))
	}
	return env
}

func writeJSON(path string, content any) error {
	text, err := withVault(content)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
