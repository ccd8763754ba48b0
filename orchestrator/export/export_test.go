package export

import (
	"encoding/xml"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/btw-img/btw-img/orchestrator/golden"
)

func TestDescriptions(t *testing.T) {
	plain := Machine{Name: "web", Description: "A web server", Folder: "/srv/web", File: "web.img", Memory: 2 << 30, CPUs: 2, Firmware: "bios"}
	odd := Machine{
		Name: "web-1.2", Description: "Web's -- \"odd\"\n<one> ${x}", Folder: "/srv/a folder & 'more'", File: "it's ${a} \"disk\" & <b>.img", Memory: 1 << 30, CPUs: 1, Firmware: "secureboot",
		Key: "ssh-ed25519 AAAA o'neill@example",
	}
	for _, k := range Kinds {
		for name, m := range map[string]Machine{"plain": plain, "odd": odd} {
			got, err := k.Describe(m)
			if err != nil {
				t.Fatal(err)
			}
			golden.Equal(t, k.Name+"-"+name+".golden", string(got))
			if strings.HasSuffix(k.File, ".tf") {
				if _, wrong := hclparse.NewParser().ParseHCL(got, k.File); wrong.HasErrors() {
					t.Error(wrong)
				}
			}
		}
		if commands := k.Commands("web"); len(commands) != 2 || strings.Contains(strings.Join(commands, " "), "FILE") {
			t.Errorf("%s: %q", k.Name, commands)
		}
	}
}

func TestNoDescriptionEndsAComment(t *testing.T) {
	for hyphens := range 9 {
		m := Machine{Name: "web", Description: "a" + strings.Repeat("-", hyphens) + "> b", Folder: "/srv/web", File: "web.img", Memory: 1 << 30, CPUs: 1, Firmware: "bios"}
		got, err := Named("libvirt").Describe(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := xml.Unmarshal(got, new(struct{})); err != nil {
			t.Errorf("%d: %v", hyphens, err)
		}
	}
}
