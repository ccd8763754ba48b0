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
	image := &spdx.Package{
		PackageName: r.Name, PackageSPDXIdentifier: "Image", PackageVersion: r.Version, PackageFileName: d.Name,
		PackageChecksums:      []common.Checksum{{Algorithm: common.SHA256, Value: d.Digest.Encoded()}},
		PrimaryPackagePurpose: "OPERATING-SYSTEM", PackageSummary: r.Description,
	}
	packages := slices.SortedFunc(slices.Values(r.Packages), func(a, b debian.Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Architecture, b.Architecture))
	})
	var parts []*spdx.Package
	for _, p := range packages {
		parts = append(parts, &spdx.Package{
			PackageName: p.Name, PackageSPDXIdentifier: common.ElementID("Package-" + idString(p.Name+"-"+p.Architecture)), PackageVersion: p.Version,
			PackageSourceInfo: fmt.Sprintf("built from the source package %s %s", p.Source, p.SourceVersion),
			PackageExternalReferences: []*spdx.PackageExternalReference{{
				Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl(r, p),
			}},
		})
	}
	return writeSPDX(d.Name, r.BuildID, r.Tool, r.Created, image, parts)
}

// writeSPDX is the document of a file that holds all of the parts. What nobody has looked
// into, such as licenses, is said to be unknown.
func writeSPDX(name, id, tool string, created time.Time, whole *spdx.Package, parts []*spdx.Package) ([]byte, error) {
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      name,
		DocumentNamespace: fmt.Sprintf("https://spdx.org/spdxdocs/%s-%s", url.PathEscape(name), id),
		CreationInfo: &spdx.CreationInfo{
			Created:  created.UTC().Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: strings.ReplaceAll(tool, " ", "-")}},
		},
		Packages:      append([]*spdx.Package{whole}, parts...),
		Relationships: []*spdx.Relationship{relation("DOCUMENT", common.TypeRelationshipDescribe, whole.PackageSPDXIdentifier)},
	}
	for _, part := range parts {
		part.PackageSupplier = &common.Supplier{SupplierType: "NOASSERTION", Supplier: "NOASSERTION"}
		doc.Relationships = append(doc.Relationships, relation(whole.PackageSPDXIdentifier, common.TypeRelationshipContains, part.PackageSPDXIdentifier))
	}
	for _, p := range doc.Packages {
		p.PackageDownloadLocation, p.PackageLicenseConcluded, p.PackageLicenseDeclared, p.PackageCopyrightText = "NOASSERTION", "NOASSERTION", "NOASSERTION", "NOASSERTION"
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
	s := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", escapePURL(p.Name), strings.ReplaceAll(escapePURL(p.Version), ":", "%3A"), url.QueryEscape(p.Architecture))
	if r.Version != "" {
		s += "&distro=debian-" + url.QueryEscape(r.Version)
	}
	return s
}

func escapePURL(s string) string { return strings.ReplaceAll(url.PathEscape(s), "+", "%2B") }
