// Command package writes what 'make dist' and 'make deb' need besides the binary: the list
// of the modules in it, and what nfpm is to make a package of. Only those call it.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/btw-img/btw-img/publish/artifact"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: package sbom BINARY VERSION, or package deb FOLDER VERSION")
	}
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH must be the date of the commit, in seconds: %w", err)
	}
	made := time.Unix(seconds, 0).UTC()
	var out []byte
	switch args[0] {
	case "sbom":
		out, err = sbom(args[1], args[2], made)
	case "deb":
		out, err = describe(args[1], debianVersion(args[2], made), made)
	default:
		err = fmt.Errorf("unknown command %q", args[0])
	}
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(out)
	return err
}

func sbom(binary, version string, made time.Time) ([]byte, error) {
	file, err := os.Open(binary)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return artifact.ProgramSBOM(file, version, made)
}
