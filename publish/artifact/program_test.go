package artifact_test

import (
	"bytes"
	"os"
	"testing"
	"testing/fstest"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/btw-img/btw-img/publish/artifact"
)

// TestModulesOfAProgram looks into the test's own binary.
func TestModulesOfAProgram(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	made := time.Unix(1_700_000_000, 0)
	first, err := artifact.ProgramSBOM(self, "v1.2.3", made)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spdxjson.Read(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	if doc.CreationInfo.Created != "2023-11-14T22:13:20Z" || doc.Packages[0].PackageVersion != "v1.2.3" || len(doc.Packages[0].PackageChecksums) != 1 {
		t.Errorf("%+v of %s", doc.Packages[0], doc.CreationInfo.Created)
	}
	found := map[string]bool{}
	for _, p := range doc.Packages[1:] {
		found[p.PackageName] = p.PackageVersion != "" && len(p.PackageExternalReferences) == 1
	}
	if !found["stdlib"] || len(found) != len(doc.Packages)-1 || len(doc.Relationships) != len(doc.Packages) {
		t.Errorf("%d packages, %d names, %d relationships, %v", len(doc.Packages), len(found), len(doc.Relationships), found)
	}
	again, err := artifact.ProgramSBOM(self, "v1.2.3", made)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the second is another one: %v", err)
	}
	text, err := fstest.MapFS{"a": {Data: []byte("package a")}}.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.ProgramSBOM(text, "v1", made); err == nil {
		t.Error("a text has modules")
	}
}
