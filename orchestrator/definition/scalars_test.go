package definition_test

import (
	"encoding/json"
	"slices"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/definition"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]definition.Size{
		"1": 1, "512M": 512 * definition.MiB, "2G": 2 * definition.GiB, "2g": 2 * definition.GiB, "2GiB": 2 * definition.GiB, "2GB": 2 * definition.GiB,
		"1.5T": 1536 * definition.GiB, "4 K": 4 * definition.KiB, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := definition.ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "1X", "G", "1.5.5G", "9223372036854775808", "8388608T", "1e9", "0.0000000001K", "9999999999.9T"} {
		if got, err := definition.ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, seed := range []string{"1", "2G", "1.5T", "0", "99999999999999999999", "1KiB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := definition.ParseSize(text)
		if err != nil {
			return
		}
		if size <= 0 {
			t.Errorf("ParseSize(%q) = %d", text, size)
		}
		if again, err := definition.ParseSize(size.String()); err != nil || again != size {
			t.Errorf("%q became %s, then %d, %v", text, size, again, err)
		}
	})
}

func TestModeIsWhatTheUserWrote(t *testing.T) {
	for text, want := range map[string]definition.Mode{"0644": "0644", "644": "0644", `"0755"`: "0755", "0o600": "0600", "4755": "4755", "0000": "0000"} {
		var mode definition.Mode
		if err := yaml.Load([]byte(text), &mode); err != nil || mode != want {
			t.Errorf("%s is read as %q, %v; want %q", text, mode, err, want)
		}
	}
}

func TestALayoutInJSONIsWhatTheUserWrites(t *testing.T) {
	list := definition.Layout{Partitions: []definition.Partition{{Label: "root", Size: 2 * definition.GiB, Filesystem: "xfs", Mount: "/", Options: "noatime"}, {Type: "bios"}}}
	for text, want := range map[string]definition.Layout{
		`"efi"`: {Name: "efi"},
		`[{"label":"root","size":"2G","filesystem":"xfs","mount":"/","options":"noatime"},{"type":"bios"}]`: list,
	} {
		out, err := json.Marshal(want)
		if err != nil || string(out) != text {
			t.Errorf("%+v is %s, %v; want %s", want, out, err, text)
		}
	}
	for text, want := range map[string]definition.Layout{
		`"efi"`: {Name: "efi"}, `[{"label": "root", "size": "2G", "filesystem": "xfs", "mount": "/", "options": "noatime"}, {"type": "bios"}]`: list,
		`{"Name":"efi","Partitions":null}`: {Name: "efi"}, // of older builds
		`{"Name":"","Partitions":[{"label":"root","size":"2G","filesystem":"xfs","mount":"/","options":"noatime"},{"type":"bios","size":"0"}]}`: list,
	} {
		got := struct{ Layout definition.Layout }{definition.Layout{Name: "stale", Partitions: list.Partitions[:1]}}
		err := json.Unmarshal([]byte(`{"layout":`+text+`}`), &got)
		if err != nil || got.Layout.Name != want.Name || !slices.Equal(got.Layout.Partitions, want.Partitions) {
			t.Errorf("%s is read as %+v, %v", text, got.Layout, err)
		}
	}
}

func TestADefinitionSurvivesJSON(t *testing.T) {
	for _, name := range []string{"webserver", "x"} {
		d := load(t, map[string]string{"install.d/x.yml": base + "disk: {size: 4G, layout: [{type: bios}, {mount: /, filesystem: btrfs, options: compress=zstd}]}"}, name)
		first, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var back definition.Definition
		if err := json.Unmarshal(first, &back); err != nil {
			t.Fatal(err)
		}
		if second, err := json.Marshal(back); err != nil || string(first) != string(second) {
			t.Errorf("%v\n%s\nbecame\n%s", err, first, second)
		}
	}
}
