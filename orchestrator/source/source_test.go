package source_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
	"github.com/btw-img/btw-img/orchestrator/source"
)

func TestCommands(t *testing.T) {
	for name, s := range map[string]definition.Source{
		"slim": {Bootstrap: &definition.Bootstrap{Suite: "trixie", Variant: "minbase", Components: []string{"main"}}},
		"docs": {Bootstrap: &definition.Bootstrap{
			Suite: "bookworm", Variant: "apt", Components: []string{"main", "contrib"}, Docs: true,
			Mirror: "http://mirror.example/debian", Keyring: "/keys/mirror.gpg", Packages: []string{"vim", "python3"},
		}},
		"tarball": {Tarball: &definition.Tarball{Path: "/srv/root.tar.zst"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := source.Command(s, "/work/root", source.Options{Packages: []string{"grub-pc"}, EssentialHook: "true", Scratch: "/work/tmp", APTConfig: "/run/apt/apt.conf"})
			if s.Bootstrap != nil && !slices.Equal(c.Env, []string{"TMPDIR=/work/tmp"}) {
				t.Errorf("an interrupted mmdebstrap leaves files outside the scratch folder: %v", c.Env)
			}
			golden.Equal(t, name+".golden", c.String()+"\n")
		})
	}
}

// TestWhatAFailedBootstrapHasBegunEnds stands for a download in the background.
func TestWhatAFailedBootstrapHasBegunEnds(t *testing.T) {
	failure := errors.New("no such suite")
	h := &hosttest.Fake{Failures: map[string]error{"mmdebstrap": failure}}
	s := definition.Source{Bootstrap: &definition.Bootstrap{Suite: "trixie"}}
	if err := source.Apply(t.Context(), h, s, t.TempDir(), source.Options{Scratch: t.TempDir()}); !errors.Is(err, failure) {
		t.Errorf("error %v", err)
	}
	if last := h.Calls[len(h.Calls)-1]; last != "kill others" {
		t.Errorf("last call: %s", last)
	}
}
