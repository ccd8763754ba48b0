package btwimg

import (
	"testing"
	"testing/fstest"
)

func TestWhatCountsAsTheMaker(t *testing.T) {
	code := fstest.MapFS{
		"ansible/playbooks/packages.yml": {Data: []byte("a")}, "orchestrator/seal/seal.go": {Data: []byte("b")},
		"orchestrator/seal/seal_test.go": {Data: []byte("c")}, "orchestrator/vm/guest.go": {Data: []byte("d")}, "orchestrator/disk/testdata/x.golden": {Data: []byte("e")},
	}
	before := makerOf(code)
	for path, counts := range map[string]bool{
		"ansible/playbooks/packages.yml": true, "orchestrator/seal/seal.go": true, "orchestrator/new/new.go": true,
		"orchestrator/seal/seal_test.go": false, "orchestrator/vm/guest.go": false, "orchestrator/disk/testdata/x.golden": false,
	} {
		kept := code[path]
		code[path] = &fstest.MapFile{Data: []byte("other")}
		if changed := makerOf(code) != before; changed != counts {
			t.Errorf("%s: changed %t", path, changed)
		}
		if code[path] = kept; kept == nil {
			delete(code, path)
		}
	}
	if Maker() == makerOf(fstest.MapFS{}) {
		t.Error("no code is embedded")
	}
}
