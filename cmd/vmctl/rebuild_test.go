package main

import (
	"testing"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/image"
)

func TestImagesOfARebuildAreCompared(t *testing.T) {
	record := orchestrator.Manifest{Disk: orchestrator.DiskContent{SHA256: "d"}, Outputs: []image.File{{Name: "a.raw", SHA256: "a"}, {Name: "a.qcow2", SHA256: "b"}, {Name: "a.vmdk"}}}
	built := orchestrator.Manifest{Disk: orchestrator.DiskContent{SHA256: "d"}, Outputs: []image.File{{Name: "a.raw", SHA256: "a"}, {Name: "a.qcow2", SHA256: "c"}, {Name: "a.vmdk"}}}
	for i, want := range []bool{true, true, false, false} {
		if got := compare(record, built)[i]; got.Same != want {
			t.Errorf("%+v", got)
		}
	}
	if got := compare(record, orchestrator.Manifest{})[1]; got.Same || got.Built != "" {
		t.Errorf("an image that is missing is the same: %+v", got)
	}
}
