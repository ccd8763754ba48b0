package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

// notRun is the examples that a test cannot run, and why. They are parsed.
var notRun = map[string]string{
	"vmctl build debian":                            "needs Debian's archive",
	"vmctl build --all --jobs 2 --format raw,qcow2": "needs Debian's archive",
	"vmctl shell debian":                            "needs a build and a terminal",
	"vmctl shell debian -- cat /etc/os-release":     "needs a build",
	"vmctl test debian":                             "needs QEMU and an image that boots",
	"vmctl test images/debian/debian-13-amd64.qcow2 --firmware bios,uefi --json":           "needs QEMU and an image that boots",
	"vmctl test disk.vmdk --accel tcg --memory 2G --timeout 20m --logs consoles":           "needs QEMU and an image that boots",
	"vmctl push debian registry.example/lab/debian --sign-key cosign.key --container-disk": "needs a registry",
	"vmctl pull registry.example/lab/debian --format raw --key cosign.pub":                 "needs a registry",
	"vmctl inspect registry.example/lab/debian:13 --json":                                  "needs a registry",
	"vmctl verify registry.example/lab/debian --key cosign.pub":                            "needs a registry",
	"vmctl login registry.example --username alice":                                        "needs a registry and a terminal",
	"vmctl login registry.example --username alice --password-stdin < password":            "needs a registry",
	"vmctl seed --user-data user.yml --listen 127.0.0.1:8000":                              "needs files, and does not end",
	"vmctl provision debian setup.sh":                                                      machines,
	"vmctl provision disk.qcow2 site.yml --name shop -o images":                            "needs an image",
	"vmctl provision debian setup.sh --via console --network none --no-test":               machines,
	"vmctl launch debian": machines,
	"vmctl launch debian --name web --memory 2G --port 8080:80 --share site": machines,
	"vmctl launch registry.example/lab/debian:13 --firmware uefi --json":     "needs a registry",
	"vmctl diff debian debian":                                                           "needs an image",
	"vmctl export libvirt debian --ssh-key ~/.ssh/id_ed25519.pub":                        "needs an image",
	"vmctl export terraform debian -o site":                                              "needs an image",
	"vmctl export proxmox images/debian/debian-13-amd64.qcow2 --name web":                "needs an image",
	"vmctl convert debian vmdk":                                                          "needs an image",
	"vmctl convert images/debian/debian-13-amd64.qcow2 vhd -o azure":                     "needs an image",
	"vmctl convert debian oci -o containers":                                             "needs an image",
	"vmctl seed web-1.iso --user-data user.yml --network-config network.yml --overwrite": "needs files",
	"vmctl diff images/debian/debian.qcow2 oci:images/oci/debian:13 --json":              "needs an image",
	"vmctl diff debian registry.example/lab/debian:13 --all":                             "needs a registry",
	"vmctl ssh debian":                       machines,
	"vmctl ssh debian -- systemctl --failed": machines,
	"vmctl ssh web --user alice":             machines,
	"vmctl cp site debian:/var/www":          machines,
	"vmctl cp debian:/etc/fstab .":           machines,
	"vmctl console debian":                   machines,
	"echo | vmctl console debian":            machines,
	"vmctl stop debian":                      machines,
	"vmctl stop debian --timeout 20s":        machines,
	"vmctl stop debian --force":              machines,
	"vmctl start debian":                     machines,
	"vmctl start debian --timeout 20m":       machines,
	"vmctl logs debian":                      machines,
	"vmctl logs debian --follow":             machines,
	"vmctl screenshot debian":                machines,
	"vmctl screenshot debian login.png":      machines,
	"vmctl snapshot debian before":           machines,
	"vmctl snapshot debian before --restore": machines,
	"vmctl snapshot debian":                  machines,
	"vmctl clean debian":                     machines,
	"sudo vmctl write debian /dev/sdb":       "needs a disk",
	"sudo vmctl write registry.example/lab/debian:13 /dev/disk/by-id/ata-… --yes --seed web-1.iso": "needs a registry and a disk",
	"vmctl serve":                        "runs until it is interrupted",
	"vmctl lock debian":                  "needs a build by this vmctl",
	"vmctl lock debian -o images --json": "needs a build by this vmctl",
	"sudo vmctl rebuild images/debian/debian-13-amd64.qcow2":                                                        "needs root and a build",
	"sudo vmctl rebuild registry.example/lab/debian:13 --snapshot https://snapshot.example/debian/20260101T000000Z": "needs root and a registry",
	"vmctl serve images --listen 127.0.0.1:8080":                                                                    "runs until it is interrupted",
	"vmctl serve --tls-cert server.crt --tls-key server.key":                                                        "runs until it is interrupted",
	"vmctl doctor":                        "its exit code tells of this host",
	"vmctl doctor --json":                 "its exit code tells of this host",
	"sudo vmctl doctor --install-missing": "installs packages",
}

