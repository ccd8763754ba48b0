// Package seed is what a machine is told on its first boot: the files of cloud-init's data
// source NoCloud, on a disk of their own or in the image. It runs nothing.
package seed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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

// CloudConfig is how user data in YAML begins, and Nothing is some that asks for nothing.
const (
	CloudConfig = "#cloud-config"
	Nothing     = CloudConfig + "\n{}\n"
)

// beginnings is what cloud-init knows user and vendor data by (its documentation, User-data
// formats).
var beginnings = []string{
	CloudConfig, "#!", "#include", "#cloud-boothook", "#part-handler", "## template:", "Content-Type:", "MIME-Version:", "Content-type:", "\x1f\x8b",
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
		whole[UserData] = []byte(Nothing)
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
		meta := fmt.Sprintf("instance-id: %q\n", "iid-"+hex.EncodeToString(sum.Sum(nil)[:8]))
		if name != "" {
			meta += fmt.Sprintf("local-hostname: %q\n", name) // it may look like a number
		}
		whole[MetaData] = []byte(meta)
	} else if name != "" {
		return nil, fail.New(fail.Usage, "", "write local-hostname into the file", "a host name is given, and %s as well", MetaData)
	}
	return whole, whole.check()
}

// Folder is where cloud-init looks for a seed in the image itself. What a disk with a seed
// says counts before it; there is no first boot without MetaData, be that empty.
const Folder = "/var/lib/cloud/seed/nocloud"

// Names is the names of the files of a seed.
var Names = []string{UserData, MetaData, NetworkConfig, VendorData}

// Mistake is what cloud-init would pass over in silence.
type Mistake struct {
	Line int // of the file, 0 where there is none
	Mend string
	Err  error
}

func (m *Mistake) Error() string { return m.Err.Error() }

func (m *Mistake) Unwrap() error { return m.Err }

// Check is what is wrong with a file of a seed, nil for nothing.
func Check(name string, content []byte) *Mistake {
	mistake := func(line int, mend, format string, args ...any) *Mistake {
		return &Mistake{line, mend, fmt.Errorf(format, args...)}
	}
	if len(content) > Largest {
		return mistake(0, "let it fetch what is large", "it is larger than %d bytes", Largest)
	}
	if name == UserData || name == VendorData {
		begins := func(with string) bool { return bytes.HasPrefix(content, []byte(with)) }
		if !slices.ContainsFunc(beginnings, begins) {
			return mistake(1, "begin it with "+CloudConfig+", or with #! for a script", "cloud-init does not know what it is by its first line")
		}
		if !begins(CloudConfig) {
			return nil
		}
	}
	var settings map[string]any
	if err := yaml.Unmarshal(content, &settings); err != nil {
		return mistake(lineOf(err), "write a mapping of YAML", "%w", err)
	}
	if name == NetworkConfig && settings["version"] == nil && settings["network"] == nil {
		return mistake(1, "add a line 'version: 2'", "it does not say of which version it is")
	}
	if host := settings["local-hostname"]; name == MetaData && host != nil {
		if _, text := host.(string); !text {
			return mistake(0, "quote it", "local-hostname is a text, and not %v", host)
		}
	}
	return nil
}

// lineOf is the line that an error of the YAML library is of, 0 where it names none.
func lineOf(err error) int {
	if several, ok := errors.AsType[*yaml.LoadErrors](err); ok && len(several.Errors) > 0 {
		return several.Errors[0].Mark.Line
	}
	if one, ok := errors.AsType[*yaml.LoadError](err); ok {
		return one.Mark.Line
	}
	return 0
}

// check refuses what is no seed of its own.
func (s Seed) check() error {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if mistake := Check(name, s[name]); mistake != nil {
			return &fail.Error{Kind: fail.Usage, Op: name, Hint: mistake.Mend, Err: mistake.Err}
		}
		var settings map[string]any
		if name == MetaData && (yaml.Unmarshal(s[name], &settings) != nil || settings["instance-id"] == nil) {
			return fail.New(fail.Usage, name, "add a line 'instance-id: NAME'", "it has no instance-id, by which cloud-init knows a first boot")
		}
	}
	return nil
}

// Serial is the serial number of a machine that gets its seed from an address, which ends in
// a slash (cloud-init's documentation, NoCloud). The name that newer ones have for it, nocloud,
// older ones know of folders alone.
func Serial(address string) string { return "ds=nocloud-net;s=" + address }

// IsConfig says whether user or vendor data is settings in YAML.
func IsConfig(content []byte) bool { return bytes.HasPrefix(content, []byte(CloudConfig)) }

// Write writes a complete seed as a disk.
func (s Seed) Write(out io.Writer) error {
	return iso9660.Image{Label: label, Files: s, Time: time.Unix(0, 0)}.Write(out)
}
