// Package report writes what a build did as one web page that needs nothing else: no
// network, no script. It makes bytes of values, reads nothing, and takes every text in them
// for hostile.
package report

import (
	"bytes"
	_ "embed" // of the page
	"encoding/base64"
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/text"
)

// Build is what is told of a build.
type Build struct {
	Name, Description, Version, Architecture, ID string
	Vmctl, Repository, Revision                  string
	Built, Created                               time.Time
	Source                                       string
	Pinned                                       string // digest of a source that was downloaded
	Archives                                     []Archive
	Requirements                                 []string // roles and collections from elsewhere
	Layers                                       []Layer  // the lowest first
	Stages                                       []Stage
	Disk                                         File
	Outputs                                      []File
	Tested                                       bool
	Boots                                        []Boot
	Deferred                                     []string // what comes with the first boot
	Starts                                       []string // units that are enabled
	Facts                                        []Facts
	Packages                                     []debian.Package
	Tools                                        []Tool // of the machine that built
}

// Archive is the state of an archive that packages came from.
type Archive struct{ URL, SHA256 string }

// Layer is what a stage made of the tree below it.
type Layer struct {
	Stage          string
	Entries        []Entry // of the definition
	Files, Removed int     // names, but for folders that are added
	Bytes          int64   // in the files
	Whole          bool    // both are of the whole tree, which was copied
	Packages       []debian.Difference
}

// Facts is the names of those that an entry reads.
type Facts struct {
	Origin string // file:line
	Names  []string
}

// Entry is an entry of a definition.
type Entry struct {
	Origin string // file:line
	Name   string
	Note   string // what it is made of
}

// Stage is how long a stage took.
type Stage struct {
	Title   string
	Seconds float64
	Stored  bool // its result was there already
}

// File is an image.
type File struct {
	Name, Format, SHA256 string
	Size                 int64 // bytes
}

// Tool is a program, and its version.
type Tool struct{ Name, Version string }

// Boot is a boot test.
type Boot struct {
	Name, Proof, Problem, Accel string // Name as the firmware
	Passed                      bool
	Seconds                     float64
	Earlier                     time.Time // of the boot that it is of, where the disk was not booted again
	Guest                       *Guest    // nil where it said nothing of itself
	Console                     string
	Cut                         bool // the console's begin is left out
	Screens                     []Screen
}

// Screen is what a guest's screen showed.
type Screen struct {
	Moment string
	PNG    []byte
}

// Guest is what a guest said of itself.
type Guest struct {
	State, Kernel, SecureBoot, Root string
	Failed, Jobs                    []string // units
	Systemd                         int
	Seconds                         float64 // from kernel to running
}

// view is what the page shows.
type view struct {
	Build
	Before  *Build
	Times   []times
	Images  []sizes
	Gone    []File              // images that the build before had, and this one has not
	Changes []debian.Difference // of packages, since the build before
	Total   float64             // seconds
	Earlier float64             // seconds, of the build before
}

// times is how long a stage took, now and before.
type times struct {
	Stage
	Percent float64 // of the longest stage
	Known   bool    // the build before had it, too
	Before  float64
	Reused  bool // that one found its result
}

// sizes is an image, and how large it was before.
type sizes struct {
	File
	Known  bool
	Before int64
}

//go:embed report.html
var source string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"line": text.Line, "console": console, "bytes": size, "more": more, "seconds": seconds, "later": later, "count": count,
	"kinds": kindsOf, "picture": picture,
	"day":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") },
	"units": func(names []string) string { return text.Line(strings.Join(names, " ")) },
}).Parse(source))

// Page is the page of a build, and of what differs from the one before it; nil for none.
func Page(now Build, before *Build) ([]byte, error) {
	v := view{Build: now, Before: before}
	v.compare()
	var out bytes.Buffer
	err := page.Execute(&out, v)
	return out.Bytes(), err
}

// compare fills in what is told beside the build before.
func (v *view) compare() {
	var before Build
	if v.Before != nil {
		before = *v.Before
		v.Changes = debian.Differences(before.Packages, v.Packages)
	}
	earlier := map[string]Stage{}
	for _, s := range before.Stages {
		earlier[s.Title] = s
		v.Earlier += s.Seconds
	}
	longest := 0.0
	for _, s := range v.Stages {
		longest = max(longest, s.Seconds)
		v.Total += s.Seconds
	}
	for _, s := range v.Stages {
		was, known := earlier[s.Title]
		t := times{Stage: s, Known: known, Before: was.Seconds, Reused: was.Stored}
		if longest > 0 {
			t.Percent = 100 * s.Seconds / longest
		}
		v.Times = append(v.Times, t)
	}
	v.compareImages(before.Outputs)
}

// compareImages goes by names: some formats are several files.
func (v *view) compareImages(before []File) {
	gone := slices.Clone(before)
	for _, f := range v.Outputs {
		image := sizes{File: f}
		if i := slices.IndexFunc(gone, func(was File) bool { return was.Name == f.Name }); i >= 0 {
			image.Known, image.Before = true, gone[i].Size
			gone = slices.Delete(gone, i, i+1)
		}
		v.Images = append(v.Images, image)
	}
	v.Gone = gone
}

// kinds is how many packages came, went and changed.
type kinds struct{ Added, Changed, Removed int }

func kindsOf(all []debian.Difference) (k kinds) {
	for _, d := range all {
		switch {
		case d.Before == "":
			k.Added++
		case d.After == "":
			k.Removed++
		default:
			k.Changed++
		}
	}
	return k
}

// String is "3 added, 1 changed".
func (k kinds) String() string {
	var parts []string
	for _, part := range []struct {
		n    int
		what string
	}{{k.Added, "added"}, {k.Changed, "changed"}, {k.Removed, "removed"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return strings.Join(parts, ", ")
}

// picture is a picture as an address of its own.
func picture(png []byte) template.URL {
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(png))
}

// size is a number of bytes for people.
func size(n int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if n >= unit.bytes {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(unit.bytes), unit.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// more is how much larger something is now.
func more(now, before int64) string {
	switch {
	case now > before:
		return "+" + size(now-before)
	case now < before:
		return "−" + size(before-now)
	}
	return "±0"
}

func seconds(s float64) string {
	if s < 0.05 {
		return "<0.1 s"
	}
	return fmt.Sprintf("%.1f s", s)
}

// later is how much longer something takes now.
func later(now, before float64) string {
	switch d := now - before; {
	case d >= 0.05:
		return fmt.Sprintf("+%.1f s", d)
	case d <= -0.05:
		return fmt.Sprintf("−%.1f s", -d)
	}
	return "±0"
}

// count is a number with a thin space between thousands.
func count(n int) string {
	digits := fmt.Sprint(n)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "\u202f" + digits[at:]
	}
	return digits
}

// styles is how terminals are told of colours and places (ECMA-48, control sequences).
var styles = regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]`)

// console is what a guest has written, without colours and carriage returns; what else cannot
// be seen is shown as its escape.
func console(s string) string {
	return text.Lines(strings.ReplaceAll(styles.ReplaceAllString(s, ""), "\r", ""))
}
