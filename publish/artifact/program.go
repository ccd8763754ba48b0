package artifact

import (
	"cmp"
	"debug/buildinfo"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// ProgramSBOM is an SPDX 2.3 document, in JSON, of the modules that a Go program was linked
// of, as it tells itself. It says no version of its own, and no date.
func ProgramSBOM(path, version string, created time.Time) ([]byte, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	sum, err := digest.FromReader(file)
	if err != nil {
		return nil, err
	}
	program := module(debug.Module{Path: info.Main.Path, Version: version})
	program.PackageName, program.PackageSPDXIdentifier = filepath.Base(info.Path), "Program"
	program.PackageFileName, program.PrimaryPackagePurpose = filepath.Base(path), "APPLICATION"
	program.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: sum.Encoded()}}
	parts := []*spdx.Package{module(debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")})}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		parts = append(parts, module(*m))
	}
	slices.SortFunc(parts, func(a, b *spdx.Package) int { return cmp.Compare(a.PackageName, b.PackageName) })
	return writeSPDX(filepath.Base(path), sum.Encoded(), "vmctl "+version, created, program, parts)
}

// module is a Go module with its package URL (package-url/purl-spec, types/golang).
func module(m debug.Module) *spdx.Package {
	p := &spdx.Package{
		PackageName: m.Path, PackageSPDXIdentifier: common.ElementID("Module-" + idString(m.Path)), PackageVersion: m.Version,
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
			Locator: "pkg:golang/" + strings.ToLower(m.Path) + "@" + escapePURL(m.Version),
		}},
	}
	if m.Sum != "" {
		p.PackageSourceInfo = "go.sum has " + m.Sum
	}
	return p
}
