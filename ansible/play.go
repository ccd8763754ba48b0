package ansible

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// Entry is one entry of a layer.
type Entry struct {
	Origin string         // its file and line
	Name   string         // what is shown of it, with templates
	NoLog  bool           // of all its tasks, those of its roles too
	Facts  bool           // gather Ansible's facts of the tree before it
	Parts  map[string]any // what it holds, as the definition has it
}

// parts is what an entry may hold, in the order in which it is applied. Roles and playbooks
// are plays to themselves.
var parts = []part{
	{name: "debconf", tasks: "debconf.yml"},
	{name: "repositories", tasks: "repositories.yml"},
	{name: "packages", tasks: "packages.yml"},
	{name: "files"},
	{name: "templates"},
	{name: "users"},
	{name: "services"},
	{name: "run"},
	{name: "argv"},
}

type part struct {
	name  string
	tasks string // file with its tasks; "" where the plugin does it in one call
}

// commandPart is how the plugin calls an entry of commands, which is one part.
const commandPart = "command"

// play is the playbook that applies the entries: the tasks that each needs, and no others.
// An entry is known by its number, which the names of its tasks begin with.
func (r Run) play() ([]byte, error) {
	var tasks []map[string]any
	for number, entry := range r.Entries {
		name := fmt.Sprintf("[%d] {{ vmctl_name }}", number)
		before := len(tasks)
		add := func(task, values map[string]any) {
			task["vars"] = map[string]any{"vmctl_number": number, "vmctl_name": entry.Name, "vmctl_entry": values}
			task["no_log"] = entry.NoLog
			tasks = append(tasks, task)
		}
		if entry.Facts {
			add(map[string]any{"name": fmt.Sprintf("[%d] %s", number, factsTask), pluginAction: map[string]any{"part": factsTask}}, nil)
		}
		for _, part := range parts {
			switch value := entry.Parts[part.name]; {
			case empty(value):
			case part.tasks != "":
				add(map[string]any{"import_tasks": part.tasks}, entry.forTasks())
			case part.name == "run" || part.name == "argv":
				add(map[string]any{"name": name, pluginAction: map[string]any{"part": commandPart}}, entry.Parts)
			default:
				add(map[string]any{"name": name + ": " + part.name, pluginAction: map[string]any{"part": part.name}}, map[string]any{part.name: value})
			}
		}
		if len(tasks) == before { // it has a gate all the same
			add(map[string]any{"name": name, "ansible.builtin.debug": map[string]any{"msg": ""}}, nil)
		}
	}
	return json.Marshal([]map[string]any{{
		"name": "Layer", "hosts": host, "gather_facts": false, "tags": []string{"always"}, "vars_files": []string{variablesFile}, "tasks": tasks,
	}})
}

// forTasks is what the files of tasks see of an entry: all that they render.
func (e Entry) forTasks() map[string]any {
	values := maps.Clone(e.Parts)
	maps.DeleteFunc(values, func(name string, _ any) bool {
		return name != "recommends" && !slices.ContainsFunc(parts, func(p part) bool { return p.name == name && p.tasks != "" })
	})
	return values
}

// empty is whether there is nothing in a part.
func empty(part any) bool {
	value := reflect.ValueOf(part)
	return !value.IsValid() || value.IsZero() || (value.Kind() == reflect.Map || value.Kind() == reflect.Slice) && value.Len() == 0
}
