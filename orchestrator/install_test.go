package orchestrator

import (
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/source"
)

func TestAnInstallersDownloadsArePinned(t *testing.T) {
	i := definition.Installer{
		Kernel: &definition.Fetched{URL: "https://h.example/linux?token=x", SHA256: strings.Repeat("a", 64)},
		Initrd: &definition.Fetched{File: "initrd"},
		ISO:    &definition.Fetched{URL: "https://h.example/iso", SHA256: strings.Repeat("b", 64)},
	}
	pinned := pinnedInstaller(i)
	if err := pinned.check(); err != nil || len(pinned.Files) != 2 || pinned.Files[0].Name != "iso" || pinned.Files[1].Digest != "sha256:"+i.Kernel.SHA256 {
		t.Errorf("%+v, %v", pinned, err)
	}
	if told := describeInstaller(i); strings.Contains(told, "token") || !strings.Contains(told, "the installer https://h.example/linux, with https://h.example/iso in the CD drive") {
		t.Errorf("%s", told)
	}
}

func TestACommandLineIsPublicAndShort(t *testing.T) {
	variables := project{"group_vars/all.yml": "token: !vault |\n  " + strings.ReplaceAll(strings.TrimSpace(vaultOfHunter2), "\n", "\n  ") + "\n"}.write(t)
	for cmdline, want := range map[string]string{
		"console=ttyS0":           "",
		"key=a-secret-value":      "holds the secret token",
		"a\nb":                    "more than a line",
		"key=content":             "holds what is encrypted in group_vars/all.yml:2",
		strings.Repeat("a", 2048): "has 2048 bytes",
	} {
		r := &installing{workshop: &workshop{plan: Plan{Project: variables}, secrets: secrets{"token": "a-secret-value", "short": "a", vaultPassword: "hunter2"}}, cmdline: cmdline}
		err := r.checkCommandLine(t.Context())
		if (err == nil) != (want == "") || err != nil && (fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "a-secret-value")) {
			t.Errorf("%.20q: %v, want %q", cmdline, err, want)
		}
	}
}

func TestTheMirrorOfAnArchive(t *testing.T) {
	for url, want := range map[string]string{"http://m.example/debian/dists/trixie/InRelease": "http://m.example/debian", "": ""} {
		var archives []source.Release
		if url != "" {
			archives = []source.Release{{URL: url}}
		}
		if got := mirrorOf(archives); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
