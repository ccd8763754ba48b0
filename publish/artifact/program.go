package artifact

import (
	"cmp"
	"debug/buildinfo"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// ProgramSBOM is an SPDX 2.3 document, in JSON, of the modules that a Go program was linked
// of, as it tells itself: all but its own version, and the date.
func ProgramSBOM(file fs.File, version string, created time.Time) ([]byte, error) {
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	content, ok := file.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s can only be read from its beginning", stat.Name())
	}
	info, err := buildinfo.Read(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stat.Name(), err)
	}
	sum, err := digest.FromReader(io.NewSectionReader(content, 0, stat.Size()))
	if err != nil {
		return nil, err
	}
	program := module(debug.Module{Path: info.Main.Path, Version: version})
	program.PackageName, program.PackageSPDXIdentifier = path.Base(info.Path), "Program"
	program.PackageFileName, program.PrimaryPackagePurpose = stat.Name(), "APPLICATION"
	program.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: sum.Encoded()}}
	parts := []*spdx.Package{module(debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")})}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		parts = append(parts, module(*m))
	}
	slices.SortFunc(parts, func(a, b *spdx.Package) int { return cmp.Compare(a.PackageName, b.PackageName) })
	return writeSPDX(stat.Name(), sum.Encoded(), "vmctl "+version, created, program, parts)
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
