package host

import (
	"os"
	"path/filepath"
)

// Temp is the folder for small temporary files: $TMPDIR where there is such a folder,
// else /tmp.
func Temp() string { return temp("/tmp") }

// LargeTemp is the folder for large ones (file-hierarchy(7)), since /tmp may be
// memory: $TMPDIR where there is such a folder, else /var/tmp.
func LargeTemp() string { return temp("/var/tmp") }

func temp(fallback string) string {
	dir, err := filepath.Abs(os.Getenv("TMPDIR")) // the jail works in another folder
	if info, statErr := os.Stat(dir); os.Getenv("TMPDIR") != "" && err == nil && statErr == nil && info.IsDir() {
		return dir
	}
	return fallback
}
