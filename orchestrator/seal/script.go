package seal

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/text"
)

//go:embed script.sh
var script string

// running is what is of the run alone, or of the memory of the machine that runs the script.
var running = []string{"/run/", "/dev/", "/proc/", "/sys/"}

// Script is what seals a machine from within, for sh(1): it does what FirstBoot and Apply do
// to a tree, and removes what a machine writes by itself. Of the lines in files of authorized
// keys, those with the key go. Its argument is the folder of the tree, nothing for the running
// machine itself.
func Script(key string) string {
	var patterns strings.Builder
	for _, pattern := range slices.Concat(removed, packageCaches, volatile) {
		own := pattern == machineID || pattern == "/lost+found"
		if !own && !slices.ContainsFunc(running, func(folder string) bool { return strings.HasPrefix(pattern, folder) }) {
			fmt.Fprintf(&patterns, "rm -rf -- \"$root\"%s\n", pattern)
		}
	}
	return strings.NewReplacer(
		"@KEY@", text.Word(key), "@REMOVE@\n", patterns.String(),
		"@KEYGEN_UNIT@", keygenUnit, "@KEYGEN@", keygen, "@NO_PROMPT_FILE@", noPromptFile, "@NO_PROMPT@", noPrompt,
		"@PRESET_FILE@", presetFile, "@PRESET@", lastMatters, "@MACHINE_ID@", machineID, "@RESOLV_CONF@", debian.ResolvConf, "@STUB_RESOLV@", stubResolv,
	).Replace(script)
}
