package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/orchestrator/host"
)

func TestAPackageOfTheArchive(t *testing.T) {
	plain := packageCommand(definition.Bootstrap{Suite: "trixie"}, "pkg", "/root", Options{Scratch: "/tmp"})
	all := packageCommand(definition.Bootstrap{Suite: "trixie", Mirror: "https://m.example/debian", Keyring: "/k.gpg"}, "pkg", "/root", Options{Scratch: "/tmp", APTConfig: "/apt.conf"})
	golden.Equal(t, "package.golden", plain.String()+"\n"+all.String()+"\n")
}

// dpkg-deb is a script that gives an archive.
func TestFilesAreTakenOutOfAPackage(t *testing.T) {
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	script := "#!/bin/sh\nexec tar --create --to-stdout --directory=\"$2\" .\n"
	for name, content := range map[string]string{"bin/dpkg-deb": script, "deb/usr/lib/a/linux": "kernel", "deb/usr/lib/a/other": strings.Repeat("x", 1<<20), "deb/z": "last"} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", at("bin")+":"+os.Getenv("PATH"))
	if err := takeOut(t.Context(), &host.Local{}, at("deb"), map[string]string{"/usr/lib/a/linux": at("linux")}); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(at("linux")); string(content) != "kernel" || err != nil {
		t.Errorf("%q, %v", content, err)
	}
	err := takeOut(t.Context(), &host.Local{}, at("deb"), map[string]string{"/usr/lib/a/linux": at("linux"), "/usr/lib/a/gone": at("gone")})
	if err == nil || !strings.Contains(err.Error(), "the package lacks 1 of the 2 files") {
		t.Errorf("%v", err)
	}
	if err := takeOut(t.Context(), &host.Local{}, at("nothing"), map[string]string{"/a": at("a")}); err == nil {
		t.Error("a package that is none")
	}
}
