package orchestrator

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
)

func TestRootsShell(t *testing.T) {
	for passwd, want := range map[string]string{
		"daemon:x:1:1::/:/bin/own\nroot:x:0:0:root:/root:/bin/own\n": "/bin/own",
		"root:x:0:0:root:/root:/bin/missing\n":                       plainShell,
		"root:x:0:0:root:/root:/usr/sbin/nologin\n":                  plainShell,
		"root:x:0:0:root:/root:own\n":                                plainShell,
		"root:x\n":                                                   plainShell,
		"":                                                           plainShell,
	} {
		tree := host.Tree(t.TempDir())
		for name, content := range map[string]string{"/etc/passwd": passwd, "/bin/own": "", "/usr/sbin/nologin": ""} {
			if err := tree.Write(name, []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if got := rootsShell(tree); got != want {
			t.Errorf("%q: %s, want %s", passwd, got, want)
		}
	}
	if got := rootsShell(host.Tree(t.TempDir())); got != plainShell {
		t.Errorf("an empty tree: %s", got)
	}
}

// TestATreeIsVisitedBeforeItIsTakenDown fails in stages that are in the tree, and in one
// that is not.
func TestATreeIsVisitedBeforeItIsTakenDown(t *testing.T) {
	broken := errors.New("broken")
	for _, at := range []string{"mmdebstrap", "provision"} {
		fake := &hosttest.Fake{Failures: map[string]error{"mmdebstrap": broken}}
		var provisioning error
		if at == "provision" {
			fake.Failures, provisioning = nil, broken
		}
		err := fakeBuild(t.Context(), t, fake, provisioning, func(ctx context.Context, root string, failure error) error {
			if !errors.Is(failure, broken) {
				t.Errorf("%s: the visit is told of %v", at, failure)
			}
			return fake.Run(ctx, host.Cmd("visit"))
		})
		if !errors.Is(err, broken) {
			t.Errorf("%s: error %v", at, err)
		}
		calls := strings.Join(fake.Calls, "\n")
		if before, after, _ := strings.Cut(calls, "\nvisit\n"); strings.Contains(after, "visit") || !strings.HasPrefix(after, "kill others\nunmount ") || !strings.Contains(before, "hostname ") {
			t.Errorf("%s: not one visit, in the tree:\n%s", at, calls)
		}
	}
}
