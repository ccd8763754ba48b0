package report_test

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/orchestrator/report"
)

func at(day int) time.Time { return time.Date(2026, 3, day, 12, 0, 0, 0, time.UTC) }

// web is a build with all that a report tells.
func web() report.Build {
	return report.Build{
		Name: "web", Description: "A web server", Version: "13", Architecture: "amd64", ID: "0b6d", Vmctl: "1.2",
		Repository: "https://git.example.com/images", Revision: "abc123", Built: at(2), Created: at(1),
		Source: "bootstrap trixie minbase", Pinned: "sha256:bbbb", Archives: []report.Archive{{URL: "http://archive.example.com/dists/trixie/InRelease", SHA256: "aaaa"}},
		Requirements: []string{"role example.nginx 1.0"},
		Layers: []report.Layer{
			{Stage: "Source", Files: 10978, Bytes: 398_300_000, Packages: []debian.Difference{{Name: "bash", Architecture: "amd64", After: "5.2"}, {Name: "nginx", Architecture: "amd64", After: "1.0"}}, Entries: []report.Entry{{Origin: "install.d/web.yml:3", Name: "Kernel", Note: "its packages"}}},
			{Stage: "Layer web", Files: 7, Removed: 2, Bytes: 900, Entries: []report.Entry{{Origin: "install.d/web.yml:9", Name: "Pages", Note: "files: 2"}}, Packages: []debian.Difference{{Name: "nginx", Architecture: "amd64", Before: "1.0", After: "1.1"}}},
			{Stage: "Layer web", Files: 11000, Bytes: 400_000_000, Whole: true},
		},
		Stages:  []report.Stage{{Title: "Source", Seconds: 30, Stored: true}, {Title: "Layer web", Seconds: 15}, {Title: "Convert", Seconds: 0.001}},
		Disk:    report.File{Size: 2 << 30, SHA256: "dddd"},
		Outputs: []report.File{{Name: "web.qcow2", Format: "qcow2", Size: 150_000_000, SHA256: "cccc"}, {Name: "web.raw", Format: "raw", Size: 2 << 30, SHA256: "dddd"}},
		Tested:  true,
		Boots: []report.Boot{
			{
				Name: "bios", Passed: true, Proof: "report", Accel: "kvm", Seconds: 12, Console: "\x1b[0;32mOK\x1b[0m Started\r\n\x1b]0;title\x07login:\r\n", Cut: true, Earlier: at(1),
				Screens: []report.Screen{{Moment: "the boot loader", PNG: []byte("\x89PNG")}},
				Guest:   &report.Guest{State: "running", Systemd: 257, Kernel: "6.12.1", SecureBoot: "unsupported", Root: "/dev/vda3,ext4", Seconds: 9.5},
			},
			{Name: "uefi", Problem: "two units failed", Accel: "tcg", Seconds: 60, Guest: &report.Guest{State: "degraded", Failed: []string{"a.service", "b.service"}, Jobs: []string{"c.service"}}},
		},
		Deferred: []string{"systemctl start nginx"}, Starts: []string{"cron.service", "nginx.service"},
		Facts:    []report.Facts{{Origin: "install.d/web.yml:9", Names: []string{"*", "hostname"}}},
		Packages: []debian.Package{{Name: "bash", Version: "5.2", Architecture: "amd64"}, {Name: "nginx", Version: "1.1", Architecture: "amd64"}},
		Tools:    []report.Tool{{Name: "mmdebstrap", Version: "1.5"}},
	}
}

// before is the build before it.
func before() *report.Build {
	b := web()
	b.Built, b.Revision, b.Vmctl, b.Disk.SHA256 = at(1), "", "1.1", "eeee"
	b.Stages = []report.Stage{{Title: "Source", Seconds: 31}, {Title: "Layer web", Seconds: 10, Stored: true}}
	b.Outputs = []report.File{{Name: "web.qcow2", Format: "qcow2", Size: 149_000_000}, {Name: "web.vmdk", Format: "vmdk", Size: 1000}}
	b.Packages = []debian.Package{{Name: "bash", Version: "5.1", Architecture: "amd64"}, {Name: "vim", Version: "9", Architecture: "amd64"}}
	return &b
}

func page(t *testing.T, now report.Build, before *report.Build) string {
	t.Helper()
	out, err := report.Page(now, before)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestPage(t *testing.T) {
	golden.Equal(t, "first.golden.html", page(t, web(), nil))
	golden.Equal(t, "next.golden.html", page(t, web(), before()))
	golden.Equal(t, "empty.golden.html", page(t, report.Build{Name: "x"}, nil))
}

// Whatever text of a build is hostile, it stays text.
func TestEveryTextIsShownAsText(t *testing.T) {
	const hostile = "\x1b[31m\u202e</pre></td><script>alert(1)</script><img src=http://h/x onerror='alert(1)'>\"'"
	told := map[string]int{}
	infected := func(with string) string {
		now, before := web(), before()
		for _, b := range []*report.Build{&now, before} {
			infect(reflect.ValueOf(b).Elem(), "Build", with, told)
		}
		return page(t, now, before)
	}
	out := infected(hostile)
	if len(told) < 40 {
		t.Errorf("only %d texts were tried: %v", len(told), told)
	}
	for _, never := range []string{"<script", "<img src=http", "\x1b", "\u202e", "javascript:"} {
		if strings.Contains(out, never) {
			t.Errorf("the page has %q", never)
		}
	}
	tags := regexp.MustCompile(`</?[a-z0-9]+`)
	if got, want := tags.FindAllString(out, -1), tags.FindAllString(infected("harmless"), -1); !slices.Equal(got, want) {
		t.Errorf("%d tags instead of %d", len(got), len(want))
	}
	if !strings.Contains(out, `&lt;script&gt;alert(1)`) || !strings.Contains(out, `\x1b`) {
		t.Error("the texts are not shown")
	}
}

// infect makes every text a hostile one.
func infect(v reflect.Value, path, with string, told map[string]int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(with)
		told[path]++
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			infect(v.Field(i), path+"."+v.Type().Field(i).Name, with, told)
		}
	case reflect.Slice:
		for i := range v.Len() {
			infect(v.Index(i), path, with, told)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			infect(v.Elem(), path, with, told)
		}
	}
}

// A browser gets nothing from elsewhere for the page, and runs nothing.
func TestNothingIsLoaded(t *testing.T) {
	const picture = `<img src="data:image/png;base64,iVBORw==" alt="Screen of bios: the boot loader">`
	all := page(t, web(), before())
	out := strings.ReplaceAll(all, picture, "")
	if out == all {
		t.Error("there is no picture")
	}
	if found := regexp.MustCompile(`(?i)<(script|link|img|iframe|object|form)|\b(src|href|srcset|action)=|url\(|@import|\bon[a-z]+=`).FindString(out); found != "" {
		t.Errorf("the page has %q", found)
	}
	if !strings.Contains(out, `content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"`) {
		t.Error("the browser is not told so")
	}
}

func TestSizesAndTimesForPeople(t *testing.T) {
	out := page(t, web(), before())
	for _, want := range []string{
		"10\u202f978", "398.3 MB", "2.1 GB", "900 B", "&#43;1.0 MB", "&lt;0.1 s", "45.0 s", "&#43;4.0 s now", "1 added, 1 changed, 1 removed",
		`width: 100.0%`, `width: 50.0%`, "from the store", "10.0 s (stored)", "OK Started\n\\x1b]0;title\\x07login:\n", "a.service b.service", "No longer written: web.vmdk, vmdk, 1.0 kB",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
