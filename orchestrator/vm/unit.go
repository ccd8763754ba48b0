package vm

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// Unit is a systemd unit, or a drop-in for one, that is handed to a guest as a
// system credential (systemd.system-credentials(7)); systemd 256 or later.
type Unit struct {
	Name    string // such as x.service
	DropIn  bool
	Content string
}

func (u Unit) smbios() string {
	kind := "extra-unit"
	if u.DropIn {
		kind = "unit-dropin"
	}
	return fmt.Sprintf("type=11,value=io.systemd.credential.binary:systemd.%s.%s=%s", kind, u.Name, base64.StdEncoding.EncodeToString([]byte(u.Content)))
}

// ScriptUnits make a guest run a shell script at boot, as a service of the
// name that no job of the boot waits for.
func ScriptUnits(name, script string) []Unit {
	// systemd.service(5) and systemd.syntax(7): quoting, specifiers, variables.
	quoted := strings.NewReplacer("\\", "\\\\", `"`, `\"`, "%", "%%", "$", "$$", "\n", "\\n").Replace(script)
	return []Unit{
		{Name: name, Content: "[Service]\nType=exec\nExecStart=/bin/sh -c \"" + quoted + "\"\n"},
		{Name: "multi-user.target", DropIn: true, Content: "[Unit]\nWants=" + name + "\n"},
	}
}
