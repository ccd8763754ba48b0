package artifact

import (
	"bytes"
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/btw-img/btw-img/orchestrator/debian"
)

// sbom is an SPDX 2.3 document, in JSON, of the packages that the disk's dpkg
// database lists.
func sbom(r Release, d Disk) ([]byte, error) {
	const image = "Image"
	unknown := func(p *spdx.Package) *spdx.Package {
		p.PackageDownloadLocation, p.PackageLicenseConcluded, p.PackageLicenseDeclared, p.PackageCopyrightText = "NOASSERTION", "NOASSERTION", "NOASSERTION", "NOASSERTION"
		return p
	}
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      d.Name,
		DocumentNamespace: fmt.Sprintf("https://spdx.org/spdxdocs/%s-%s", url.PathEscape(d.Name), r.BuildID),
		CreationInfo: &spdx.CreationInfo{
			Created:  r.Created.UTC().Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: strings.ReplaceAll(r.Tool, " ", "-")}},
		},
		Packages: []*spdx.Package{unknown(&spdx.Package{
			PackageName: r.Name, PackageSPDXIdentifier: image, PackageVersion: r.Version, PackageFileName: d.Name,
			PackageChecksums:      []common.Checksum{{Algorithm: common.SHA256, Value: d.Digest.Encoded()}},
			PrimaryPackagePurpose: "OPERATING-SYSTEM", PackageSummary: r.Description,
		})},
		Relationships: []*spdx.Relationship{relation("DOCUMENT", common.TypeRelationshipDescribe, image)},
	}
	packages := slices.SortedFunc(slices.Values(r.Packages), func(a, b debian.Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Architecture, b.Architecture))
	})
	for _, p := range packages {
		id := common.ElementID("Package-" + idString(p.Name+"-"+p.Architecture))
		doc.Packages = append(doc.Packages, unknown(&spdx.Package{
			PackageName: p.Name, PackageSPDXIdentifier: id, PackageVersion: p.Version,
			PackageSupplier:   &common.Supplier{SupplierType: "NOASSERTION", Supplier: "NOASSERTION"},
			PackageSourceInfo: fmt.Sprintf("built from the source package %s %s", p.Source, p.SourceVersion),
			PackageExternalReferences: []*spdx.PackageExternalReference{{
				Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl(r, p),
			}},
		}))
		doc.Relationships = append(doc.Relationships, relation(image, common.TypeRelationshipContains, id))
	}
	var out bytes.Buffer
	err := spdxjson.Write(doc, &out)
	return out.Bytes(), err
}

func relation(a common.ElementID, kind string, b common.ElementID) *spdx.Relationship {
	return &spdx.Relationship{RefA: common.MakeDocElementID("", string(a)), RefB: common.MakeDocElementID("", string(b)), Relationship: kind}
}

// idString replaces what an SPDX identifier may not hold (SPDX 2.3, 3.2). A
// plus sign becomes a word, so that g and g++ stay apart.
func idString(s string) string {
	s = strings.ReplaceAll(s, "+", "-plus")
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, s)
}

// purl is the package URL of a Debian package
// (package-url/purl-spec, types/deb).
func purl(r Release, p debian.Package) string {
	escape := func(s string) string { return strings.ReplaceAll(url.PathEscape(s), "+", "%2B") }
	s := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", escape(p.Name), strings.ReplaceAll(escape(p.Version), ":", "%3A"), url.QueryEscape(p.Architecture))
	if r.Version != "" {
		s += "&distro=debian-" + url.QueryEscape(r.Version)
	}
	return s
}
