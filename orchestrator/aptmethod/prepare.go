package aptmethod

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/text"
)

// schemes is what is fetched over the network; other methods of apt read files.
var schemes = []string{"http", "https"}

// ConfigName is the file in a method's folder that tells apt of it, for APT_CONFIG.
const ConfigName = "apt.conf"

const preferencesName = "preferences"

// KeptFolder is where the method finds what there is.
func KeptFolder(folder string) string { return filepath.Join(folder, keptFolder) }

// NewFolder is where the method writes.
func NewFolder(folder string) string { return filepath.Join(folder, newFolder) }

// Program is where vmctl itself is to be put.
func Program(folder string) string { return filepath.Join(folder, "vmctl") }

// Config is apt's settings for a method whose folder apt sees at that place.
func Config(folder string, s Settings) string {
	var b strings.Builder
	for _, scheme := range schemes {
		fmt.Fprintf(&b, "Dir::Bin::Methods::%s \"%s\";\n", scheme, filepath.Join(folder, scheme))
	}
	if s.Offline || s.Pinned { // lists of another day
		b.WriteString("Acquire::Check-Valid-Until \"false\";\nAcquire::Retries \"0\";\n")
	}
	if s.Preferences != "" {
		fmt.Fprintf(&b, "Dir::Etc::Preferences \"%s\";\n", filepath.Join(folder, preferencesName))
	}
	return b.String()
}

// Prepare fills the folder of a method, which lies at another place than apt will see it at,
// with all but the program and what is mounted there: what is kept, and where to write.
func Prepare(at, folder string, s Settings) error {
	settings, err := json.Marshal(s)
	if err != nil {
		return err
	}
	problems := []error{
		os.MkdirAll(KeptFolder(at), 0o755), os.MkdirAll(NewFolder(at), 0o755),
		os.WriteFile(filepath.Join(at, settingsName), settings, 0o644),
		os.WriteFile(filepath.Join(at, ConfigName), []byte(Config(folder, s)), 0o644),
		os.WriteFile(filepath.Join(at, preferencesName), []byte(s.Preferences), 0o644),
	}
	for _, scheme := range schemes {
		script := fmt.Sprintf("#!/bin/sh\nexec %s %s %s %s\n", text.Word(Program(folder)), Verb, text.Word(folder), scheme)
		problems = append(problems, os.WriteFile(filepath.Join(at, scheme), []byte(script), 0o755), os.Chmod(filepath.Join(at, scheme), 0o755))
	}
	return errors.Join(problems...)
}
