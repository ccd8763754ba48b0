package boottest

import (
	"strconv"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/vm"
)

// What the report unit writes to the second serial port, line by line, between
// these marks.
const (
	reportBegin = "vmctl-report-begin"
	reportEnd   = "vmctl-report-end"
)

// SystemdForReport is the first version of systemd that takes units from
// credentials.
const SystemdForReport = 256

// reportScript asks systemd how the boot went. It waits for the boot to end,
// so no job of the boot may wait for it: the service is of type exec and
// nothing is ordered after it.
const reportScript = `state=$(systemctl is-system-running --wait)
var() { printf '%s=%s\n' "$1" "$2"; }
firmware=bios secure=unsupported
if [ -d /sys/firmware/efi ]; then
  firmware=uefi secure=disabled
  for v in /sys/firmware/efi/efivars/SecureBoot-*; do
    [ "$(od -An -tu1 -j4 -N1 "$v" 2>/dev/null | tr -d ' ')" = 1 ] && secure=enabled
  done
fi
{
echo ` + reportBegin + `
var state "$state"
var failed "$(systemctl list-units --state=failed --no-legend --plain | cut -d ' ' -f 1 | tr '\n' ' ')"
var jobs "$(systemctl list-jobs --no-legend --plain | tr -s ' ' | cut -d ' ' -f 2 | tr '\n' ' ')"
var systemd "$(systemctl --version | head -n 1 | cut -d ' ' -f 2)"
var kernel "$(uname -r)"
var firmware "$firmware"
var secureboot "$secure"
var hostname "$(cat /proc/sys/kernel/hostname)"
var machine_id "$(cat /etc/machine-id)"
var ssh_host_key "$(cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub 2>/dev/null)"
var root "$(grep ' / ' /proc/self/mounts | tail -n 1 | cut -d ' ' -f 1,3 | tr ' ' ',')"
var finished_us "$(systemctl show --property=FinishTimestampMonotonic --value)"
echo ` + reportEnd + `
} >/dev/ttyS1
systemctl poweroff --force --no-wall`

// reportUnits hand the report script to the guest.
func reportUnits() []vm.Unit { return vm.ScriptUnits("vmctl-report.service", reportScript) }

// Report is what the guest says of itself.
type Report struct {
	State       string   `json:"state"` // as systemctl is-system-running
	Failed      []string `json:"failed,omitempty"`
	Jobs        []string `json:"jobs,omitempty"` // still queued
	Systemd     int      `json:"systemd"`
	Kernel      string   `json:"kernel"`
	Firmware    string   `json:"firmware"`    // bios or uefi
	SecureBoot  string   `json:"secure_boot"` // enabled, disabled or unsupported
	Hostname    string   `json:"hostname"`
	MachineID   string   `json:"machine_id"`
	SSHHostKey  string   `json:"ssh_host_key,omitempty"` // public, ed25519
	Root        string   `json:"root"`                   // device and file system
	BootSeconds float64  `json:"boot_seconds"`           // from kernel to running
}

// parseReport reads the second serial port's text; ok is false until the
// report is complete.
func parseReport(text string) (report Report, ok bool) {
	_, text, begun := strings.Cut(strings.ReplaceAll(text, "\r", ""), reportBegin+"\n")
	text, _, ended := strings.Cut(text, reportEnd+"\n")
	if !begun || !ended {
		return Report{}, false
	}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "state":
			report.State = value
		case "failed":
			report.Failed = strings.Fields(value)
		case "jobs":
			report.Jobs = strings.Fields(value)
		case "systemd":
			report.Systemd, _ = strconv.Atoi(value)
		case "kernel":
			report.Kernel = value
		case "firmware":
			report.Firmware = value
		case "secureboot":
			report.SecureBoot = value
		case "hostname":
			report.Hostname = value
		case "machine_id":
			report.MachineID = value
		case "ssh_host_key":
			report.SSHHostKey = value
		case "root":
			report.Root = value
		case "finished_us":
			microseconds, _ := strconv.ParseFloat(value, 64)
			report.BootSeconds = microseconds / 1e6
		}
	}
	return report, true
}
