package host_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The ids of an ordinary user whom the tests make up.
const (
	ordinaryUser     = 54321
	firstSubordinate = 600000
)

// TestAnOrdinaryUsersJails runs the tests of jails as a user who has subordinate ids, on
// a machine that looks so to that process alone.
func TestAnOrdinaryUsersJails(t *testing.T) {
	needRoot(t)
	folder, err := os.MkdirTemp("", "vmctl-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"passwd": fmt.Sprintf("root:x:0:0::/:/bin/sh\nordinary:x:%[1]d:%[1]d::/:/bin/sh\n", ordinaryUser),
		"subuid": fmt.Sprintf("ordinary:%d:65536\n", firstSubordinate),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const script = `chmod 755 "$1" && cp "$2" "$1/test" && touch /etc/subuid /etc/subgid &&
		mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/subuid" /etc/subuid && mount --bind "$1/subuid" /etc/subgid &&
		cd / && exec setpriv --reuid=$3 --regid=$3 --clear-groups "$1/test" -test.v -test.run=Jail`
	out, err := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", folder, self, fmt.Sprint(ordinaryUser)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"TestAJailDiesWithItsParent", "TestAConfinedJailHasNoPowerOverTheMachine", "TestAConfinedJailListensOnLowPorts"} {
		if !strings.Contains(string(out), "--- PASS: "+want) {
			t.Errorf("%s has not passed:\n%s", want, out)
		}
	}
}
