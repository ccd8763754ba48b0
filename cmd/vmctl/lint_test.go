package main

import (
	"os"
	"path/filepath"
	"testing"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// lint asks the builder's cloud-init about what needs no rendering, and quotes nothing of it.
func TestLintAsksCloudInit(t *testing.T) {
	folder := t.TempDir()
	for name, content := range map[string]string{
		"bin/cloud-init":  "#!/bin/sh\ncase \"$*\" in *--help) exit 0;; esac\n! grep hunter2 \"$3\"\n",
		"install.d/x.yml": "extends: debian-cloud\ncloudinit:\n  user-data: user.yml\n  vendor-data: {a: hunter2}\n  network-config: {version: hunter2}\n", "install.d/user.yml": "#cloud-config\npassword: hunter2\n",
		"install.d/y.yml": "extends: debian-cloud\ncloudinit: {user-data: {a: '{{ hunter2 }}'}, vendor-data: \"#!/bin/sh\\nhunter2\\n\"}\n",
	} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(folder, "bin")+":"+os.Getenv("PATH"))
	library, err := definition.NewLibrary(definition.Folder(folder), "", btwimg.Files)
	if err != nil {
		t.Fatal(err)
	}
	const hint = "'cloud-init schema --annotate --config-file FILE' shows where"
	for build, want := range map[string]string{
		"x": "install.d/x.yml:3: user-data: cloud-init's schema refuses it: " + hint + "\ninstall.d/x.yml:4: vendor-data: cloud-init's schema refuses it: " + hint,
		"y": "",
	} {
		d, err := library.Load(build, nil)
		if err != nil {
			t.Fatal(err)
		}
		found, err := refusedSettings(t.Context(), &host.Local{}, library, folder, *d)
		if err != nil || found.Error() != want {
			t.Errorf("%s: %v, %q, want %q", build, err, found.Error(), want)
		}
	}
}
