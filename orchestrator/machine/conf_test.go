package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

func TestAConfReadsBackAsItWasWritten(t *testing.T) {
	plain := Conf{Disk: "images/web/web.raw", Settings: Defaults()}
	full := plain
	full.Memory, full.Size, full.CPUs, full.Firmware, full.Network, full.Share = 3<<30, 20<<30, 4, "uefi", NetworkIsolated, "site"
	full.Ports = []vm.Forward{{Host: 8080, Guest: 80}, {Host: 8443, Guest: 443}}
	for name, c := range map[string]Conf{"plain": plain, "full": full} {
		text := c.Text("web")
		golden.Equal(t, "conf-"+name+".golden", text)
		got := Conf{Settings: Defaults()}
		if err := got.Parse("web.conf", text); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(c, got); diff != "" {
			t.Error(diff)
		}
		if edited(text) || !edited(strings.Replace(text, "memory = ", "memory =  ", 1)) || !edited("memory = 1G\n") {
			t.Error("nobody knows who wrote it")
		}
	}
}

func TestAllMistakesOfAConfAreTold(t *testing.T) {
	c := Conf{Settings: Defaults()}
	err := c.Parse("web.conf", "memory = 1M\n\n# x\ncpus = 0\nfirmware = efi\nports = 80\nnetwork = all\nmemry = 1G\ndisk\ncpus = 1\n")
	want := []string{":1: 1M is too little: give 64M or more", ":4: \"0\" is no number", ":5: \"efi\" is none of bios, uefi, secureboot", ":6: \"\" is no port: write HOST:GUEST", ":7: \"all\" is none of user, none", ":8: unknown key \"memry\": did you mean memory?", ":9: \"disk\" is not KEY = VALUE", ":10: cpus is there twice"}
	if fail.ExitCode(err) != 2 {
		t.Fatalf("%v", err)
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range want {
		if i >= len(lines) || !strings.HasPrefix(lines[i], "web.conf"+line) {
			t.Errorf("%q is not in\n%v", line, err)
		}
	}
}

func TestAConfIsTheUsersOnceEdited(t *testing.T) {
	dir := t.TempDir()
	c := Conf{Disk: filepath.Join(dir, "images", "web.raw"), Settings: Defaults()}
	read := func() string {
		content, err := os.ReadFile(ConfPath(dir, "web"))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	write := func() {
		if err := c.WriteConf(dir, "web", files.Owner{}); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if !strings.Contains(read(), "\ndisk = images/web.raw\n") {
		t.Errorf("%s", read())
	}
	c.CPUs = 7
	write()
	if !strings.Contains(read(), "cpus = 7\n") {
		t.Error("a build does not write its own file anew")
	}
	mine := strings.Replace(read(), "cpus = 7", "cpus = 1", 1)
	if err := os.WriteFile(ConfPath(dir, "web"), []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	c.CPUs = 9
	write()
	if read() != mine {
		t.Error("what the user wrote is gone")
	}
	got := Conf{Settings: Defaults()}
	if err := got.ReadConf(dir, "web"); err != nil || got.CPUs != 1 || got.Disk != c.Disk {
		t.Errorf("%+v, %v", got, err)
	}
	if err := got.ReadConf(dir, "other"); err != nil || got.CPUs != 1 {
		t.Errorf("without a file: %+v, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, ConfFolder)); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}
