package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/chroot"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/seal"
	"github.com/btw-img/btw-img/orchestrator/source"
)

// Python is what Ansible needs of a tree. Where the definition says so it goes once no layer
// needs it any more: builds that extend this one start from the tree before.

const pythonTitle = "Python"

// growWithoutPython removes what was brought for Ansible, where that is transient.
func growWithoutPython(s *stages, w *workshop, t layeredTree) (layeredTree, error) {
	if w.plan.Definition.Python != definition.PythonTransient || !w.bootstrapped() {
		return t, nil
	}
	named := w.pythonNamed()
	recipe := recipe{
		title: pythonTitle, below: t.tree, key: following(t.top().Key(), digestOf(w.parts.Maker, pythonTitle, named)),
		work: func(ctx context.Context, root string) error {
			epoch, err := t.epoch()
			if err != nil {
				return err
			}
			var gone, needing []string
			err = w.entered(ctx, root, w.plan.Definition.Hostname, func() (err error) {
				if err := chroot.DeferInitramfs(ctx, w.host, root); err != nil {
					return err
				}
				gone, needing, err = source.RemoveAnsiblePackages(ctx, dated(w.host, epoch), root, named)
				return err
			})
			if err != nil {
				return err
			}
			if len(gone) > 0 {
				s.task(pythonTitle, "changed", "removed %s", strings.Join(gone, " "))
			} else {
				s.task(pythonTitle, "ok", "it stays: %s", pythonStays(named, needing))
			}
			return cmp.Or(seal.DropCaches(root), seal.ClampChanged(root, w.changed, epoch))
		},
	}
	grown, err := grow(s, w, recipe)
	return layeredTree{grown}, err
}

func pythonStays(named, needing []string) string {
	switch {
	case len(needing) > 0:
		return strings.Join(atMost(needing), ", ") + " need it"
	case len(named) > 0:
		return "the definition installs " + strings.Join(named, ", ")
	}
	return "nothing was brought for Ansible"
}

// pythonNamed is which of the packages for Ansible the user installs, too.
func (w *workshop) pythonNamed() (named []string) {
	d := w.plan.Definition
	lists := [][]string{d.Source.Bootstrap.Packages}
	for _, layer := range d.Layers {
		for _, e := range layer.Install {
			lists = append(lists, e.Packages)
		}
	}
	for _, layer := range w.parts.Layers {
		for _, entry := range layer {
			lists = append(lists, strings.Fields(entry.Python))
		}
	}
	for _, list := range lists {
		for _, name := range list {
			name, _, _ = strings.Cut(name, "=")
			name, _, _ = strings.Cut(name, "/")
			name, _, _ = strings.Cut(name, ":")
			if slices.Contains(source.AnsiblePackages(), name) && !slices.Contains(named, name) {
				named = append(named, name)
			}
		}
	}
	slices.Sort(named)
	return named
}

var (
	// namesPython is a word that is the name of such a package, and no path.
	namesPython = regexp.MustCompile(`(?:^|[^\w./-])(python3(?:-apt)?)(?:$|[^\w.-])`)
	// installsPackages is what else is there where packages are installed.
	installsPackages = regexp.MustCompile(`\b(?:apt|apt-get|aptitude|package|packages)\b`)
)

// python is the names of packages for Ansible that an entry seems to install itself: by its
// roles, playbooks, commands and the variables that these read.
func (r *reading) python(layer *definition.Layer, vars map[string]any) string {
	all := r.text.String() + "\n" + strings.Join(append(texts(layer), texts(vars)...), "\n")
	if !installsPackages.MatchString(all) {
		return ""
	}
	var names []string
	for _, match := range namesPython.FindAllStringSubmatch(all, -1) {
		if !slices.Contains(names, match[1]) {
			names = append(names, match[1])
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// texts is all strings in a value, and the names of its keys.
func texts(value any) (all []string) {
	var general any
	content, err := json.Marshal(value)
	if err = errors.Join(err, json.Unmarshal(content, &general)); err != nil {
		return nil
	}
	var each func(any)
	each = func(value any) {
		switch value := value.(type) {
		case string:
			all = append(all, value)
		case []any:
			for _, item := range value {
				each(item)
			}
		case map[string]any:
			for key, item := range value {
				all = append(all, key)
				each(item)
			}
		}
	}
	each(general)
	return all
}
