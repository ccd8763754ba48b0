// Package artifacttest is releases as builds leave them, for tests alone.
package artifacttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/fstest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/publish/artifact"
)

// New is a release that differs with the seed, without a folder, and its files. The
// content of the files is shared by all who ask for that seed.
func New(seed uint64) (artifact.Release, fstest.MapFS) {
	made.Lock()
	defer made.Unlock()
	one, ok := made.releases[seed]
	if !ok {
		one.Release, one.files = build(seed)
		made.releases[seed] = one
	}
	r := one.Release
	r.Disks, r.Boots, r.Packages = slices.Clone(r.Disks), slices.Clone(r.Boots), slices.Clone(r.Packages)
	return r, maps.Clone(one.files)
}

// made is the releases that were asked for: random data and digests take time.
var made = struct {
	sync.Mutex
	releases map[uint64]release
}{releases: map[uint64]release{}}

type release struct {
	artifact.Release
	files fstest.MapFS
}

func build(seed uint64) (artifact.Release, fstest.MapFS) {
	r := artifact.Release{
		Name: "debian", Description: "Minimal Debian", Version: "13", Architecture: arch.Target.OCI,
		BuildID: fmt.Sprintf("build-%d", seed), Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Tool: "vmctl test", Tested: true,
		Packages: []debian.Package{{Name: "g++", Version: "4:14.2.0-1", Architecture: arch.Target.Debian, Source: "gcc-defaults", SourceVersion: "1.220"}, {Name: "base-files", Version: "13.8", Architecture: arch.Target.Debian, Source: "base-files", SourceVersion: "13.8"}},
	}
	files := fstest.MapFS{}
	raw := disk(seed)
	r.RawDigest = digest.FromBytes(raw)
	for _, d := range []struct {
		format  string
		content []byte
	}{{diskformat.QCOW2, append([]byte("header"), raw...)}, {diskformat.Raw, raw}} {
		one := artifact.Disk{Name: "debian-13-" + arch.Target.Debian + "." + d.format, Format: d.format, Size: int64(len(d.content)), VirtualSize: int64(len(raw)), Digest: digest.FromBytes(d.content)}
		files[one.Name] = &fstest.MapFile{Data: d.content}
		r.Disks = append(r.Disks, one)
	}
	for _, firmware := range []string{"bios", "uefi"} {
		r.Boots = append(r.Boots, artifact.Boot{Firmware: firmware, Passed: true, Proof: "report", Accel: "tcg", Seconds: 30, Report: json.RawMessage(`{"state":"running"}`)})
		files["boot-"+firmware+".log"] = &fstest.MapFile{Data: []byte("Debian GNU/Linux 13 debian ttyS0 " + firmware + "\n")}
	}
	packages, err := json.Marshal(r.Packages)
	if err != nil {
		panic(err) // it holds nothing but strings
	}
	files["packages.json"] = &fstest.MapFile{Data: packages}
	files["report.html"] = &fstest.MapFile{Data: []byte("<!DOCTYPE html>\n")}
	files["build.json"] = &fstest.MapFile{Data: fmt.Appendf(nil, `{"id": %q, "outputs": [{"sha256": %q}, {"sha256": %q}]}`, r.BuildID, r.Disks[0].Digest.Encoded(), r.Disks[1].Digest.Encoded())}
	Seal(files)
	return r, files
}

// disk is random data with a hole of 2 MiB in the middle, 4 MiB long.
func disk(seed uint64) []byte {
	content := make([]byte, 4<<20)
	source := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = source.Read(content[:1<<20]) // which never fails
	_, _ = source.Read(content[3<<20:])
	return content
}

// Seal makes SHA256SUMS anew, as sha256sum(1) does.
func Seal(files fstest.MapFS) {
	delete(files, "SHA256SUMS")
	var sums strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&sums, "%s  %s\n", digest.FromBytes(files[name].Data).Encoded(), name)
	}
	files["SHA256SUMS"] = &fstest.MapFile{Data: []byte(sums.String())}
}
