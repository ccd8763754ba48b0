// Package seed is what one machine is told on its first boot: the files of cloud-init's data
// source NoCloud, on a disk of their own. It runs nothing.
package seed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"regexp"
	"slices"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/iso9660"
)

// Names of the files of a seed (cloud-init's documentation, NoCloud).
const (
	UserData      = "user-data"
	MetaData      = "meta-data"
	NetworkConfig = "network-config"
	VendorData    = "vendor-data"
)

// label is that of the disks on which cloud-init looks for a seed.
const label = "cidata"

// Largest is how large a file of a seed may be, in bytes.
const Largest = 1 << 20

// Seed is the files of a seed, by their names.
type Seed map[string][]byte

// cloudConfig is how user data in YAML begins.
const cloudConfig = "#cloud-config"

// beginnings is what cloud-init knows user and vendor data by (its documentation, User-data
// formats).
var beginnings = []string{
	cloudConfig, "#!", "#include", "#cloud-boothook", "#part-handler", "## template:", "Content-Type:", "MIME-Version:", "Content-type:", "\x1f\x8b",
}

var hostname = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$`)

// Complete adds what is missing: user data that asks for nothing, and the machine's name with
// an identifier that is of the content, by which cloud-init knows a first boot. name is the
// host name, "" for that of the image.
func (s Seed) Complete(name string) (Seed, error) {
	if name != "" && !hostname.MatchString(name) {
		return nil, fail.New(fail.Usage, "", "use letters, digits, dots and hyphens", "%q is no host name", name)
	}
	whole := maps.Clone(s)
	if whole[UserData] == nil {
		whole[UserData] = []byte(cloudConfig + "\n{}\n")
	}
	if whole[MetaData] == nil {
		sum := sha256.New()
		for _, file := range slices.Sorted(maps.Keys(whole)) {
			for _, part := range [][]byte{[]byte(file), whole[file]} {
				digest := sha256.Sum256(part)
				sum.Write(digest[:])
			}
		}
		sum.Write([]byte(name))
		meta := "instance-id: iid-" + hex.EncodeToString(sum.Sum(nil)[:8]) + "\n"
		if name != "" {
			meta += "local-hostname: " + name + "\n"
		}
		whole[MetaData] = []byte(meta)
	} else if name != "" {
		return nil, fail.New(fail.Usage, "", "write local-hostname into the file", "a host name is given, and %s as well", MetaData)
	}
	return whole, whole.check()
}

// check refuses what cloud-init would pass over in silence.
func (s Seed) check() error {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		content := s[name]
		refuse := func(hint, format string, args ...any) error { return fail.New(fail.Usage, name, hint, format, args...) }
		if len(content) > Largest {
			return refuse("let it fetch what is large", "it is larger than %d bytes", Largest)
		}
		if name == UserData || name == VendorData {
			begins := func(with string) bool { return bytes.HasPrefix(content, []byte(with)) }
			if !slices.ContainsFunc(beginnings, begins) {
				return refuse("begin it with "+cloudConfig+", or with #! for a script", "cloud-init does not know what it is by its first line")
			}
			if !begins(cloudConfig) {
				continue
			}
		}
		var settings map[string]any
		if err := yaml.Unmarshal(content, &settings); err != nil {
			return refuse("write a mapping of YAML", "%w", err)
		}
		if name == MetaData && settings["instance-id"] == nil {
			return refuse("add a line 'instance-id: NAME'", "it has no instance-id, by which cloud-init knows a first boot")
		}
		if name == NetworkConfig && settings["version"] == nil && settings["network"] == nil {
			return refuse("add a line 'version: 2'", "it does not say of which version it is")
		}
	}
	return nil
}

// IsConfig says whether user or vendor data is settings in YAML.
func IsConfig(content []byte) bool { return bytes.HasPrefix(content, []byte(cloudConfig)) }

// Write writes a complete seed as a disk.
func (s Seed) Write(out io.Writer) error {
	return iso9660.Image{Label: label, Files: s, Time: time.Unix(0, 0)}.Write(out)
}
