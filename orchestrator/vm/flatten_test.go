package vm

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
)

// What is flattened is told to QEMU as a whole, so that no image names what is read.
func TestFlattenNamesAllThatIsRead(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "x,y"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("QFI\xfb\x00\x00\x00\x03" + strings.Repeat("\x00", 104)); err != nil {
		t.Fatal(err)
	}
	for format, below := range map[string]string{
		diskformat.QCOW2: `{"backing":null,"driver":"qcow2","file":{"driver":"file","filename":"FD"}}`,
		diskformat.Raw:   `{"driver":"raw","file":{"driver":"file","filename":"FD"}}`,
	} {
		command, err := Flatten(file, format, file, "out")
		if err != nil {
			t.Fatal(err)
		}
		args := command.Args
		got := regexp.MustCompile(`/proc/\d+/fd/\d+`).ReplaceAllString(args[len(args)-2], "FD")
		want := `json:{"backing":` + below + `,"driver":"qcow2","file":{"driver":"file","filename":"FD"}}`
		if got != want {
			t.Errorf("%s:\n%s\nwant\n%s", format, got, want)
		}
	}
}