const machines = "needs QEMU and an image that boots"

// TestExamples runs the examples of every verb's --help as they are written, in
// a folder that holds a finished build.
func TestExamples(t *testing.T) {
	builtFiles := published(t)
	scripts, listed := t.TempDir(), 0
	for _, verb := range newRoot(&output{w: io.Discard}, io.Discard).Commands() {
		examples := strings.Split(verb.Example, "\n")
		if verb.Example == "" || len(examples) > 3 {
			t.Errorf("%s has %q for examples", verb.Name(), verb.Example)
		}
		for i, line := range examples {
			example := strings.TrimSpace(line)
			if !strings.Contains(example, "vmctl "+verb.Name()) {
				t.Errorf("%s: %q is about something else", verb.Name(), example)
			}
			if notRun[example] != "" {
				listed++
				parse(t, example)
				continue
			}
			name := fmt.Sprintf("%s-%d.txtar", verb.Name(), i+1)
			script := strings.Replace(builtFiles, "EXAMPLE", "exec bash -ec '"+example+"'", 1)
			if err := os.WriteFile(filepath.Join(scripts, name), []byte(script), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if listed != len(notRun) {
		t.Errorf("%d examples are listed as not to be run, and %d of them are there", len(notRun), listed)
	}
	testscript.Run(t, testscript.Params{Dir: scripts})
}

// published is a script that publishes the build of publish.txtar, with a place
// for an example.
func published(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("testdata/script/publish.txtar")
	if err != nil {
		t.Fatal(err)
	}
	_, files, ok := strings.Cut(string(content), "\n-- images/")
	if !ok {
		t.Fatal("publish.txtar holds no build")
	}
	return `[!exec:bash] stop 'needs bash'
env HOME=$WORK
env XDG_STATE_HOME=$WORK/state
env VMCTL_CACHE=$WORK/cache
env DOCKER_CONFIG=$WORK/docker
env VMCTL_REGISTRY=
env CI_REGISTRY_IMAGE=
cd images/debian
exec sh -c 'sed -i "s/SUM/$(sha256sum debian.qcow2 | cut -c-64)/" build.json && sha256sum debian.qcow2 build.json packages.json boot-bios.log > SHA256SUMS'
cd $WORK
exec vmctl push debian
EXAMPLE
-- images/` + files
}

// parse reads an example's flags and arguments and does no more.
func parse(t *testing.T, example string) {
	t.Helper()
	line, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(example, "echo | "), "sudo "), "vmctl "), " < ")
	root := newRoot(&output{w: io.Discard}, io.Discard)
	verb, args, err := root.Find(strings.Fields(line))
	for _, check := range []func(*cobra.Command, []string) error{
		func(c *cobra.Command, args []string) error { return c.ParseFlags(args) },
		func(c *cobra.Command, _ []string) error { return c.ValidateArgs(c.Flags().Args()) },
	} {
		if err == nil {
			err = check(verb, args)
		}
	}
	if err != nil {
		t.Errorf("%s: %v", example, err)
	}
}
