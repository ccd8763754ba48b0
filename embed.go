// Package btwimg holds what is built into the vmctl binary: the shipped builds, the
// playbooks, and the digest of the code that makes images.
package btwimg

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
)

// Files holds install.d, commands.d and ansible/playbooks.
//
//go:embed install.d commands.d ansible/playbooks
var Files embed.FS

//go:embed ansible orchestrator cmd/vmctl/jail.go
var code embed.FS

// afterwards is the code that only looks at a finished image, or tells of it.
var afterwards = []string{"orchestrator/boottest/", "orchestrator/vm/", "orchestrator/golden/", "orchestrator/report/"}

// Maker is the digest of the code that makes trees, disks and images, in hex. What was made
// by the same code need not be made again, whatever else has changed in vmctl.
func Maker() string { return makerOf(code) }

func makerOf(code fs.FS) string {
	sum := sha256.New()
	err := fs.WalkDir(code, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !makes(path) {
			return err
		}
		content, err := fs.ReadFile(code, path)
		fmt.Fprintf(sum, "%q %d\n", path, len(content))
		sum.Write(content)
		return err
	})
	if err != nil {
		panic(fmt.Sprintf("the embedded code cannot be read: %v", err)) // it is in memory
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func makes(path string) bool {
	for _, folder := range afterwards {
		if strings.HasPrefix(path, folder) {
			return false
		}
	}
	return !strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "/testdata/")
}
