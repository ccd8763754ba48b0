package host

import "os"

// Temp is the folder for small temporary files: $TMPDIR where there is such a folder,
// else /tmp.
func Temp() string { return temp("/tmp") }

// LargeTemp is the folder for large ones (file-hierarchy(7)), since /tmp may be
// memory: $TMPDIR where there is such a folder, else /var/tmp.
func LargeTemp() string { return temp("/var/tmp") }

func temp(fallback string) string {
	dir := os.Getenv("TMPDIR")
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return dir
	}
	return fallback
}
