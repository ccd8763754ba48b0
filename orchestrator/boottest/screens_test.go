package boottest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestScreensTakeThePlaceOfAnotherBoots(t *testing.T) {
	dir := t.TempDir()
	console := filepath.Join(dir, "boot-bios.log")
	if err := errors.Join((Screens{LoaderScreen: []byte("1"), LastScreen: []byte("1")}).write(console, "bios"), (Screens{LastScreen: []byte("2")}).write(console, "bios")); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 1 || filepath.Base(names[0]) != "boot-bios-screen.png" {
		t.Fatalf("%v, %v", names, err)
	}
	if content, err := os.ReadFile(names[0]); err != nil || string(content) != "2" {
		t.Errorf("%q, %v", content, err)
	}
	for name, is := range map[string]bool{"boot-bios-screen.png": true, "boot-uefi-loader.png": true, "boot-bios.log": false, "web-screen.png": false, "boot-1-amd64.raw": false} {
		if IsScreen(name) != is {
			t.Errorf("%s: %t", name, !is)
		}
	}
}
