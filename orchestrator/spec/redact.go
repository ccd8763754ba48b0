package spec

import (
	"maps"
	"regexp"
	"slices"
)

// Assets is the places in the definition that name files of the builder.
func (d *Definition) Assets() []*string {
	var assets []*string
	add := func(path *string) {
		if *path != "" {
			assets = append(assets, path)
		}
	}
	if b := d.Source.Bootstrap; b != nil {
		add(&b.Keyring)
	}
	if t := d.Source.Tarball; t != nil {
		add(&t.Path)
	}
	for _, layer := range d.Layers {
		for i := range layer.Install {
			entry := &layer.Install[i]
			for j := range entry.Repositories {
				if key := &entry.Repositories[j].Key; !inlineKey(*key) {
					add(key)
				}
			}
			for j := range entry.Files {
				add(&entry.Files[j].Source)
			}
			for j := range entry.Templates {
				add(&entry.Templates[j].Source)
			}
		}
	}
	return assets
}

const hidden = "(hidden)"

var secretName = regexp.MustCompile(`(?i)pass|secret|token|credential|private|api_?key`)

// Redacted is the definition without what may be secret: variables whose name
// says so, password hashes, and the values of entries with no_log.
func (d Definition) Redacted() Definition {
	d.Vars = maps.Clone(d.Vars)
	for name, value := range d.Vars {
		d.Vars[name] = redactValue(name, value)
	}
	d.Layers = slices.Clone(d.Layers)
	for i, layer := range d.Layers {
		d.Layers[i].Install = slices.Clone(layer.Install)
		for j := range d.Layers[i].Install {
			d.Layers[i].Install[j].redact()
		}
		d.Layers[i].Commands = slices.Clone(layer.Commands)
		for j := range d.Layers[i].Commands {
			d.Layers[i].Commands[j].redact()
		}
	}
	return d
}

func redactValue(name string, value any) any {
	if secretName.MatchString(name) {
		return hidden
	}
	if nested, ok := value.(map[string]any); ok {
		nested = maps.Clone(nested)
		for key, inner := range nested {
			nested[key] = redactValue(key, inner)
		}
		return nested
	}
	return value
}

func (e *InstallEntry) redact() {
	e.Users = slices.Clone(e.Users)
	for i := range e.Users {
		if e.Users[i].PasswordHash != "" {
			e.Users[i].PasswordHash = hidden
		}
	}
	e.Debconf = slices.Clone(e.Debconf)
	for i := range e.Debconf {
		if e.NoLog || e.Debconf[i].Type == "password" {
			e.Debconf[i].Value = hidden
		}
	}
	for _, files := range []*[]File{&e.Files, &e.Templates} {
		*files = slices.Clone(*files)
		for i := range *files {
			if e.NoLog && (*files)[i].Content != "" {
				(*files)[i].Content = hidden
			}
		}
	}
}

func (e *CommandEntry) redact() {
	e.Environment = maps.Clone(e.Environment)
	for name := range e.Environment {
		if e.NoLog || secretName.MatchString(name) {
			e.Environment[name] = hidden
		}
	}
	if e.NoLog && e.Run != "" {
		e.Run = hidden
	}
	if e.NoLog && len(e.Argv) > 0 {
		e.Argv = []string{hidden}
	}
}
