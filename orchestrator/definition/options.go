package definition

import (
	"fmt"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// splitOptions is the mount options between the commas that stand outside
// double quotes, as mount(8) reads them.
func splitOptions(text string) []string {
	var options []string
	quoted, start := false, 0
	for i, char := range text {
		switch {
		case char == '"':
			quoted = !quoted
		case char == ',' && !quoted:
			options, start = append(options, text[start:i]), i+1
		}
	}
	return append(options, text[start:])
}

// validateOptions reports the mount options that the partition's file system,
// one of the known, does not have.
func (ld *loading) validateOptions(p Partition, at place) {
	report := func(what, mend string) { ld.report(at, "disk.layout: "+what, mend) }
	switch {
	case p.Options == "":
		return
	case isJinja(p.Options):
		report("mount options are no template", "write the options themselves")
		return
	case strings.ContainsAny(p.Options, " \t\r\n#"):
		report(fmt.Sprintf("options %q hold a space or a #", p.Options), "separate them with commas")
		return
	}
	for _, option := range splitOptions(p.Options) {
		if option == "" {
			report(fmt.Sprintf("options %q hold a comma too many", p.Options), "write one comma between two options")
		} else if mend, ok := mendOption(filesystem.Named(p.Filesystem), option); !ok {
			report(fmt.Sprintf("%s does not know the mount option %q", p.Filesystem, option), mend)
		}
	}
}

// mendOption says whether the file system has the mount option, and if not,
// what to write instead.
func mendOption(f *filesystem.Filesystem, option string) (mend string, ok bool) {
	if strings.HasPrefix(option, "x-") || strings.HasPrefix(option, "X-") {
		return "", true // comments for programs in user space, such as systemd.mount(5)
	}
	name, value, valued := strings.Cut(option, "=")
	form := name
	if valued {
		form += "="
	}
	switch {
	case valued == (value != "") && f.HasOption(form):
		return "", true
	case f.HasOption(name + "="):
		return "write " + name + "=VALUE", false
	case f.HasOption(name):
		return "write " + name + " without a value", false
	}
	others := slices.Sorted(slices.Values(filesystem.Names(func(other *filesystem.Filesystem) bool { return other.HasOption(form) })))
	if len(others) > 0 {
		return "remove it; it is an option of " + strings.Join(others, " and "), false
	}
	if near := Nearest(form, f.Options); near != "" {
		return fmt.Sprintf("did you mean %q?", near), false
	}
	return "remove it or correct it; fstab(5) and the manual page of the file system list them", false
}
