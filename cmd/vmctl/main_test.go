package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/btw-img/btw-img/orchestrator/host"
)

func TestMain(m *testing.M) {
	host.StandIn()
	if len(os.Args) == 2 && os.Args[1] == jailVerb { // under the name that a jail is started by
		os.Exit(runJail())
	}
	testscript.Main(m, map[string]func(){"vmctl": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }})
}

func TestScripts(t *testing.T) {
	reachable := func(env *testscript.Env) error { // root's tests start tools as nobody
		env.Setenv("VMCTL_CACHE", filepath.Join(env.WorkDir, "cache")) // not the machine's
		return os.Chmod(filepath.Dir(env.WorkDir), 0o711)
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: reachable, Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"document": checkDocument, "registry": startRegistry, "release": makeRelease, "serve": startServe,
	}, Condition: func(name string) (bool, error) {
		if name != "root" {
			return false, fmt.Errorf("there is no condition %q", name)
		}
		return os.Geteuid() == 0, nil
	}})
}
